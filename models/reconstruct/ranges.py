"""Learned range of one activation's quantizer.

Esser et al., "Learned Step Size Quantization", arXiv:1902.08153: the step is a parameter, and its
gradient passes through rounding as if there were none. The zero point stays as calibrated, so that
the learned range has the same share below zero.
"""

import torch
from torch import Tensor

from ..quantized_layers import ActivationQuantizer


class LearnedRange:
    """Quantizes an activation on a grid whose step is learned.

    Args:
        quantizer: Calibrated; gives the grid to start from.
        bits: One width for all channels, of at most 16 bits.
        is_affine: Whether the smallest code stands for the lower end, as in the affine scheme.

    Attributes:
        log_step: What is learned: the logarithm of the step over that of the start.
    """

    def __init__(self, quantizer: ActivationQuantizer, bits: int, is_affine: bool) -> None:
        grid = quantizer.grid(bits)
        assert not isinstance(grid.scale, Tensor)
        self._quantizer, self._bits, self._is_affine = quantizer, bits, is_affine
        self._low = int(grid.lowest - grid.zero_point)
        self._high = int(grid.highest - grid.zero_point)
        self._start = torch.tensor(grid.scale)
        self._before = quantizer.range(bits)
        self.log_step = torch.zeros(()).requires_grad_()

    def __call__(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the quantized activation.

        Args:
            x: The activation.
            kept: Where to quantize, and not to leave the value as it is; everywhere if None.
        """
        step = self._step()
        scaled = x / step
        codes = scaled + (scaled.round() - scaled).detach()
        points = codes.clamp(self._low, self._high) * step
        return points if kept is None else torch.where(kept, points, x)

    def put_in_force(self) -> None:
        """Let the quantizer take the learned range for this width from now on."""
        # Products of a float32 and a whole number of 16 bits are exact in float64: the quantizer
        # finds the very step again, and the zero point.
        step = float(self._step().detach())
        low = self._low if self._is_affine else -self._high
        self._quantizer.override(self._bits, (low * step, self._high * step))

    def put_out_of_force(self) -> None:
        """Let the quantizer take the range that it had before."""
        self._quantizer.override(self._bits, self._before)

    def _step(self) -> Tensor:
        return self._start * torch.exp(self.log_step)
