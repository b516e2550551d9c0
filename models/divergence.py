"""How far quantized networks' answers are from the float network's, image by image."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..spaces import BitAllocation, ModelError
from .engine import Engine, NonFiniteError
from .quantized import QuantizedModel

CHUNK = 64
"""Images of one pass: the least that can be asked for."""

_EXAMPLES = 4
"""Images on which the engine compares its kernels with the reference."""


class LogitDivergence:
    """KL(float || quantized) of the softmax of the logits, in nats, for every image.

    It needs no labels, differs between allocations that classify every image alike, and falls on
    the float network's 0 smoothly: the cheapest signal that still sees the whole network.

    Args:
        model: A calibrated network.
        batches: Images with labels, which are ignored.
        limit: Most images used; all if None.

    Raises:
        ModelError: If there are no images, or the float network's logits for one are not finite.

    Attributes:
        count: How many images there are.
    """

    def __init__(
        self,
        model: QuantizedModel,
        batches: Sequence[tuple[Tensor, Tensor]],
        limit: int | None = None,
    ) -> None:
        if not batches:
            raise ModelError("a divergence needs at least one batch of images, got none")
        images = torch.cat([x for x, _ in batches])[:limit]
        self.count = len(images)
        self._chunks = list(torch.split(images, CHUNK))
        self._engine = Engine(model, images[:_EXAMPLES])
        self._expected: list[Tensor] = []
        for chunk in self._chunks:
            self._expected.append(self._log_softmax([None], chunk)[0])
            if not torch.isfinite(self._expected[-1]).all():
                raise ModelError(
                    "the float network's logits for a calibration image are not finite"
                )

    def __call__(
        self, allocations: Sequence[BitAllocation], start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the divergences of ``n`` allocations on the images of some chunks.

        Args:
            allocations: The widths.
            start: First chunk of `CHUNK` images.
            stop: Chunk to end before; all there are if None.

        Returns:
            ``n x images``; infinite where logits are not finite.
        """
        # Neighbours in this order have most layers in common, which are then computed once.
        order = sorted(range(len(allocations)), key=lambda i: _widths(allocations[i]))
        groups = self._engine.together([allocations[i] for i in order])
        columns = []
        for chunk, expected in zip(
            self._chunks[start:stop], self._expected[start:stop], strict=True
        ):
            values = np.empty((len(allocations), len(chunk)))
            for group in groups:
                rows = [order[number] for number in group]
                found = self._log_softmax([allocations[row] for row in rows], chunk)
                for row, log_q in zip(rows, found, strict=True):
                    each = (expected.exp() * (expected - log_q)).sum(dim=1)
                    values[row] = torch.nan_to_num(each, nan=torch.inf).numpy()
            columns.append(values)
        return np.concatenate(columns, axis=1) if columns else np.empty((len(allocations), 0))

    def _log_softmax(
        self, allocations: Sequence[BitAllocation | None], images: Tensor
    ) -> list[Tensor]:
        try:
            logits = self._engine.forward_each(images, allocations)
        except NonFiniteError:
            if len(allocations) > 1:
                return [self._log_softmax([one], images)[0] for one in allocations]
            return [torch.full((len(images), 1), torch.nan, dtype=torch.float64)]
        return [found.double().log_softmax(dim=1) for found in logits]


def _widths(allocation: BitAllocation) -> list[tuple[bytes, bytes]]:
    return [
        (np.asarray(weight, np.uint8).tobytes(), np.asarray(activation, np.uint8).tobytes())
        for weight, activation in zip(allocation.weights, allocation.activations, strict=True)
    ]
