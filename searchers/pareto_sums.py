"""The whole Pareto set of (cost, score) over a space, where both add up over the layers.

Bucket elimination (`bitfront.spaces.elimination`) with fronts for numbers: two of them are
multiplied by adding every point of one to every point of the other, and added by putting their
points together; what is dominated is dropped at once. This is the dynamic program of one knapsack
that answers all budgets, and it is right for ties and forbidden pairs, too.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, BitSpace, InfeasibleError, StudyError
from ..spaces.elimination import Factor, eliminate
from ..spaces.slots import OPERANDS

Array = npt.NDArray[np.float64]
States = npt.NDArray[np.int8]

SAME = 2.0**-36
"""Costs nearer to each other than this share of their range are the same up to rounding."""

BETTER = 1e-12
"""Scores have to be smaller by this share to count as better and not as rounding."""

CHUNK = 2**20
"""How many sums are held at a time."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The best score for every cost: allocations of which none dominates another, cheapest first.

    Attributes:
        space: The space they are members of.
        costs: ``n`` costs, ascending.
        scores: ``n`` scores, descending.
        states: ``n x v`` index of the choice of each of the space's ``v`` variables.
        is_exact: Whether no allocation is missing. If not, every point is still real, with its true
            cost and score.
    """

    space: BitSpace
    costs: Array
    scores: Array
    states: States
    is_exact: bool

    def __len__(self) -> int:
        return len(self.costs)

    def allocation(self, index: int) -> BitAllocation:
        """Return one allocation of the curve; 0 is the cheapest."""
        weights, activations = widths_of(self.space, self.states[index][None])
        names = [layer.name for layer in self.space.layers]
        return BitAllocation(names, weights[0].tolist(), activations[0].tolist())

    def totals(self, costs: Array) -> Array:
        """Return what every point costs by any other costs of the layers.

        Args:
            costs: ``L x 33 x 33``, by layer, weight width and activation width.
        """
        return _totals(self.space, self.states, costs)

    def within(self, limit: float) -> int | None:
        """Return the index of the best one that costs at most the limit, if there is one."""
        index = int(np.searchsorted(self.costs, limit, side="right")) - 1
        return index if index >= 0 else None


def curve(
    space: BitSpace, scores: Array, costs: Array, allowed: npt.NDArray[np.bool_], cap: int
) -> Curve:
    """Return the Pareto set; arguments as `AdditiveModel.curve` with the pairs that may be chosen.

    Raises:
        InfeasibleError: If ties leave nothing of what is allowed.
        StudyError: If the cap is below 2.
    """
    if cap < 2:
        raise StudyError(f"a curve needs a cap of at least 2 points, got {cap}")
    # What all pairs of a layer have in common makes no difference, and costs digits.
    cost, score = (_above_lowest(values, allowed) for values in (costs, scores))
    spread = float(np.where(allowed, cost, 0.0).max(axis=(1, 2)).sum())
    fronts = _Fronts(spread * SAME or 1.0, cap)
    found = eliminate(
        _factors(space, cost, score, allowed), fronts.times, fronts.plus_first, _one(space)
    )
    states = found.value.states
    if not len(states):
        raise InfeasibleError("no allocation of the space has both a known cost and a score")
    true_costs, true_scores = (_totals(space, states, values) for values in (costs, scores))
    order = np.lexsort((true_scores, true_costs))
    best = np.minimum.accumulate(true_scores[order])
    kept = order[np.r_[True, best[1:] < best[:-1]]]
    return Curve(space, true_costs[kept], true_scores[kept], states[kept], fronts.is_exact)


@dataclass(frozen=True, eq=False)
class _Front:
    """Points with ascending cost and descending score.

    Attributes:
        costs: Costs of the points.
        scores: Scores of the points.
        states: The state of each variable that has been decided, 0 for the others.
    """

    costs: Array
    scores: Array
    states: States


class _Fronts:
    """The arithmetic of fronts.

    Args:
        quantum: Costs are equal if they round to the same multiple of it.
        cap: How many points a front may have.

    Attributes:
        is_exact: Whether no front had to be thinned so far.
    """

    def __init__(self, quantum: float, cap: int) -> None:
        self.quantum = quantum
        self.cap = cap
        self.is_exact = True
        self.times = np.frompyfunc(self._times, 2, 1)
        self._plus_all = np.frompyfunc(self._plus, 2, 1)

    def plus_first(self, table: npt.NDArray[np.object_]) -> Any:
        """Put the fronts along the first axis together."""
        return self._plus_all.reduce(table, axis=0)

    def _times(self, first: _Front, second: _Front) -> _Front:
        if len(first.costs) < len(second.costs):
            first, second = second, first
        if not len(second.costs):
            return second
        step = max(1, CHUNK // len(second.costs))
        return reduce(
            self._plus,
            (
                self._sums(first, second, start, start + step)
                for start in range(0, len(first.costs), step)
            ),
        )

    def _sums(self, first: _Front, second: _Front, start: int, stop: int) -> _Front:
        costs = (first.costs[start:stop, None] + second.costs).ravel()
        scores = (first.scores[start:stop, None] + second.scores).ravel()
        kept = self._best(costs, scores)
        i, j = np.divmod(kept, len(second.costs))
        states = first.states[start + i] + second.states[j]  # no variable is decided in both
        return _Front(costs[kept], scores[kept], states)

    def _plus(self, first: _Front, second: _Front) -> _Front:
        costs = np.concatenate([first.costs, second.costs])
        scores = np.concatenate([first.scores, second.scores])
        kept = self._best(costs, scores)
        return _Front(
            costs[kept], scores[kept], np.concatenate([first.states, second.states])[kept]
        )

    def _best(self, costs: Array, scores: Array) -> npt.NDArray[np.intp]:
        """Return the indices of what is not dominated, cheapest first, at most `cap` of them."""
        order = np.lexsort((scores, np.rint(costs / self.quantum)))
        ordered = scores[order]
        before = np.minimum.accumulate(np.r_[np.inf, ordered[:-1]])
        kept = order[ordered < before * (1 - BETTER)]
        if len(kept) <= self.cap:
            return kept
        self.is_exact = False
        values = costs[kept]
        share = (values - values[0]) / (values[-1] - values[0])
        cells = (share * (self.cap - 2)).astype(np.int64)
        last_of_cell = np.r_[cells[1:] != cells[:-1], True]  # which has the cell's best score
        last_of_cell[0] = True
        return kept[last_of_cell]


def _factors(
    space: BitSpace, cost: Array, score: Array, allowed: npt.NDArray[np.bool_]
) -> list[Factor]:
    """Return fronts of one point: the state of a variable, or what a pair costs and scores."""
    factors, of_slot = [], {}
    for v, variable in enumerate(space.variables):
        of_slot.update({(slot.layer, slot.operand): v for slot in variable.slots})
        table = np.empty(len(variable.choices), dtype=object)
        for state in range(len(variable.choices)):
            states = np.zeros((1, len(space.variables)), dtype=np.int8)
            states[0, v] = state
            table[state] = _Front(np.zeros(1), np.zeros(1), states)
        factors.append(Factor((v,), table))
    nothing = np.zeros((1, len(space.variables)), dtype=np.int8)
    for layer in range(len(space.layers)):
        scope = of_slot[layer, "weight"], of_slot[layer, "activation"]
        choices = [space.variables[v].choices for v in scope]
        table = np.empty((len(choices[0]), len(choices[1])), dtype=object)
        for index in np.ndindex(table.shape):
            pair = (layer, choices[0][index[0]], choices[1][index[1]])
            size = int(allowed[pair])
            table[index] = _Front(
                np.full(size, cost[pair]), np.full(size, score[pair]), nothing[:size]
            )
        tied = scope[0] == scope[1]
        factors.append(Factor(scope[:1], table.diagonal()) if tied else Factor(scope, table))
    return factors


def _one(space: BitSpace) -> _Front:
    return _Front(np.zeros(1), np.zeros(1), np.zeros((1, len(space.variables)), dtype=np.int8))


def _above_lowest(values: Array, allowed: npt.NDArray[np.bool_]) -> Array:
    known = np.where(allowed, values, np.inf)
    return np.asarray(known - known.min(axis=(1, 2), keepdims=True))


def widths_of(
    space: BitSpace, states: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the widths of the weights and of the activations, each ``n x L``."""
    both = {
        o: np.zeros((len(states), len(space.layers)), np.int64) for o in ("weight", "activation")
    }
    for v, variable in enumerate(space.variables):
        bits = np.array(variable.choices)[states[:, v]]
        for slot in variable.slots:
            both[slot.operand][:, slot.layer] = bits
    return tuple(both[operand] for operand in OPERANDS)


def _totals(space: BitSpace, states: States, values: Array) -> Array:
    """Return the correctly rounded sum over the layers, for each of ``n`` states of the space."""
    weights, activations = widths_of(space, states)
    rows = values[np.arange(len(space.layers)), weights, activations]
    return np.array([math.fsum(row) for row in rows])
