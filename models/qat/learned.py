"""Learned widths as a trainer needs them: what to compute with, and what it costs."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import FLOAT_BITS, BitAllocation
from ...spaces.slots import OPERANDS
from .widths import Price, SigmoidWidths

_BASE = 4.0
"""By how much the loss of an operand shrinks per bit, as the squared error of a quantizer does."""

_FLATTEST = 1e-6
"""Least derivative of a width by what is learned: a sigmoid may be saturated."""

_LEAST = 1e-6
"""Least loss, relative to the largest: where noise says that bits harm, they are worth nothing."""


class LearnedSigmoid(nn.Module):
    """The real widths of EQAT, and their energy relative to a divisor.

    Args:
        widths: The widths.
        price: Prices real widths, differentiably.
        divisor: What prices are relative to: that of uniform 8 bit.
        fractional: Whether the network computes with the real widths; with the nearest choices,
            which are what is deployed, if not. Either way gradients are those at the widths it
            computes with.
    """

    _falls: Tensor
    _errors: Tensor

    def __init__(
        self, widths: SigmoidWidths, price: Price, divisor: float, *, fractional: bool = False
    ) -> None:
        super().__init__()
        self.widths = widths
        self._price, self._divisor, self._fractional = price, divisor, fractional
        self.register_buffer("_falls", torch.zeros_like(widths.theta))
        self.register_buffer("_errors", torch.zeros_like(widths.theta))

    def operands(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the widths to compute with, of the weights and of the inputs by layer."""
        both = self.widths() if self._fractional else self.widths.straight_through()
        weights, activations = both
        return weights.unbind(), activations.unbind()

    def energy(self) -> Tensor:
        """Return the energy of the real widths, whatever the network computes with."""
        return self.widths.energy(self._price, self._divisor)

    def observe(self, beta: float) -> None:
        """Take note of how much the loss without the energy falls per bit, after a backward pass.

        Args:
            beta: Factor of the energy in the loss.
        """
        theta = self.widths.theta
        if theta.grad is None:  # all is pinned
            return
        (by_energy,) = torch.autograd.grad(self.energy(), theta)
        real, slope = self.widths.real_and_slope()
        at = real if self._fractional else self.widths.nearest(real)
        self._falls -= (theta.grad - beta * by_energy) / slope.clamp_min(_FLATTEST)
        self._errors += _BASE**-at

    def losses(self) -> npt.NDArray[np.float64] | None:
        """Return what each layer loses at every pair of widths, by the gradients of all steps.

        With a loss of ``a 4^-b`` at b bits, its fall per bit is ``ln 4`` times that: so the falls
        of all steps over their ``4^-b`` give ``a``, and steps at narrow widths, where gradients
        stand out most from their noise, count most.

        Returns:
            ``L x 33 x 33``; in nats. None before the first step.
        """
        if not self._errors.any():
            return None
        found = (self._falls / (math.log(_BASE) * self._errors)).double().cpu().numpy()
        found = np.maximum(found, _LEAST * (found.max(initial=0.0) or 1.0))
        space = self.widths.space
        factors = np.zeros((len(OPERANDS), len(space.layers)))
        for variable, factor in zip(self.widths.learned, found, strict=True):
            for slot in variable.slots:
                factors[OPERANDS.index(slot.operand), slot.layer] = factor / len(variable.slots)
        by_width = factors[..., None] * _BASE ** -np.arange(FLOAT_BITS + 1.0)
        total: npt.NDArray[np.float64] = by_width[0][:, :, None] + by_width[1][:, None, :]
        return total

    def rounded(self) -> BitAllocation:
        """Return the nearest allocation of the space."""
        return self.widths.rounded()
