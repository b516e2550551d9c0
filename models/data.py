"""Real images by name: found, read, split. Nothing is ever downloaded."""

import dataclasses
import os
from pathlib import Path

from ..spaces import DataError
from .cifar import CIFAR10, CIFAR100, read_cifar
from .config import DataConfig, data_names
from .digits import read_digits, read_mnist
from .photographs import read_image_folder, read_oxford_pets
from .sources import ArraySource, Dataset, Source, resized
from .splits import Splits, read_splits

__all__ = ["DataConfig", "data_names", "load_data"]


def load_data(config: DataConfig) -> Splits:
    """Read a data set and draw its three disjoint splits.

    Images are decoded and held as uint8 only where a split needs them; the training images not
    before somebody asks for them.

    Args:
        config: Which data set, where, and how many images for what.

    Raises:
        DataError: If the data is missing or malformed, or has too few images.
    """
    dataset = _read(config)
    if isinstance(dataset.train, ArraySource) and config.image_size is not None:
        dataset = dataclasses.replace(
            dataset,
            train=_resized(dataset.train, config),
            test=None if dataset.test is None else _resized(dataset.test, config),
        )
    return read_splits(dataset, config)


def _read(config: DataConfig) -> Dataset:
    match config.name:
        case "digits":
            return read_digits()
        case "mnist":
            return read_mnist("MNIST", _root(config))
        case "fashion-mnist":
            return read_mnist("FashionMNIST", _root(config))
        case "cifar10":
            return read_cifar(CIFAR10, _root(config))
        case "cifar100":
            return read_cifar(CIFAR100, _root(config))
        case "oxford-pets":
            return read_oxford_pets(_root(config), config)
    if config.root is None:
        raise DataError(
            "image-folder needs data.root: the folder that holds one folder per class, absolute "
            "or under BITFRONT_DATA"
        )
    return read_image_folder(_root(config), config)


def _root(config: DataConfig) -> Path:
    """Return the folder the data is looked for in.

    Raises:
        DataError: If none is given, or it does not exist.
    """
    shared = os.environ.get("BITFRONT_DATA")
    candidates = []
    if config.root is not None:
        candidates.append(Path(config.root).expanduser())
    if shared is not None:
        candidates.append(Path(shared).expanduser() / (config.root or ""))
    if not candidates:
        raise DataError(
            f"where is {config.name!r}? set data.root or the environment variable BITFRONT_DATA "
            "to the folder that holds the data; nothing is downloaded"
        )
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"no folder for {config.name!r}: looked for "
        f"{', '.join(repr(str(candidate)) for candidate in candidates)}; set data.root or the "
        "environment variable BITFRONT_DATA to the folder that holds the data"
    )


def _resized(source: Source, config: DataConfig) -> Source:
    assert isinstance(source, ArraySource) and config.image_size is not None
    if config.crop_pct is None and source.images.shape[2:] == (config.image_size,) * 2:
        return source
    return resized(source, config.image_size, config.crop_pct, config.interpolation)
