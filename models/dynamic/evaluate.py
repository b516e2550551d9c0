"""What a network answers to every image, and what it chose meanwhile."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..evaluate import Counts
from ..images import ImageSet
from .gates import Gate
from .operands import Slot

Indices = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to ``n`` images.

    Attributes:
        logits: ``[n, classes]``.
        labels: ``[n]``.
        wall_s: Wall time of the pass.
        choices: For each gated operand which of its widths was chosen, ``[n, decisions]``.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    wall_s: float
    choices: Mapping[Slot, Indices] = field(default_factory=dict)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which images were answered with their label."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)

    @cached_property
    def loss_sum(self) -> float:
        """Cross-entropy summed over the images, in nats."""
        exact = torch.from_numpy(self.logits).double()
        return float(cross_entropy(exact, torch.from_numpy(self.labels), reduction="sum"))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats; NaN without images."""
        return self.loss_sum / len(self.labels) if len(self.labels) else math.nan

    def counts(self) -> Counts:
        """Return what an evaluation of a static network counts, too."""
        finite = bool(np.isfinite(self.logits).all())
        return Counts(int(self.right.sum()), self.loss_sum, len(self.labels), self.wall_s, finite)


@torch.inference_mode()
def answers(
    run: Callable[[Tensor], Tensor],
    images: ImageSet,
    batch_size: int,
    limit: int | None = None,
    gates: Mapping[Slot, Gate] | None = None,
) -> Answers:
    """Return what a network answers to images, in order.

    Args:
        run: Gives the logits of a batch.
        images: The images.
        batch_size: Images per batch.
        limit: Take only the first so many.
        gates: What chooses in that network, if anything does; what it chose is taken down.
    """
    started = time.perf_counter()
    logits, labels = [], []
    chosen: dict[Slot, list[Indices]] = {slot: [] for slot in gates or {}}
    for x, y in images.batches(batch_size, limit):
        logits.append(run(x).float().cpu().numpy())
        labels.append(y.numpy())
        for slot, gate in (gates or {}).items():
            assert gate.last is not None
            chosen[slot].append(gate.last.cpu().numpy().astype(np.uint8))
    return Answers(
        np.concatenate(logits),
        np.concatenate(labels),
        time.perf_counter() - started,
        {slot: np.concatenate(parts) for slot, parts in chosen.items()},
    )
