"""Learned widths as a trainer needs them: what to compute with, and what it costs."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...spaces import BitAllocation
from .widths import Price, SigmoidWidths


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

    def __init__(
        self, widths: SigmoidWidths, price: Price, divisor: float, *, fractional: bool = False
    ) -> None:
        super().__init__()
        self.widths = widths
        self._price, self._divisor, self._fractional = price, divisor, fractional

    def operands(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the widths to compute with, of the weights and of the inputs by layer."""
        both = self.widths() if self._fractional else self.widths.straight_through()
        weights, activations = both
        return weights.unbind(), activations.unbind()

    def energy(self) -> Tensor:
        """Return the energy of the real widths, whatever the network computes with."""
        return self.widths.energy(self._price, self._divisor)

    def rounded(self) -> BitAllocation:
        """Return the nearest allocation of the space."""
        return self.widths.rounded()
