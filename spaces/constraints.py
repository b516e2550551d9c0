"""Forbidden pairs of weight and activation widths: counting, sampling and optimising under them.

The state of a constrained variable is the *set* of widths that its channels use, counted as often
as there are surjections onto it. Two operands fit if no width of one meets a forbidden width of the
other, so sets are all that matters, and a layer of 512 channels costs no more than one of two.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from . import elimination
from .elimination import Factor, Table
from .slots import Slot

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Variable:
    """Slots that always have the same width(s).

    Attributes:
        slots: The tied slots; one where nothing is tied.
        choices: The widths they may take, ascending.
        channels: Widths chosen independently: 1, or the number of channels.
    """

    slots: tuple[Slot, ...]
    choices: tuple[int, ...]
    channels: int


class PairConstraints:
    """Which widths of the two operands of a layer may not meet.

    Args:
        variables: The variables of a space.
        operands: Per layer, the indices of the variables of its weights and of its activation.
        forbid: Pairs (weight width, activation width) that no layer may have.
    """

    def __init__(
        self, variables: Sequence[Variable], operands: Sequence[Pair], forbid: frozenset[Pair]
    ) -> None:
        self.variables = tuple(variables)
        self.operands = tuple(operands)
        self.forbid = forbid
        self.touched = frozenset(
            v
            for w, a in self.operands
            if self.clashes(self.variables[w].choices, self.variables[a].choices)
            for v in (w, a)
        )
        """The variables that some forbidden pair can touch; all others are free."""

    def clashes(self, weight: npt.ArrayLike, activation: npt.ArrayLike) -> bool:
        """Return whether any weight width meets a forbidden activation width."""
        if not self.forbid:
            return False
        widths = (np.unique(operand).tolist() for operand in (weight, activation))
        return any(pair in self.forbid for pair in itertools.product(*widths))

    @property
    def ways(self) -> int:
        """The exact number of states of all touched variables together."""
        return int(self._counted.value)

    def sample(self, rng: np.random.Generator) -> dict[int, Table]:
        """Draw the widths of all touched variables, every allowed state equally likely."""
        sets = self._counted.trace_back(lambda weights: _draw(weights, rng))
        return {
            v: _surjection(_subsets(self.variables[v])[state], self.variables[v].channels, rng)
            for v, state in sets.items()
        }

    def cheapest(
        self,
        pair_cost: Callable[[int, int, int], float],
        own_cost: Callable[[int, int], float] | None = None,
    ) -> tuple[float, list[int]]:
        """Return the smallest additive cost with one width per variable, and those widths.

        Args:
            pair_cost: Cost of (layer, weight width, activation width).
            own_cost: Cost of (variable, width), if any.

        Returns:
            The cost, infinite where nothing is allowed, and the width of every variable.
        """
        factors = [self._pair_factor(i, pair_cost) for i in range(len(self.operands))]
        if own_cost is not None:
            for v, var in enumerate(self.variables):
                factors.append(Factor((v,), np.array([own_cost(v, b) for b in var.choices])))
        found = elimination.minimise(factors)
        states = found.trace_back(lambda table: int(np.argmin(table)))
        return float(found.value), [var.choices[states[v]] for v, var in enumerate(self.variables)]

    def bound_together(self) -> list[set[int]]:
        """Return the connected groups of touched variables, each in network order."""
        group = {v: {v} for v in self.touched}
        for w, a in self.operands:
            if w in self.touched and a in self.touched:
                merged = group[w] | group[a]
                group.update(dict.fromkeys(merged, merged))
        return [members for v, members in sorted(group.items()) if v == min(members)]

    @cached_property
    def _counted(self) -> elimination.Elimination:
        factors = []
        for v in sorted(self.touched):
            var = self.variables[v]
            ways = [_surjections(var.channels, len(used)) for used in _subsets(var)]
            factors.append(Factor((v,), np.array(ways, dtype=object)))
        factors += [
            self._compatible(w, a)
            for w, a in self.operands
            if w in self.touched and a in self.touched
        ]
        return elimination.count(factors)

    def _compatible(self, w: int, a: int) -> Factor:
        """Return which sets of widths of two variables fit together, as ones and zeros."""
        rows, columns = _subsets(self.variables[w]), _subsets(self.variables[a])
        if w == a:  # tied operands are layer-wise: every set has one width
            fits = [int(not self.clashes(used, used)) for used in rows]
            return Factor((w,), np.array(fits, dtype=object))
        table = [[int(not self.clashes(row, column)) for column in columns] for row in rows]
        return Factor((w, a), np.array(table, dtype=object).reshape(len(rows), len(columns)))

    def _pair_factor(self, layer: int, cost: Callable[[int, int, int], float]) -> Factor:
        """Return the cost of a layer over single widths; infinite where the pair is forbidden."""

        def guarded(weight: int, activation: int) -> float:
            if (weight, activation) in self.forbid:
                return math.inf
            return cost(layer, weight, activation)

        w, a = self.operands[layer]
        rows, columns = self.variables[w].choices, self.variables[a].choices
        if w == a:
            return Factor((w,), np.array([guarded(bits, bits) for bits in rows]))
        return Factor(
            (w, a), np.array([[guarded(row, column) for column in columns] for row in rows])
        )


def _subsets(var: Variable) -> list[tuple[int, ...]]:
    """Return every set of widths that the channels of a variable can use."""
    largest = min(len(var.choices), var.channels)
    return [s for k in range(1, largest + 1) for s in itertools.combinations(var.choices, k)]


def _surjections(items: int, values: int) -> int:
    """Return how many ways ``items`` can take exactly all of ``values`` (inclusion-exclusion)."""
    return sum((-1) ** (values - k) * math.comb(values, k) * k**items for k in range(values + 1))


def _surjection(used: Sequence[int], items: int, rng: np.random.Generator) -> Table:
    """Draw widths for ``items`` channels that use every width of ``used``, uniformly.

    Channel by channel: a channel takes a width not used so far with the probability that the
    number of completions gives it.
    """
    values, missing = [], list(used)
    for left in range(items - 1, -1, -1):
        fresh = len(missing) * _completions(left, len(used), len(missing) - 1)
        old = (len(used) - len(missing)) * _completions(left, len(used), len(missing))
        if _below(fresh + old, rng) < fresh:
            values.append(missing.pop(int(rng.integers(len(missing)))))
        else:
            seen = [width for width in used if width not in missing]
            values.append(seen[int(rng.integers(len(seen)))])
    return np.array(values)


def _completions(items: int, values: int, missing: int) -> int:
    """Return how many ways ``items`` channels can take ``values`` so that ``missing`` appear."""
    if missing < 0:
        return 0
    return sum(
        (-1) ** k * math.comb(missing, k) * (values - k) ** items for k in range(missing + 1)
    )


def _draw(weights: Table, rng: np.random.Generator) -> int:
    """Draw an index with probability proportional to exact integer weights."""
    ticket = _below(int(weights.sum()), rng)
    for index, weight in enumerate(weights):
        ticket -= int(weight)
        if ticket < 0:
            return index
    raise AssertionError("weights are non-negative and their sum was drawn below")


def _below(limit: int, rng: np.random.Generator) -> int:
    """Draw an integer in [0, limit) of any size, exactly uniformly."""
    bits = limit.bit_length()
    while True:
        value = int.from_bytes(rng.bytes((bits + 7) // 8), "little") >> (-bits % 8)
        if value < limit:
            return value
