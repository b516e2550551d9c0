"""States of a walk through a per-layer space, as arrays of widths, and single steps between them.

A walk sees thousands of states for each one that is measured, and an array costs a fraction of a
`BitAllocation`.
"""

import numpy as np
import numpy.typing as npt

from ..spaces import KNOWN_WIDTHS, BitAllocation, BitSpace
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS

Widths = npt.NDArray[np.int64]
"""A state: ``L x 2`` widths by layer and operand (weight, activation)."""


def widest(space: BitSpace) -> Widths:
    """Return every operand at its widest choice, or the nearest state the space allows."""
    return widths_of(space.uniform(KNOWN_WIDTHS[-1]))


def narrowest(space: BitSpace) -> Widths:
    """Return every operand at its narrowest choice, or the nearest state the space allows."""
    return widths_of(space.uniform(KNOWN_WIDTHS[0]))


def widths_of(allocation: BitAllocation) -> Widths:
    """Return the state of a per-layer allocation; `allocation_of` is the inverse."""
    return np.array([allocation.weights, allocation.activations], dtype=np.int64).T


def allocation_of(space: BitSpace, widths: Widths) -> BitAllocation:
    """Return the allocation of a state."""
    return BitAllocation([layer.name for layer in space.layers], *widths.T.tolist())


def width_of(widths: Widths, variable: Variable) -> int:
    """Return the width that all slots of a variable have in a state."""
    slot = variable.slots[0]
    return int(widths[slot.layer, OPERANDS.index(slot.operand)])


def set_width(widths: Widths, variable: Variable, bits: int) -> Widths:
    """Return the state with another width of one variable, be it forbidden or not.

    Args:
        widths: The state to start from; it stays as it is.
        variable: Which slots change, all of them together.
        bits: Their new width.
    """
    changed = widths.copy()
    for slot in variable.slots:
        changed[slot.layer, OPERANDS.index(slot.operand)] = bits
    return changed


def with_width(space: BitSpace, widths: Widths, variable: Variable, bits: int) -> Widths | None:
    """Return the state with another width of one variable; None if the space forbids it.

    Args:
        space: Its forbidden pairs are what may be in the way.
        widths: The state to start from; it stays as it is.
        variable: Which slots change, all of them together.
        bits: One of the variable's choices.
    """
    changed = set_width(widths, variable, bits)
    if space.forbid:
        touched = sorted({slot.layer for slot in variable.slots})
        if any((weight, activation) in space.forbid for weight, activation in changed[touched]):
            return None
    return changed


def cost_of(costs: npt.NDArray[np.float64], widths: Widths) -> float:
    """Return the cost of a state; NaN if that of a layer is unknown.

    Args:
        costs: ``L x 33 x 33`` costs of a layer by weight and activation width.
        widths: The state.
    """
    return float(costs[np.arange(len(widths)), widths[:, 0], widths[:, 1]].sum())
