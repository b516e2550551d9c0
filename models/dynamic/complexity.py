"""How complex an input is: the entropy of the histogram of its values."""

import numpy as np
import numpy.typing as npt

from ..images import ImageSet

BINS = 32
"""Bins of a histogram, equally wide over the range of values."""

_BLOCK = 4096


def input_entropies(images: ImageSet, limit: int | None = None) -> npt.NDArray[np.float64]:
    """Return the entropy of the values of each image, in bits: 0 for one value, at most 5.

    Bins are the same for all images. They cover 0 to 255 for images of bytes, and for others the
    range from the smallest to the largest value of the set.

    Args:
        images: The images.
        limit: Take only the first so many.

    Returns:
        One entropy for each image, of all its channels together.
    """
    pixels = images.images[: len(images) if limit is None else limit]
    low, high = (0.0, 256.0) if pixels.dtype == np.uint8 else _range(images.images)
    found = [
        _entropies(pixels[start : start + _BLOCK], low, high)
        for start in range(0, len(pixels), _BLOCK)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _entropies(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32], low: float, high: float
) -> npt.NDArray[np.float64]:
    count = len(pixels)
    values = pixels.reshape(count, -1).astype(np.float64)
    bins = np.clip(((values - low) * (BINS / (high - low))).astype(np.int64), 0, BINS - 1)
    bins += BINS * np.arange(count)[:, None]
    counts = np.bincount(bins.ravel(), minlength=BINS * count).reshape(count, BINS)
    shares = counts / values.shape[1]
    logs = np.log2(np.where(shares > 0, shares, 1.0))
    return np.asarray(np.abs((shares * logs).sum(axis=1)), dtype=np.float64)


def _range(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(pixels.min()), float(pixels.max())
    return low, high if high > low else low + 1.0
