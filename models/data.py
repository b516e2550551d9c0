"""Real images by name: found, read, split. Nothing is ever downloaded."""

import dataclasses
from pathlib import Path

from .cifar import CIFAR10, CIFAR100, read_cifar
from .config import DataConfig, data_names
from .digits import read_digits, read_mnist
from .locate import data_folder
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
    return read_image_folder(_root(config), config)


def _root(config: DataConfig) -> Path:
    """Return the folder of data that has one."""
    folder = data_folder(config)
    assert folder is not None
    return folder


def _resized(source: Source, config: DataConfig) -> Source:
    assert isinstance(source, ArraySource) and config.image_size is not None
    if config.crop_pct is None and source.images.shape[2:] == (config.image_size,) * 2:
        return source
    return resized(source, config.image_size, config.crop_pct, config.interpolation)
