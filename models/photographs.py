"""Photographs in folders: ImageNet and its like, and the Oxford-IIIT Pets."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import DataError
from .config import DataConfig
from .sources import Dataset, TransformedSource, eval_transform
from .torchvision_ops import declare_missing_operators

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_SIZE, _CROP_PCT = 224, 0.875
_PET_BREEDS = 37


def read_image_folder(root: Path, config: DataConfig) -> Dataset:
    """Read a folder of class folders, or one that holds ``train`` and ``val`` of that kind.

    Args:
        root: The folder.
        config: Size, crop and interpolation.

    Returns:
        One part, or with ``train`` and ``val`` two. Nothing is decoded yet.

    Raises:
        DataError: If there are no images, or ``train`` and ``val`` differ in their classes.
    """
    if not (root / "train").is_dir():
        source, classes = _folder(root, config)
        return Dataset(source, None, len(classes), _MEAN, _STD)
    train, classes = _folder(root / "train", config)
    test, test_classes = _folder(root / "val", config)
    if classes != test_classes:
        raise DataError(
            f"'train' and 'val' in {str(root)!r} must hold the same class folders: "
            f"{sorted(set(classes) ^ set(test_classes))[:3]} are in one of them only"
        )
    return Dataset(train, test, len(classes), _MEAN, _STD)


def read_oxford_pets(root: Path, config: DataConfig) -> Dataset:
    """Read the Oxford-IIIT Pets (37 breeds) with torchvision's class.

    Args:
        root: The folder that holds ``oxford-iiit-pet``.
        config: Size, crop and interpolation.

    Raises:
        DataError: If the folder is missing or incomplete.
    """
    declare_missing_operators()
    from torchvision.datasets import OxfordIIITPet

    def part(split: str) -> TransformedSource:
        try:
            pets = OxfordIIITPet(root, split=split, target_types="category", download=False)
        except (RuntimeError, OSError, ValueError):
            raise DataError(
                f"no Oxford-IIIT Pets in {str(root)!r}: expected 'oxford-iiit-pet/images' and "
                f"'oxford-iiit-pet/annotations/{split}.txt'; set data.root or BITFRONT_DATA to "
                "the folder that holds 'oxford-iiit-pet'"
            ) from None
        # The labels are private there; asking for them image by image would decode every image.
        return _source(pets._labels, functools.partial(_open, pets), config)

    return Dataset(part("trainval"), part("test"), _PET_BREEDS, _MEAN, _STD)


def _folder(root: Path, config: DataConfig) -> tuple[TransformedSource, list[str]]:
    declare_missing_operators()
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(root)
    except FileNotFoundError as error:
        raise DataError(
            f"no images in {str(root)!r}: expected one folder per class with image files in it "
            f"({error}); set data.root to that folder"
        ) from None
    return _source(folder.targets, functools.partial(_open, folder), config), folder.classes


def _source(labels: list[int], open_image: Any, config: DataConfig) -> TransformedSource:
    transform = eval_transform(
        config.image_size or _SIZE, config.crop_pct or _CROP_PCT, config.interpolation
    )
    return TransformedSource(np.asarray(labels, dtype=np.int64), open_image, transform)


def _open(images: Any, index: int) -> Any:
    """Return the PIL image at an index of one of torchvision's data sets."""
    image, _ = images[index]
    return image
