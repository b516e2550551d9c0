"""What narrower channels lose, input by input, to second order: what selectors begin with.

With logits ``z``, their distance from what they were, ``|dz|^2 / 2`` without what all classes have
in common, is KL divergence at a high temperature (Hinton, Vinyals, Dean, arXiv:1503.02531). What a
channel adds to it by the rounding ``dx`` of a width is ``|J dx|^2 / 2`` with the Jacobian ``J`` of
the logits. For a random direction ``v`` with unit covariance the mean of ``(v J dx)^2`` is
``|J dx|^2``, and ``v J`` is one backward pass for all channels and widths at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantized import QuantizedModel
from ..quantizers import fake_quantize
from .container import Container
from .gates import StatisticsGate
from .operands import Slot, gated


@dataclass(frozen=True, eq=False)
class Losses:
    """What is known of an operand's channels in ``n`` inputs.

    Attributes:
        statistics: What a selector looks at, ``n x decisions x 4``.
        lost: What each width but the widest loses, ``n x decisions x (widths - 1)``.
    """

    statistics: Tensor
    lost: Tensor


class RecordingGate(StatisticsGate):
    """Lets values pass as they are, and takes down what each width would lose.

    Attributes:
        seen: Statistics, batch by batch.
        lost: Squares, batch by batch, summed over the directions since `forget`.
    """

    def __init__(self, gate: StatisticsGate) -> None:
        super().__init__(gate.widths, gate.layout, gate.positions, gate.per)
        self.seen: Tensor | None = None
        self.lost: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """That it asks for gradients."""
        return True

    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the widest everywhere."""
        return torch.full((len(x), self.layout.decisions), len(self.widths) - 1)

    def quantized(self, x: Tensor, container: Container) -> Tensor:
        """Return the operand itself."""
        self.layout.check(x)
        self.seen = self.statistics(x, container).expand(len(x), -1, -1)
        self.lost = None
        kept = x.detach()
        out = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()

        @torch.no_grad()
        def arrived(gradient: Tensor) -> None:
            parts = []
            for place in range(len(self.widths) - 1):
                change = fake_quantize(kept, container.grid(place)).sub_(kept).mul_(gradient)
                parts.append(self.layout.summed(change).square().mul(0.5))
            found = torch.stack(parts, dim=-1)
            self.lost = found if self.lost is None else self.lost + found

        out.register_hook(arrived)  # type: ignore[no-untyped-call]
        return out


def measured_losses(
    model: QuantizedModel,
    gates: Mapping[Slot, StatisticsGate],
    batches: Sequence[Tensor],
    directions: int,
    generator: torch.Generator,
) -> dict[Slot, Losses]:
    """Return what narrower channels lose.

    Args:
        model: The network at its weights' widths.
        gates: For every operand that chooses, a gate of its widths, layout and statistics.
        batches: Images.
        directions: Backward passes of each.
        generator: Draws the directions.
    """
    recording = {slot: RecordingGate(gate) for slot, gate in gates.items()}
    found: dict[Slot, list[tuple[Tensor, Tensor]]] = {slot: [] for slot in gates}
    with gated(model, recording), torch.enable_grad():
        for x in batches:
            logits = model(x)
            for number in range(directions):
                v = centred(torch.randn(logits.shape, generator=generator).to(logits))
                torch.autograd.backward(logits, v, retain_graph=number + 1 < directions)
            for slot, gate in recording.items():
                assert gate.seen is not None and gate.lost is not None
                found[slot].append((gate.seen, gate.lost / directions))
    return {
        slot: Losses(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        for slot, rows in found.items()
    }


def centred(logits: Tensor) -> Tensor:
    """Return logits less what all classes have in common, which no answer depends on."""
    return logits - logits.mean(1, keepdim=True)
