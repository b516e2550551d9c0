"""What a data set is before it is split: labels, and a way to read the images one needs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..spaces import DataError
from .images import Indices, Labels, Pixels
from .torchvision_ops import declare_missing_operators


class Source(Protocol):
    """One part of a data set: all its labels, and images read by index."""

    @property
    def labels(self) -> Labels:
        """``[n]`` class labels, from 0."""
        ...

    def read(self, indices: Indices) -> Pixels:
        """Return the images at ``indices``, ``[k, channels, height, width]``."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images that are in memory already.

    Attributes:
        images: ``[n, channels, height, width]``.
        labels: ``[n]``.
    """

    images: Pixels
    labels: Labels

    def read(self, indices: Indices) -> Pixels:
        """Return the images at ``indices``."""
        return self.images[indices]


@dataclass(frozen=True, eq=False)
class TransformedSource:
    """Images that are decoded, resized and cropped when they are read.

    Attributes:
        labels: ``[n]``.
        open_image: Returns the PIL image at an index.
        transform: Turns a PIL image into a uint8 tensor ``[channels, height, width]``.
    """

    labels: Labels
    open_image: Callable[[int], Any]
    transform: Callable[[Any], Any]

    def read(self, indices: Indices) -> Pixels:
        """Return the images at ``indices``, as uint8.

        Raises:
            DataError: If an image cannot be decoded.
        """
        images = []
        for index in indices:
            try:
                images.append(np.asarray(self.transform(self.open_image(int(index)))))
            except OSError as error:
                raise DataError(f"image {index} cannot be read: {error}") from None
        return np.stack(images)


def resized(
    source: ArraySource, size: int, crop_pct: float | None, interpolation: str
) -> TransformedSource:
    """Return the source's uint8 images resized and cropped as timm does it.

    Args:
        source: Small images.
        size: Side of the result.
        crop_pct: Side of the centre crop over the resized short side; 1 if None.
        interpolation: ``bilinear``, ``bicubic``, ``nearest`` or ``lanczos``.
    """
    transform = eval_transform(size, crop_pct or 1.0, interpolation)
    return TransformedSource(source.labels, functools.partial(_pil_image, source.images), transform)


def eval_transform(size: int, crop_pct: float, interpolation: str) -> Callable[[Any], Any]:
    """Return timm's transform for evaluation, up to the normalisation: PIL image to uint8."""
    declare_missing_operators()
    from timm.data.transforms_factory import transforms_imagenet_eval

    transform: Callable[[Any], Any] = transforms_imagenet_eval(
        size, crop_pct=crop_pct, interpolation=interpolation, normalize=False
    )
    return transform


def _pil_image(images: Pixels, index: int) -> Any:
    from PIL import Image

    channels_last = images[index].transpose(1, 2, 0)
    return Image.fromarray(channels_last[:, :, 0] if len(images[index]) == 1 else channels_last)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as it lies on disk.

    Attributes:
        train: The part that may be trained on.
        test: The part kept for the test; None if there is one part only.
        classes: Number of classes.
        mean: Its usual mean per channel, on the scale 0 to 1.
        std: Its usual standard deviation per channel.
        notes: What a reader of the results should know of it.
    """

    train: Source
    test: Source | None
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
