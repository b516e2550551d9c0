"""Handwritten digits and pictures of clothes: scikit-learn's digits, MNIST and Fashion-MNIST."""

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import DataError
from .sources import ArraySource, Dataset
from .torchvision_ops import declare_missing_operators

_MNIST_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_STATISTICS = {"MNIST": ((0.1307,), (0.3081,)), "FashionMNIST": ((0.2860,), (0.3530,))}


def read_digits() -> Dataset:
    """Return the 1,797 8x8 digits that scikit-learn holds; every third one is the test part.

    The images come writer after writer, so that this gives each writer to both parts.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Grey levels 0 to 16 become 0 to 255, so that all images are uint8.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    is_test = np.arange(len(labels)) % 3 == 2
    train = ArraySource(images[~is_test], labels[~is_test])
    test = ArraySource(images[is_test], labels[is_test])
    return Dataset(train, test, classes=10, mean=(0.305,), std=(0.376,))


def read_mnist(class_name: str, root: Path) -> Dataset:
    """Read MNIST or Fashion-MNIST with torchvision's class.

    The four files may be unpacked or ``.gz``; the folder may be read-only.

    Args:
        class_name: ``MNIST`` or ``FashionMNIST``.
        root: The folder that holds ``<class name>/raw``.

    Raises:
        DataError: If a file is missing or damaged.
    """
    raw = root / class_name / "raw"
    files = [f"{name}-ubyte" for name in _MNIST_FILES]
    if all((raw / name).is_file() for name in files):
        return _read_unpacked(class_name, root)
    if missing := [name for name in files if not (raw / f"{name}.gz").is_file()]:
        raise DataError(
            f"no {class_name} in {str(raw)!r}: {missing[0]!r} or {missing[0] + '.gz'!r} is missing;"
            f" set data.root or BITFRONT_DATA to the folder that holds '{class_name}/raw'"
        )
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch) / class_name / "raw"
        unpacked.mkdir(parents=True)
        for name in files:
            _unpack(raw / f"{name}.gz", unpacked / name)
        return _read_unpacked(class_name, Path(scratch))


def _unpack(source: Path, target: Path) -> None:
    try:
        with gzip.open(source) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (OSError, EOFError) as error:
        raise DataError(f"{str(source)!r} cannot be unpacked: {error}") from None


def _read_unpacked(class_name: str, root: Path) -> Dataset:
    declare_missing_operators()
    import torchvision

    def part(train: bool) -> ArraySource:
        data: Any = getattr(torchvision.datasets, class_name)(root, train=train, download=False)
        return ArraySource(data.data.numpy()[:, None], data.targets.numpy())

    mean, std = _STATISTICS[class_name]
    return Dataset(part(train=True), part(train=False), classes=10, mean=mean, std=std)
