"""Learned rounding of one layer's weights.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568: a
weight takes the grid point below or above it, ``scale * clip(floor(w / scale) + h(v))``. The
rectified sigmoid ``h(v) = clip(sigmoid(v) * (zeta - gamma) + gamma, 0, 1)`` starts at the fraction
that ``floor`` cuts off, so that the weight starts where it is in float.
"""

import numpy as np
import torch
from torch import Tensor

from ...spaces import Bits
from ..quantized_layers import QuantizedWeightLayer, RepairedWeight
from ..quantizers import CONTAINER_BITS, quantize

GAMMA, ZETA = -0.1, 1.1
_DECIDED = 1e-4
"""Fractions closer than this to 0 or 1 start from here: beyond, the sigmoid has no gradient."""


class SoftWeight:
    """The weights of a layer while their rounding is learned.

    Args:
        layer: A plain layer.
        bits: Widths of its weights; channels of 8 and more bits keep their nearest codes.

    Attributes:
        v: What is learned, in the shape of the weights.
    """

    def __init__(self, layer: QuantizedWeightLayer, bits: Bits) -> None:
        self._layer = layer
        weight = layer.inner.get_parameter("weight").detach()
        with torch.no_grad():
            grid = layer.weight_grid(weight, bits)
        assert isinstance(grid.scale, Tensor)
        self._scale = grid.scale
        self._low, self._high = (
            torch.as_tensor(end, dtype=weight.dtype, device=weight.device)
            for end in (grid.lowest, grid.highest)
        )
        self._widths = np.broadcast_to(np.asarray(bits), (len(weight),))
        narrow = torch.from_numpy(self._widths < CONTAINER_BITS).to(weight.device)
        self._is_learned = narrow.view(-1, *[1] * (weight.dim() - 1))
        self._nearest = quantize(weight, grid)
        self._floor = torch.floor(weight / self._scale)
        fraction = (weight / self._scale - self._floor).clamp(_DECIDED, 1 - _DECIDED)
        self.v = torch.logit((fraction - GAMMA) / (ZETA - GAMMA)).requires_grad_()
        self._before = {width: layer.repairs.at(width) for width in self._narrow()}

    def rounding(self) -> Tensor:
        """Return h(v): 0 is down, 1 is up, and what is between is undecided."""
        return torch.clamp(torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def weight(self, rounding: Tensor) -> Tensor:
        """Return the weights for a rounding between 0 and 1."""
        return self._codes(rounding) * self._scale

    def undecided(self, rounding: Tensor, beta: float) -> Tensor:
        """Return the sum of ``1 - |2h - 1|^beta`` over the weights that are learned."""
        distance = 1 - (2 * rounding - 1).abs().pow(beta)
        return (distance * self._is_learned).sum()

    def decided(self) -> Tensor:
        """Return the rounding with every weight up or down."""
        return (self.v.detach() >= 0).to(self.v)

    @torch.no_grad()
    def put_in_force(self) -> None:
        """Let the layer take the decided weights at its widths below 8.

        Rows of channels that have another width hold their nearest codes at this one.
        """
        inner, codes = self._layer.inner, self._codes(self.decided())
        weight, bias = inner.get_parameter("weight"), inner._parameters["bias"]
        kept = None if bias is None else bias.detach().clone()
        for width in self._narrow():
            grid = self._layer.weight_grid(weight, width)
            assert isinstance(grid.scale, Tensor)
            own = torch.from_numpy(self._widths == width).to(codes.device)
            rows = torch.where(own.view(self._is_learned.shape), codes, quantize(weight, grid))
            self._layer.repairs[width] = RepairedWeight(
                rows.to(torch.int8), grid.scale.flatten(), kept
            )

    def put_out_of_force(self) -> None:
        """Let the layer be as it was before `put_in_force`."""
        for width, before in self._before.items():
            if before is None:
                del self._layer.repairs[width]
            else:
                self._layer.repairs[width] = before

    def _narrow(self) -> list[int]:
        """Return the widths of channels whose rounding is learned."""
        return [int(width) for width in np.unique(self._widths) if width < CONTAINER_BITS]

    def _codes(self, rounding: Tensor) -> Tensor:
        codes = torch.where(self._is_learned, self._floor + rounding, self._nearest)
        return torch.maximum(torch.minimum(codes, self._high), self._low)
