"""From real widths, or preferences for widths, to the allocation of a space that comes nearest."""

import numpy as np
import numpy.typing as npt

from .allocation import KNOWN_WIDTHS, BitAllocation
from .errors import SpaceError
from .slots import OPERANDS
from .space import BitSpace

Floats = npt.NDArray[np.float64]

_UPWARDS = 1e-9
"""What a width below the wish costs beyond its distance: of two as near, keep the accuracy."""


def nearest_allocation(
    space: BitSpace, weight_bits: npt.ArrayLike, activation_bits: npt.ArrayLike
) -> BitAllocation:
    """Return the allocation of a layer-wise space that is nearest to real widths.

    Every operand takes its nearest choice, the wider of two as near. Where pins, ties or forbidden
    pairs forbid that, the sum of the distances is smallest; tied operands count as one, at their
    mean distance.

    Args:
        space: Where to look.
        weight_bits: One real width per layer.
        activation_bits: The same for the activations.

    Raises:
        SpaceError: If there is not one finite width per operand, or the space is per channel.
    """
    costs = []
    for operand, bits in zip(OPERANDS, (weight_bits, activation_bits), strict=True):
        wish = np.asarray(bits, dtype=np.float64)
        if wish.shape != (len(space.layers),) or not np.isfinite(wish).all():
            raise SpaceError(
                f"expected one finite {operand} width for each of {len(space.layers)} layers, got "
                f"{wish.tolist()}"
            )
        above = np.arange(KNOWN_WIDTHS[-1] + 1) - wish[:, None]
        costs.append(np.abs(above) + _UPWARDS * (above < 0))
    return preferred_allocation(space, *costs)


def preferred_allocation(
    space: BitSpace, weight_costs: Floats, activation_costs: Floats
) -> BitAllocation:
    """Return the allocation of a layer-wise space with the smallest sum of costs of its widths.

    Args:
        space: Where to look.
        weight_costs: Cost of each width of the weights, ``L x 33``, finite where there is a choice.
        activation_costs: The same for the activations. Tied operands count as one, at their mean
            cost.

    Raises:
        SpaceError: If the space is per channel.
    """
    if space.granularity != "layer":
        raise SpaceError(
            "widths are learned per layer: expected a space of granularity 'layer', got "
            f"'{space.granularity}'"
        )
    costs = dict(zip(OPERANDS, (weight_costs, activation_costs), strict=True))
    widths = {operand: [0] * len(space.layers) for operand in OPERANDS}
    shares = {operand: np.ones((len(space.layers), 1)) for operand in OPERANDS}
    for variable in space.variables:
        total = sum(costs[slot.operand][slot.layer] for slot in variable.slots)
        best = min(variable.choices, key=total.__getitem__)
        for slot in variable.slots:
            widths[slot.operand][slot.layer] = best
            shares[slot.operand][slot.layer] = 1 / len(variable.slots)
    free = BitAllocation([layer.name for layer in space.layers], *widths.values())
    if not space.forbid or space.contains(free):
        return free
    weight, activation = (shares[operand] * costs[operand] for operand in OPERANDS)
    return space.minimum(weight[:, :, None] + activation[:, None, :])[1]
