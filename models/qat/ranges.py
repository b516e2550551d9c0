"""What a quantizer learns besides its width: the range of the weights, and that of an activation.

A learned range is kept as the logarithm of what it is times its beginning: so it stays positive,
and a step of the optimizer changes it by the same share whatever its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...spaces import FLOAT_BITS
from ..config import ActivationScheme
from ..observers import Range, weight_fraction
from ..quantizers import CONTAINER_BITS
from .config import ActivationRanges, WeightRanges
from .quantize import LearnedGrid, affine_grid, quantize_through, symmetric_grid

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

    def forward(self, x: Tensor, width: Width) -> Tensor:
        """Return the quantized tensor; itself at 32 bits."""
        if isinstance(width, Mixture):
            parts = zip(width.bits, width.probabilities.unbind(), strict=True)
            terms = [p * self(x, torch.tensor(float(bits), device=x.device)) for bits, p in parts]
            return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]
        if width.item() >= FLOAT_BITS:
            return x
        return self.quantized(x, width)

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the tensor quantized at a width below 32."""
        raise NotImplementedError


class ActivationQuantizer(RangeQuantizer):
    """Quantizes an activation, with one range for the whole tensor.

    Args:
        ends: Lower and upper end to begin with.
        kind: How the ends follow the data.
        scheme: ``affine``, or ``symmetric`` with the upper end as the largest magnitude.
    """

    start: Tensor

    def __init__(self, ends: Range, kind: ActivationRanges, scheme: ActivationScheme) -> None:
        super().__init__()
        self.kind, self.scheme = kind, scheme
        low, high = min(ends[0], 0.0), max(ends[1], 0.0)
        if low == high:  # nothing but zeros was seen; a range of no size could never grow
            high = 1.0
        self.register_buffer("start", torch.tensor([low, high]))
        self.log_ratio = None if kind == "minmax" else nn.Parameter(torch.zeros(2))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the range, as they are learned; an end at 0 stays there."""
        now = self.start if self.log_ratio is None else self.start * self.log_ratio.exp()
        low, high = now.unbind()
        return -high if self.scheme == "symmetric" else low, high

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the activation quantized."""
        if self.kind == "minmax" and self.training:
            self._follow(x)
        low, high = self.ends()
        if self.kind != "pact":
            return quantize_through(x, self._grid(low, high, bits))
        # Only what is clipped moves an end; it is clipped where the points end.
        grid = self._grid(low.detach(), high.detach(), bits)
        low = low + (grid.bottom * grid.scale - low).detach()
        high = high + (grid.top * grid.scale - high).detach()
        return quantize_through(torch.clamp(x, low, high), grid)

    def _grid(self, low: Tensor, high: Tensor, bits: Tensor) -> LearnedGrid:
        if self.scheme == "symmetric":
            return symmetric_grid(high, bits)
        return affine_grid(low, high, bits)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        ends = torch.stack([low.clamp(max=0), high.clamp(min=0)])
        if self.scheme == "symmetric":
            ends = ends.abs().max() * torch.tensor([-1.0, 1.0], device=x.device)
        self.start.lerp_(ends.to(self.start), MOMENTUM)


class WeightQuantizer(RangeQuantizer):
    """Quantizes the weights of a layer, with one range for each output channel.

    Args:
        weight: The weights to begin with, channels first.
        kind: How ranges follow the weights.
        bits: Width to begin with: what learned ranges begin for.
    """

    start: Tensor
    turned: Tensor

    def __init__(self, weight: Tensor, kind: WeightRanges, bits: int) -> None:
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
            largest = largest * weight_fraction(weight, bits, "mse").abs()
            self.log_ratio = nn.Parameter(torch.zeros_like(largest).view(column))
        self.register_buffer("start", largest.view(column))
        self.register_buffer("turned", turned.view(column))

    def largest(self, weight: Tensor, bits: float) -> Tensor:
        """Return the magnitude that takes the largest code, by channel.

        Weights wider than 8 bits are deployed with their own largest magnitude.
        """
        if self.log_ratio is None or bits > CONTAINER_BITS:
            return weight.detach().abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        return self.start * self.log_ratio.exp()

    def quantized(self, x: Tensor, bits: Tensor) -> Tensor:
        """Return the weights quantized."""
        return quantize_through(x, symmetric_grid(self.largest(x, bits.item()), bits, self.turned))

    def scales(self, weight: Tensor, bits: float) -> Tensor:
        """Return the distance of the points by channel, ``[out]``; negative for turned grids."""
        grid = symmetric_grid(self.largest(weight, bits), torch.tensor(bits, device=weight.device))
        return torch.where(self.turned, -grid.scale, grid.scale).flatten()
