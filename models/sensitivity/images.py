"""The images that scores are computed from, in batches of one size."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...spaces import Layer, ModelError

_BYTES = 256 * 2**20
"""Most memory for the inputs and outputs of all layers, which gradients need, for one batch."""

_LEAST, _MOST = 8, 128
"""Images of one batch: fewer are slow, more are no faster."""


def batch_size(layers: Sequence[Layer]) -> int:
    """Return the images of a batch: it follows from the network, so that scores do, too."""
    per_image = 4 * sum(layer.input_count + layer.output_count for layer in layers)
    return min(max(_BYTES // per_image, _LEAST), _MOST)


class LabelledImages:
    """The first so many of some images, in batches of one size, however they are given.

    Args:
        batches: ``b x c x h x w`` images with ``b`` labels.
        size: Images of a batch.
        limit: Most images taken; all if None.
        device: Where batches are wanted.

    Raises:
        ModelError: If there are none.

    Attributes:
        count: Number of images.
    """

    def __init__(
        self,
        batches: Sequence[tuple[Tensor, Tensor]],
        size: int,
        limit: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._batches = batches
        self._size = size
        self._device = device
        available = sum(len(x) for x, _ in batches)
        self.count = available if limit is None else min(limit, available)
        if not self.count:
            raise ModelError("sensitivity scores need at least one calibration image, got none")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        held: list[tuple[Tensor, Tensor]] = []
        room = self._size
        for x, labels in self._parts():
            held.append((x, labels))
            room -= len(x)
            if not room:
                yield self._joined(held)
                held, room = [], self._size
        if held:
            yield self._joined(held)

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images in pieces that end where batches end, and maybe before."""
        done = 0
        for x, labels in self._batches:
            start = 0
            while start < len(x) and done < self.count:
                stop = start + min(self._size - done % self._size, self.count - done)
                part = x[start:stop]
                yield part, labels[start:stop]
                done += len(part)
                start = stop

    def _joined(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return x.to(self._device), labels.to(self._device)
