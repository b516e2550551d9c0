"""What a quantizer learns besides its width: the range of the weights, and that of an activation.

A learned range is kept as the logarithm of what it is times its beginning: so it stays positive,
and a step of the optimizer changes it by the same share whatever its size. What it begins with is
what loses least at the width in force, which may be another one at every step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...spaces import FLOAT_BITS
from ..config import ActivationScheme
from ..dynamic.container import Container
from ..dynamic.gates import TrainableGate
from ..dynamic.quantize import select
from ..observers import Range, weight_fraction
from ..quantizers import CONTAINER_BITS
from .config import ActivationRanges, WeightRanges
from .quantize import LearnedGrid, affine_grid, quantize_through, refined, symmetric_grid

STARTS = (2, 3, 4, 5, 6, 7, 8)
"""Widths that ranges have a beginning for."""

MOMENTUM = 0.01
"""Share of a batch in the moving average of extremes."""

_TURNED_AT = 3
"""Width at which it is decided whether a channel's grid is turned round: where it matters."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Several widths at once, each with a probability.

    Attributes:
        bits: The widths.
        probabilities: One per width.
    """

    bits: Sequence[int]
    probabilities: Tensor


Width = Tensor | Mixture
"""One real width as a tensor without dimensions, or several."""


class RangeQuantizer(nn.Module):
    """Quantizes one tensor at widths given with each call; subclasses know its range."""

    starts: Tensor

    def forward(self, x: Tensor, width: Width) -> Tensor:
        """Return the quantized tensor; itself at 32 bits."""
        if not isinstance(width, Mixture):
            if width.item() >= FLOAT_BITS:
                return x
            self.follow(x)
            return self.quantized(x, width)
        self.follow(x)
        parts = zip(width.bits, width.probabilities.unbind(), strict=True)
        return torch.stack([p * self._at(x, bits) for bits, p in parts]).sum(0)

    def follow(self, x: Tensor) -> None:
        """Take a batch into account, where a range follows what passes."""

    def start(self, bits: float) -> Tensor:
        """Return the range that a width begins with: between whole widths one in between.

        So a range does not have to be learned anew whenever its width is another.
        """
        at = min(max(bits, STARTS[0]), STARTS[-1]) - STARTS[0]
        at = min(at, len(self.starts) - 1.0)
        low = math.floor(at)
        if low == at:
            return self.starts[low]
        return torch.lerp(self.starts[low], self.starts[low + 1], at - low)

    def _at(self, x: Tensor, bits: int) -> Tensor:
        if bits >= FLOAT_BITS:
            return x
        return self.quantized(x, torch.tensor(float(bits), device=x.device))

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the tensor quantized at a width below 32."""
        raise NotImplementedError


