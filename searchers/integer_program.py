"""The cheapest choice of one pair of widths per layer, exactly, by integer programming.

HiGHS works in floating point, with absolute tolerances. Here its answers are made exact: what
cannot be part of an answer is left out first, rows and objective are scaled so that the tolerances
do not matter, every answer is checked against the limits in exact sums, and one that breaks a limit
by a rounding error is forbidden and the next best one found.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..spaces import SolverError, non_dominated
from .pricing import SLACK, is_within

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Pairs = npt.NDArray[np.int64]
Tie = tuple[tuple[int, int], ...]
"""Operands with one common width: (layer, 0 for the weights or 1 for the activation)."""

LOOSE = 1e-9
"""Relative room left above a limit, so that no rounding error hides an allocation on it."""

SCALE = 1e4
"""What the largest coefficient of a limit, and the value of the answer, are scaled to."""

FEW_CUTS = 20
"""How many answers may be forbidden one by one before the limits are tightened instead."""

INFEASIBLE, UNCLEAR, OUT_OF_TIME = 2, 4, 1
"""Status codes of `scipy.optimize.milp`; 0 is optimal."""


class Clock:
    """Counts the seconds that some solving may take.

    Args:
        limit_s: How many that are, from now.
    """

    def __init__(self, limit_s: float) -> None:
        self._start, self._limit_s = time.monotonic(), limit_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def remaining_s(self) -> float:
        """Seconds left, never less than what it takes to answer at all."""
        return max(self._limit_s - self.elapsed_s, 1e-3)


@dataclass(frozen=True)
class Outcome:
    """What is known after solving.

    Attributes:
        status: ``optimal``, ``feasible`` (time was up; an answer, not proven best),
            ``out-of-time`` (no answer so far) or ``infeasible`` (there is none).
        pairs: ``L x 2`` widths of weights and activations; None without an answer.
        bound: No answer has a smaller objective than this.
    """

    status: Literal["optimal", "feasible", "out-of-time", "infeasible"]
    pairs: Pairs | None = None
    bound: float = -math.inf


def minimise(
    objective: Array,
    allowed: Mask,
    ties: Sequence[Tie],
    limits: Sequence[tuple[Array, float]],
    clock: Clock,
) -> Outcome:
    """Choose one pair of widths per layer so that the sum of the objective is smallest.

    Args:
        objective: ``L x 33 x 33``, by layer, weight width and activation width.
        allowed: ``L x 33 x 33``, the pairs each layer may have; all values there are finite.
        ties: Operands of different layers that have one common width.
        limits: Costs like the objective, and the largest sum of each.
        clock: When it runs out, the best answer so far is returned.

    Raises:
        SolverError: If HiGHS fails.
    """
    extra, base = _above_floor(objective, allowed)
    rows, allowed = [], allowed.copy()
    for costs, limit in limits:
        above, floor = _above_floor(costs, allowed)
        room = limit - floor
        slack = LOOSE * abs(room) + 2 * SLACK * abs(limit)
        allowed &= above <= room + slack
        rows.append((above, room, slack))
        if not allowed.any(axis=(1, 2)).all():
            return Outcome("infeasible")
    allowed = _without_dominated(allowed, [extra, *(above for above, _, _ in rows)], ties)

    scale = SCALE / (float(np.where(allowed, extra, 0.0).max(axis=(1, 2)).sum()) or 1.0)
    cuts: list[Pairs] = []
    best: Pairs | None = None
    bound = 0.0
    while True:
        tightened = len(cuts) > FEW_CUTS
        program = _Program(extra * scale, allowed, ties)
        for above, room, slack in rows:
            program.limit(above, room - slack if tightened else room + slack)
        for cut in cuts:
            program.forbid(cut)
        found = program.solve(clock.remaining_s)
        if found.mip_dual_bound is not None and not tightened:
            bound = max(bound, found.mip_dual_bound / scale)
        if found.x is None:
            if best is not None:  # looking closer took too long
                return Outcome("feasible", best, base + min(bound, _total(extra, best)))
            if found.status == INFEASIBLE:
                return Outcome("infeasible")
            return Outcome("out-of-time", bound=base + bound)
        pairs = program.pairs(found.x)
        if not _holds(pairs, ties, limits):
            cuts.append(pairs)
            if len(cuts) > 2 * FEW_CUTS:
                raise SolverError("the integer program was not solved: HiGHS breaks the limits")
            continue
        if best is not None and _total(extra, best) < _total(extra, pairs):
            pairs = best  # time was up before the closer look found it again
        value = _total(extra, pairs)
        bound = min(bound, value)
        if found.status == OUT_OF_TIME:
            return Outcome("feasible", pairs, base + bound)
        if best is None and 0 < value * scale < SCALE / 10:
            # Near the absolute tolerances: leave out what costs more than all of this by itself,
            # and look closer.
            best, scale = pairs, SCALE / value
            allowed &= extra <= value * (1 + LOOSE)
            continue
        proven = not tightened or value <= bound + LOOSE * abs(value)
        return Outcome("optimal" if proven else "feasible", pairs, base + bound)


class _Program:
    """The integer program: one binary variable per layer and allowed pair."""

    def __init__(self, objective: Array, allowed: Mask, ties: Sequence[Tie]) -> None:
        layer, weight, activation = np.nonzero(allowed)
        self.objective = objective[allowed]
        self._layer, self._widths = layer, (weight, activation)
        self._allowed = allowed
        self._rows: list[tuple[Any, float, float]] = []
        self._one_pair_per_layer(len(allowed))
        for tie in ties:
            for first, second in itertools.pairwise(tie):
                self._tie(first, second)

    def limit(self, costs: Array, room: float) -> None:
        """Let the sum of the costs be at most the room there is."""
        values = costs[self._allowed]
        largest = float(values.max(initial=0.0))
        if largest > 0:
            scale = SCALE / largest
            self._add(values * scale, -np.inf, room * scale)

    def forbid(self, pairs: Pairs) -> None:
        """Exclude one answer."""
        weight, activation = self._widths
        same = (weight == pairs[self._layer, 0]) & (activation == pairs[self._layer, 1])
        self._add(same, -np.inf, len(pairs) - 1.0)

    def solve(self, time_limit_s: float) -> Any:
        """Run HiGHS; returns scipy's result."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import vstack

        coefficients, low, high = zip(*self._rows, strict=True)
        constraints = LinearConstraint(vstack(coefficients), low, high)
        options: dict[str, Any] = {"mip_rel_gap": 0.0, "time_limit": time_limit_s}
        for presolve in (True, False):  # it may end in "infeasible or unbounded"; without, not
            found = milp(
                self.objective,
                integrality=np.ones(len(self.objective)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={**options, "presolve": presolve},
            )
            if found.status != UNCLEAR:
                break
        if found.status not in (0, OUT_OF_TIME, INFEASIBLE):
            raise SolverError(f"the integer program was not solved: HiGHS says {found.message!r}")
        return found

    def pairs(self, x: Array) -> Pairs:
        """Return the widths that the variables say, ``L x 2``."""
        weight, activation = self._widths
        starts = np.flatnonzero(np.diff(self._layer, prepend=-1))
        chosen = [
            start + int(np.argmax(part))
            for start, part in zip(starts, np.split(x, starts[1:]), strict=True)
        ]
        return np.stack([weight[chosen], activation[chosen]], axis=1)

    def _add(self, row: npt.NDArray[Any], low: float, high: float) -> None:
        from scipy.sparse import csr_array

        self._rows.append((csr_array(row[None].astype(np.float64)), low, high))

    def _one_pair_per_layer(self, count: int) -> None:
        for layer in range(count):
            self._add(self._layer == layer, 1.0, 1.0)

    def _tie(self, first: tuple[int, int], second: tuple[int, int]) -> None:
        """Give two operands of different layers the same width."""
        chosen = []
        for layer, operand in (first, second):
            mine = self._layer == layer
            chosen.append(np.where(mine, self._widths[operand], -1))
        for bits in np.union1d(*chosen):
            if bits >= 0:
                difference = (chosen[0] == bits).astype(np.float64) - (chosen[1] == bits)
                self._add(difference, 0.0, 0.0)


def _above_floor(costs: Array, allowed: Mask) -> tuple[Array, float]:
    """Return what each pair costs more than its layer's cheapest, and the sum of the cheapest."""
    lowest = np.where(allowed, costs, np.inf).min(axis=(1, 2))
    above = np.where(allowed, costs - lowest[:, None, None], np.inf)
    return above, math.fsum(lowest)


def _without_dominated(allowed: Mask, criteria: Sequence[Array], ties: Sequence[Tie]) -> Mask:
    """Leave out pairs that another one of an untied layer beats in objective and every cost."""
    kept = allowed.copy()
    for layer in set(range(len(allowed))) - {layer for tie in ties for layer, _ in tie}:
        mine = allowed[layer]
        values = np.stack([c[layer][mine] for c in criteria])
        kept[layer][mine] = non_dominated(values.T)
    return kept


def _holds(pairs: Pairs, ties: Sequence[Tie], limits: Sequence[tuple[Array, float]]) -> bool:
    """Return whether an answer respects all ties and limits, in exact sums."""
    tied = all(len({int(pairs[layer, operand]) for layer, operand in tie}) == 1 for tie in ties)
    return tied and all(is_within(_total(costs, pairs), limit) for costs, limit in limits)


def _total(costs: Array, pairs: Pairs) -> float:
    """Return the correctly rounded sum of the costs of the pairs."""
    return math.fsum(costs[np.arange(len(pairs)), pairs[:, 0], pairs[:, 1]])
