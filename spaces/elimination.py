"""Exact counting, minimising and sampling over discrete variables by variable elimination.

A bit-width space is a set of variables (slots that must agree) with constraints between pairs of
them. Its size, its cheapest member and a uniform draw are one computation in different semirings:
multiply all factors over a variable, sum the variable out, go on (R. Dechter, "Bucket elimination",
Artificial Intelligence 113, 1999). The variable in the fewest, smallest factors goes first, so
trees and the nearly-trees of real networks cost no more than their widest layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[Any]


@dataclass(frozen=True)
class Factor:
    """A table over the variables in ``scope``, one axis each, in that order."""

    scope: tuple[int, ...]
    table: Table


@dataclass(frozen=True)
class Elimination:
    """What is left after all variables are gone: a value, and the way back.

    Attributes:
        value: Sum (or minimum) over all joint states.
        steps: For every variable, in the order of elimination, the product of its factors; the
            variable is the first axis.
    """

    value: Any
    steps: tuple[Factor, ...]

    def trace_back(self, pick: Callable[[Table], int]) -> dict[int, int]:
        """Choose a state for every variable, last eliminated first.

        Args:
            pick: Given the values of one variable's states, the others fixed, returns a state.
        """
        states: dict[int, int] = {}
        for step in reversed(self.steps):
            index = tuple(states[v] for v in step.scope[1:])
            states[step.scope[0]] = pick(np.moveaxis(step.table, 0, -1)[index])
        return states


def count(factors: Sequence[Factor]) -> Elimination:
    """Sum the product of the factors over all states; exact for tables of Python integers."""
    return eliminate(factors, np.multiply, lambda table: table.sum(axis=0), 1)


def minimise(factors: Sequence[Factor]) -> Elimination:
    """Find the smallest sum of the factors over all states; infinity marks what is forbidden."""
    return eliminate(factors, np.add, lambda table: table.min(axis=0), 0.0)


def eliminate(
    factors: Sequence[Factor],
    times: Callable[[Table, Table], Table],
    reduce_first: Callable[[Table], Table],
    one: Any,
) -> Elimination:
    """Sum the product of the factors over all states, in any commutative semiring.

    Args:
        factors: Tables of the semiring's values.
        times: Multiplies two tables elementwise, as a numpy ufunc does.
        reduce_first: Sums a table along its first axis.
        one: The neutral value of ``times``.
    """
    pending = list(factors)
    steps = []
    while variables := {v for factor in pending for v in factor.scope}:
        chosen = min(variables, key=lambda v: (_width(v, pending), v))
        mine = [factor for factor in pending if chosen in factor.scope]
        others = sorted({v for factor in mine for v in factor.scope} - {chosen})
        scope = (chosen, *others)
        product = reduce(times, (_aligned(factor, scope) for factor in mine))
        steps.append(Factor(scope, product))
        pending = [factor for factor in pending if chosen not in factor.scope]
        left = np.asarray(reduce_first(product), dtype=product.dtype)  # counts may be large
        pending.append(Factor(tuple(others), left))
    value = reduce(times, (factor.table for factor in pending), np.asarray(one))
    return Elimination(value.item() if hasattr(value, "item") else value, tuple(steps))


def _width(variable: int, factors: Sequence[Factor]) -> int:
    """Return how many states the table has that eliminating ``variable`` would make."""
    sizes: dict[int, int] = {}
    for factor in factors:
        if variable in factor.scope:
            sizes.update(zip(factor.scope, factor.table.shape, strict=True))
    return int(np.prod([*sizes.values()], dtype=object))


def _aligned(factor: Factor, scope: tuple[int, ...]) -> Table:
    """Return the factor's table with one axis for each variable of ``scope``."""
    present = [v for v in scope if v in factor.scope]
    table = factor.table.transpose([factor.scope.index(v) for v in present])
    sizes = dict(zip(present, table.shape, strict=True))
    return table.reshape([sizes.get(v, 1) for v in scope])