class ActivationQuantizer(RangeQuantizer):
    """Quantizes an activation, with one range for the whole tensor.

    Args:
        ends: Lower and upper end to begin with, for each of the widths `STARTS`; or one for all.
        kind: How the ends follow the data.
        scheme: ``affine``, or ``symmetric`` with the upper end as the largest magnitude.

    Attributes:
        gate: Chooses the widths of its channels in place of the one that is set; None if nothing
            does. All that it may choose share one range.
    """

    gate: TrainableGate | None = None

    def __init__(
        self, ends: Sequence[Range], kind: ActivationRanges, scheme: ActivationScheme
    ) -> None:
        super().__init__()
        self.kind, self.scheme = kind, scheme
        rows = [(min(low, 0.0), max(high, 0.0)) for low, high in ends]
        # Where nothing but zeros was seen, a range of no size could never grow.
        rows = [(low, 1.0 if low == high else high) for low, high in rows]
        self.register_buffer("starts", torch.tensor(rows[-1:] if kind == "minmax" else rows))
        self.log_ratio = None if kind == "minmax" else nn.Parameter(torch.zeros(2))

    def ends(self, bits: float) -> tuple[Tensor, Tensor]:
        """Return the ends of the range at a width, as they are learned; an end at 0 stays there."""
        start = self.start(bits)
        now = start if self.log_ratio is None else start * self.log_ratio.exp()
        low, high = now.unbind()
        return -high if self.scheme == "symmetric" else low, high

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the activation quantized."""
        if self.gate is not None:
            return self._chosen(x, self.gate)
        low, high = self.ends(bits.item())
        if self.kind != "pact":
            return quantize_through(x, self._grid(low, high, bits))
        # Only what is clipped moves an end; it is clipped where the points end.
        grid = self._grid(low.detach(), high.detach(), bits)
        low = low + (grid.bottom * grid.scale - low).detach()
        high = high + (grid.top * grid.scale - high).detach()
        return quantize_through(torch.clamp(x, low, high), grid)

    def _chosen(self, x: Tensor, gate: TrainableGate) -> Tensor:
        """Return the activation at the widths of a gate, on grids as `channel_grid` has them."""
        narrowest, widest = gate.widths[0], gate.widths[-1]
        low, high = self.ends(widest)
        ends = low.item(), high.item()
        container = Container.of(dict.fromkeys(gate.widths, ends), gate.widths, self.scheme)
        coarsest = self._grid(low, high, torch.tensor(float(narrowest), device=x.device))
        points = [quantize_through(x, refined(coarsest, b - narrowest)) for b in gate.widths]
        return select(points, gate.gates(x, container), gate.layout)

    def _grid(self, low: Tensor, high: Tensor, bits: Tensor) -> LearnedGrid:
        if self.scheme == "symmetric":
            return symmetric_grid(high, bits)
        return affine_grid(low, high, bits)

    @torch.no_grad()
    def follow(self, x: Tensor) -> None:
        """Move the ends of ``minmax`` towards the extremes of a batch of training."""
        if self.kind != "minmax" or not self.training:
            return
        low, high = torch.aminmax(x)
        ends = torch.stack([low.clamp(max=0), high.clamp(min=0)])
        if self.scheme == "symmetric":
            ends = ends.abs().max() * torch.tensor([-1.0, 1.0], device=x.device)
        self.starts.lerp_(ends.to(self.starts), MOMENTUM)


class WeightQuantizer(RangeQuantizer):
    """Quantizes the weights of a layer, with one range for each output channel.

    Args:
        weight: The weights to begin with, channels first.
        kind: How ranges follow the weights.
    """

    turned: Tensor

    def __init__(self, weight: Tensor, kind: WeightRanges) -> None:
        super().__init__()
        self.kind = kind
        column = (-1, *[1] * (weight.dim() - 1))
        largest = weight.detach().flatten(1).abs().amax(1)
        # From a range of no size weights of zeros, as heads may begin with, could never grow.
        largest = torch.where(largest > 0, largest, weight[0].numel() ** -0.5)
        if kind == "minmax":  # no weight then ever takes the extra code
            turned = torch.zeros_like(largest, dtype=torch.bool)
            self.log_ratio = None
        else:
            turned = weight_fraction(weight, _TURNED_AT, "mse") < 0
            shares = [weight_fraction(weight, bits, "mse").abs() for bits in STARTS]
            starts = torch.stack([(largest * share).view(column) for share in shares])
            self.register_buffer("starts", starts)
            self.log_ratio = nn.Parameter(torch.zeros_like(largest).view(column))
        self.register_buffer("turned", turned.view(column))

    def largest(self, weight: Tensor, bits: float) -> Tensor:
        """Return the magnitude that takes the largest code, by channel.

        Weights wider than 8 bits are deployed with their own largest magnitude.
        """
        if self.log_ratio is None or bits > CONTAINER_BITS:
            return weight.detach().abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        return self.start(bits) * self.log_ratio.exp()

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the weights quantized."""
        return quantize_through(x, symmetric_grid(self.largest(x, bits.item()), bits, self.turned))

    def scales(self, weight: Tensor, bits: float) -> Tensor:
        """Return the distance of the points by channel, ``[out]``; negative for turned grids."""
        grid = symmetric_grid(
            self.largest(weight, bits), torch.tensor(float(bits), device=weight.device)
        )
        return torch.where(self.turned, -grid.scale, grid.scale).flatten()
