"""What a network costs that chooses widths, as a function of how often it chooses which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .operands import Slot

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerPrice:
    """What a layer costs, relative to the network with uniform 8 bit.

    Attributes:
        layer: Its name.
        costs: By weight (or right operand) and activation width: one row for each width that the
            first may be given, one column for each of the second; one alone where there is no
            choice.
    """

    layer: str
    costs: Floats

    @property
    def slots(self) -> tuple[Slot, Slot]:
        """Its operands, in the order of the axes of `costs`."""
        return (self.layer, "weight"), (self.layer, "activation")


@dataclass(frozen=True, eq=False)
class Prices:
    """What a network costs, relative to uniform 8 bit.

    Attributes:
        layers: The layers that have something to choose.
        rest: What all other layers cost, and deciding.
    """

    layers: Sequence[LayerPrice]
    rest: float

    def energy(self, shares: Mapping[Slot, Tensor]) -> Tensor:
        """Return the energy of every input.

        Where both operands of a product have a choice, how they meet is taken from their shares: as
        if they were chosen independently of each other.

        Args:
            shares: For every operand with a choice, how much of it each input has at which width,
                ``n x widths``; a row sums to 1.

        Returns:
            ``n`` energies, with gradients.
        """
        total: Tensor | float = self.rest
        for price in self.layers:
            first = next(shares[slot] for slot in price.slots if slot in shares)
            rows, columns = (
                shares.get(slot, first.new_ones(len(first), 1)) for slot in price.slots
            )
            costs = torch.as_tensor(price.costs, dtype=first.dtype, device=first.device)
            total = total + ((rows @ costs) * columns).sum(1)
        assert isinstance(total, Tensor)
        return total

    def steps(self) -> dict[Slot, Floats]:
        """Return what each step from a width to the next costs, for all channels of an operand.

        Of a product whose other operand has a choice, too, the mean over that.
        """
        found: dict[Slot, Floats] = {}
        for price in self.layers:
            for axis, slot in enumerate(price.slots):
                if price.costs.shape[axis] > 1:
                    found[slot] = np.diff(price.costs.mean(axis=1 - axis))
        return found


def shares_of(places: Tensor, widths: int) -> Tensor:
    """Return how much of an operand is at which width, ``n x widths``.

    Args:
        places: Which width each channel has, ``n x channels``.
        widths: How many widths there are.
    """
    counts = [(places == place).float().mean(1) for place in range(widths)]
    return torch.stack(counts, dim=1)
