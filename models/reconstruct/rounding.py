"""Learned rounding, scales and bias of one layer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568: a
weight takes the grid point below or above it, ``scale * clip(floor(w / scale) + h(v))``. The
rectified sigmoid ``h(v) = clip(sigmoid(v) * (zeta - gamma) + gamma, 0, 1)`` starts at the fraction
that ``floor`` cuts off, so that the weight starts where it is in float.

Beyond the papers, the scale of every output channel and the bias are learned, too: they are kept in
float anyway.
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
    """The weights and the bias of a layer while they are learned.

    Args:
        layer: A plain layer.
        bits: Widths of its weights; channels of 8 and more bits keep their nearest codes, their
            scales and their bias.

    Attributes:
        v: What decides the rounding, in the shape of the weights.
        log_factor: Logarithm of every channel's scale over the one it started with.
        bias_change: What is added to the bias; None if there is no bias.
    """

    def __init__(self, layer: QuantizedWeightLayer, bits: Bits) -> None:
        self._layer = layer
        weight, bias = layer.inner.get_parameter("weight").detach(), layer.inner._parameters["bias"]
        self._bias = None if bias is None else bias.detach()
        with torch.no_grad():
            grid = layer.weight_grid(weight, bits)
        assert isinstance(grid.scale, Tensor)
        self._scale = grid.scale
        self._low, self._high = (
            torch.as_tensor(end, dtype=weight.dtype, device=weight.device)
            for end in (grid.lowest, grid.highest)
        )
        self._widths = np.broadcast_to(np.asarray(bits), (len(weight),))
        self._is_learned = torch.from_numpy(self._widths < CONTAINER_BITS).to(weight.device)
        self._column = (-1, *[1] * (weight.dim() - 1))
        self._nearest = quantize(weight, grid)
        self._floor = torch.floor(weight / self._scale)
        self._before = {width: layer.repairs.at(width) for width in self._narrow()}
        fraction = (weight / self._scale - self._floor).clamp(_DECIDED, 1 - _DECIDED)
        self.v = torch.logit((fraction - GAMMA) / (ZETA - GAMMA)).requires_grad_()
        self.log_factor = weight.new_zeros(len(weight)).requires_grad_()
        self.bias_change = None
        if self._bias is not None:
            self.bias_change = torch.zeros_like(self._bias).requires_grad_()

    def rounding(self) -> Tensor:
        """Return h(v): 0 is down, 1 is up, and what is between is undecided."""
        return torch.clamp(torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def decided(self) -> Tensor:
        """Return the rounding with every weight up or down."""
        return (self.v.detach() >= 0).to(self.v)

    def undecided(self, rounding: Tensor, beta: float) -> Tensor:
        """Return the mean of ``1 - |2h - 1|^beta`` over the weights that are learned."""
        distance = 1 - (2 * rounding - 1).abs().pow(beta)
        return distance.flatten(1).mean(1)[self._is_learned].mean()

    def weight(self, rounding: Tensor) -> Tensor:
        """Return the weights for a rounding between 0 and 1."""
        return self._codes(rounding) * self._scales()

    def bias(self) -> Tensor | None:
        """Return the bias."""
        if self._bias is None or self.bias_change is None:
            return None
        return self._bias + self.bias_change * self._is_learned

    @torch.no_grad()
    def put_in_force(self) -> None:
        """Let the layer compute with what was learned, at its widths below 8.

        Rows of channels that have another width hold their nearest codes at this one.
        """
        codes, scales, bias = self._codes(self.decided()), self._scales(), self.bias()
        weight = self._layer.inner.get_parameter("weight")
        for width in self._narrow():
            own = torch.from_numpy(self._widths == width).to(codes.device).view(self._column)
            grid = self._layer.weight_grid(weight, width)
            self._layer.repairs[width] = RepairedWeight(
                torch.where(own, codes, quantize(weight, grid)).to(torch.int8),
                torch.where(own, scales, grid.scale).flatten(),
                bias,
            )

    def put_out_of_force(self) -> None:
        """Let the layer be as it was before `put_in_force`."""
        for width, before in self._before.items():
            if before is None:
                del self._layer.repairs[width]
            else:
                self._layer.repairs[width] = before

    def _narrow(self) -> list[int]:
        """Return the widths of channels that are learned."""
        return [int(width) for width in np.unique(self._widths) if width < CONTAINER_BITS]

    def _codes(self, rounding: Tensor) -> Tensor:
        is_learned = self._is_learned.view(self._column)
        codes = torch.where(is_learned, self._floor + rounding, self._nearest)
        return torch.maximum(torch.minimum(codes, self._high), self._low)

    def _scales(self) -> Tensor:
        """Return the scales by output channel, shaped to broadcast against the weights."""
        return self._scale * torch.exp(self.log_factor * self._is_learned).view(self._column)
