"""The cost that is compared: what choices cost, what is within the limits, and what counts."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, BitSpace
from .additive import allowed_pairs
from .pareto_sums import widths_of
from .pricing import is_within
from .problem import Problem
from .steps import cost_of, widest

Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.int64]

WINDOW = 0.1
"""Where the budget limits the cost, candidates this share below the limit are what counts."""


@dataclass(frozen=True, eq=False)
class CostAxis:
    """Costs of choices, and the part of their range that counts.

    Attributes:
        space: The space.
        costs: ``L x 33 x 33`` of the cost that is compared.
        limits: Per limit, costs of the same shape and the largest sum.
        allowed: ``L x 33 x 33``, whether a layer may have a pair of widths.
        lowest: Smallest cost that counts.
        highest: Largest.
        end: Up to where the front is taken to go on level, so that what costs most counts, too.
        is_limited: Whether the budget limits this cost.
    """

    space: BitSpace
    costs: Floats
    limits: tuple[tuple[Floats, float], ...]
    allowed: npt.NDArray[np.bool_]
    lowest: float
    highest: float
    end: float
    is_limited: bool

    @classmethod
    def of(cls, problem: Problem) -> "CostAxis":
        """Return the axis of the cost that a problem compares."""
        name, space = problem.cost_name, problem.space
        limits = problem.budget.limits
        costs = problem.layer_costs(name)
        highest = cost_of(costs, widest(space))
        lowest = problem.pricing.smallest(space, name)
        is_limited = limits.get(name, math.inf) < highest
        if is_limited:
            highest = limits[name]
            lowest = max(lowest, (1 - WINDOW) * highest)
        bounds = tuple((problem.layer_costs(each), limit) for each, limit in limits.items())
        end = highest + WINDOW * max(highest - lowest, WINDOW * highest)
        return cls(space, costs, bounds, allowed_pairs(space), lowest, highest, end, is_limited)

    @property
    def free(self) -> npt.NDArray[np.intp]:
        """The variables that have a choice."""
        return np.flatnonzero([len(variable.choices) > 1 for variable in self.space.variables])

    def price(self, states: States) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return costs, and whether they are within all limits and forbid nothing."""
        weights, activations = widths_of(self.space, states)
        at = np.arange(weights.shape[1]), weights, activations
        within = np.asarray(self.allowed[at].all(axis=1))
        for costs, limit in self.limits:
            within &= is_within(costs[at].sum(axis=1), limit)
        return self.costs[at].sum(axis=1), within

    def allocations(self, states: States) -> list[BitAllocation]:
        """Return the allocations of ``n x v`` choices."""
        names = [layer.name for layer in self.space.layers]
        rows = zip(*(part.tolist() for part in widths_of(self.space, states)), strict=True)
        return [BitAllocation(names, weights, activations) for weights, activations in rows]

    def states(self, allocation: BitAllocation) -> States:
        """Return the choices of an allocation, ``v`` of them."""
        widths = {"weight": allocation.weights, "activation": allocation.activations}
        return np.array(
            [
                variable.choices.index(
                    int(widths[variable.slots[0].operand][variable.slots[0].layer])
                )
                for variable in self.space.variables
            ],
            dtype=np.int64,
        )
