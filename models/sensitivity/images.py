"""The images that scores are computed from, in batches of one size."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...spaces import ModelError

BATCH = 32
"""Images of one pass. Of its own choice, so that scores do not depend on how images are given, and
small: gradients need the activations of the whole network, which caches hold for few images."""


class LabelledImages:
    """The first so many of some images, in batches of `BATCH`.

    Args:
        batches: ``b x c x h x w`` images with ``b`` labels.
        limit: Most images taken; all if None.

    Raises:
        ModelError: If there are none.

    Attributes:
        count: Number of images.
    """

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]], limit: int | None = None) -> None:
        self._batches = batches
        available = sum(len(x) for x, _ in batches)
        self.count = available if limit is None else min(limit, available)
        if not self.count:
            raise ModelError("sensitivity scores need at least one calibration image, got none")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.count
        xs: list[Tensor] = []
        labels: list[Tensor] = []
        held = 0
        for x, y in self._batches:
            x, y = x[:left], y[:left]
            left -= len(x)
            while len(x):
                room = BATCH - held
                xs.append(x[:room])
                labels.append(y[:room])
                held += len(x[:room])
                x, y = x[room:], y[room:]
                if held == BATCH:
                    yield torch.cat(xs), torch.cat(labels)
                    xs, labels, held = [], [], 0
        if held:
            yield torch.cat(xs), torch.cat(labels)
