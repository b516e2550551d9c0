"""Images in memory, turned into normalised batches when asked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..spaces import DataError

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their labels.

    The arrays are numpy's, so that processes can share them without a copy.

    Attributes:
        images: ``[n, channels, height, width]``; uint8 stands for 0 to 1 in steps of 1/255, and
            float32 for itself.
        labels: ``[n]``, from 0.
        mean: Per channel, subtracted from the images on the scale 0 to 1.
        std: Per channel, the images are divided by it.

    Raises:
        DataError: If shapes do not fit.
    """

    images: Pixels
    labels: Labels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                "images must be [n, channels, height, width] and labels [n], "
                f"got {self.images.shape} and {self.labels.shape}"
            )
        channels = self.images.shape[1]
        if not len(self.mean) == len(self.std) == channels:
            raise DataError(
                f"mean and std need one value for each of {channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of the content: pixels, labels and normalisation, in order."""
        header = (self.images.dtype.str, self.images.shape, self.mean, self.std)
        digest = hashlib.sha256(repr(header).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:32]

    def subset(self, indices: Indices) -> "ImageSet":
        """Return the images at ``indices``, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def beginning(self, count: int) -> "ImageSet":
        """Return the first ``count`` images, or all if there are no more."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def batch(self, indices: Indices | slice) -> tuple[Tensor, Tensor]:
        """Return normalised images ``[k, channels, height, width]`` and their labels ``[k]``."""
        # Indexing by a slice gives a view that may be read-only; astype copies it.
        images = torch.from_numpy(self.images[indices].astype(np.float32))
        if self.images.dtype == np.uint8:
            images.div_(255)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return images.sub_(mean).div_(std), torch.from_numpy(self.labels[indices].copy())

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and labels, in order.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            limit: Stop after so many images.
        """
        end = len(self) if limit is None else min(limit, len(self))
        for start in range(0, end, batch_size):
            yield self.batch(slice(start, min(start + batch_size, end)))
