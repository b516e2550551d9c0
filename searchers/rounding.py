"""From real widths that were learned to an allocation within limits.

Where widths were learned by gradient descent on a loss and ``beta`` times an energy, the two
gradients cancel: an operand at width q loses as much per bit as ``beta`` times what a bit of it
costs there. With a loss that shrinks fourfold per bit, as the squared error of a quantizer does,
that says what the loss is at every other width, too: in units of beta, ``dE/dq 4^(q - b) / ln 4``.
The best allocation within limits is then an integer program.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, BitSpace, EnergyTableError, StudyError
from ..spaces.rounding import nearest_allocation as nearest
from ..spaces.slots import OPERANDS
from .additive import AdditiveModel, Solution
from .additive_search import solve_within
from .pricing import Pricing

__all__ = ["Rounding", "implied_losses", "nearest", "within"]

Floats = npt.NDArray[np.float64]

_BASE = 4.0
"""By how much the loss of an operand shrinks per bit."""

_END = 0.5
"""Bits from the end of its range at which a width counts as held by it."""

_HELD = 1.0
"""Bits by which a width at the end of its range is taken to want to be beyond."""

_FREE = 1e-6
"""Least price of a bit, relative to the largest: what costs nothing is still better than less."""


@dataclass(frozen=True)
class Rounding:
    """An allocation within limits, made of learned widths.

    Attributes:
        allocation: The allocation.
        costs: What is limited -> what the allocation costs.
        shares: The same, relative to the limit.
        solution: What the solver said.
    """

    allocation: BitAllocation
    costs: dict[str, float]
    shares: dict[str, float]
    solution: Solution


def within(
    space: BitSpace,
    pricing: Pricing,
    limits: Mapping[str, float],
    weight_bits: npt.ArrayLike,
    activation_bits: npt.ArrayLike,
    *,
    cost: str = "energy",
    scores: Floats | None = None,
    time_limit_s: float = 60.0,
) -> Rounding:
    """Return the allocation within limits that loses least, by what the learned widths imply.

    Args:
        space: A layer-wise space.
        pricing: What allocations cost.
        limits: Name of a cost -> the largest acceptable price; at least one.
        weight_bits: One learned real width per layer.
        activation_bits: The same for the activations.
        cost: Name of the cost the widths were learned under.
        scores: What each layer loses by weight and activation width, ``L x 33 x 33``, in place of
            what the widths imply; NaN where unknown.
        time_limit_s: Seconds the solver may take.

    Raises:
        InfeasibleError: If nothing is within the limits.
        StudyError: If there is no limit: the best would be the widest widths.
    """
    if not limits:
        raise StudyError("learned widths are rounded within limits, got none; use `nearest`")
    if scores is None:
        costs_learned = pricing.layer_costs(cost)
        scores = implied_losses(space, costs_learned, weight_bits, activation_bits)
        if cost not in limits:  # it weighs as it did while widths were learned: one for one
            scores = scores + costs_learned
    solution = solve_within(pricing, AdditiveModel(space, scores), limits, time_limit_s)
    costs = {name: pricing.price(solution.allocation, name) for name in limits}
    shares = {name: price / limits[name] for name, price in costs.items()}
    return Rounding(solution.allocation, costs, shares, solution)


def implied_losses(
    space: BitSpace, costs: Floats, weight_bits: npt.ArrayLike, activation_bits: npt.ArrayLike
) -> Floats:
    """Return what each layer loses at every pair of widths, by what learned widths imply.

    A width at the end of its range would have gone on: what a bit is worth there is a bound only,
    from below at the wide end and from above at the narrow end. In the last half bit it is
    therefore taken for one up to a bit beyond the end, so that others give way first.

    Args:
        space: A layer-wise space.
        costs: What the widths were learned under, ``L x 33 x 33``.
        weight_bits: One learned real width per layer.
        activation_bits: The same for the activations.

    Returns:
        ``L x 33 x 33``, in units of the weight that the costs had in the loss.

    Raises:
        EnergyTableError: If the costs do not say what a bit costs at the learned widths.
    """
    bits = np.stack([np.asarray(b, np.float64) for b in (weight_bits, activation_bits)], axis=1)
    slopes, wanted = np.zeros_like(bits), np.zeros_like(bits)
    for variable in space.variables:
        low, high = variable.choices[0], variable.choices[-1]
        if low == high:
            continue
        layers = [slot.layer for slot in variable.slots]
        for slot in variable.slots:
            operand = OPERANDS.index(slot.operand)
            tied = layers.count(slot.layer) > 1
            slope = _slope(costs[slot.layer], bits[slot.layer], operand, low, high, tied)
            if math.isnan(slope):
                raise EnergyTableError(
                    f"the table does not say what a bit of {slot.show(space.layers)} costs at "
                    f"{bits[slot.layer, operand]:.2f} bits: a width near it has no price"
                )
            # The price of both operands together is counted once.
            slopes[slot.layer, operand] = slope / 2 if tied else slope
            wanted[slot.layer, operand] = _wanted(bits[slot.layer, operand], low, high)
    slopes = np.maximum(slopes, _FREE * (slopes.max(initial=0.0) or 1.0))
    at = np.arange(33)
    losses = slopes[..., None] * _BASE ** (wanted[..., None] - at) / math.log(_BASE)
    total: Floats = losses[:, 0, :, None] + losses[:, 1, None, :]
    return total


def _slope(costs: Floats, bits: Floats, operand: int, low: int, high: int, tied: bool) -> float:
    """Return what a bit of an operand costs at real widths, over the bit around them.

    Between widths that have a price it is interpolated.

    Args:
        costs: Of the layer, ``33 x 33``.
        bits: Its two widths.
        operand: Which of them changes: 0 for the weights, 1 for the activation.
        low: The narrowest it may be.
        high: The widest it may be.
        tied: Whether the other one changes with it.
    """
    if tied:
        curve = np.diagonal(costs)
    else:
        of = costs if operand == 0 else costs.T
        curve = np.full(len(of), math.nan)
        for width in range(low, high + 1):
            priced = np.flatnonzero(np.isfinite(of[width]))
            if len(priced) and priced[0] <= bits[1 - operand] <= priced[-1]:
                curve[width] = np.interp(bits[1 - operand], priced, of[width, priced])
    known = low + np.flatnonzero(np.isfinite(curve[low : high + 1]))
    start, end = max(bits[operand] - 0.5, low), min(bits[operand] + 0.5, high)
    if not len(known) or known[0] > start or known[-1] < end:
        return math.nan
    rise = np.interp(end, known, curve[known]) - np.interp(start, known, curve[known])
    return float(rise / (end - start))


def _wanted(bits: float, low: int, high: int) -> float:
    """Return the width, moved out where it is held by an end of its range."""
    near_high = max(0.0, 1 - (high - bits) / _END)
    near_low = max(0.0, 1 - (bits - low) / _END)
    return bits + _HELD * (near_high - near_low)
