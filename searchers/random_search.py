"""Random search: what a strategy must beat to have learned anything."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..spaces import BitAllocation, InfeasibleError
from .base import Searcher
from .pricing import shown_cost
from .problem import Problem
from .registry import register

BATCH = 64
"""Allocations asked for at a time: enough for any pool, few enough to show progress."""

TRIES = 2_000
"""Draws in a row that may be repeats or too dear before random drawing is given up."""

ENUMERABLE = 10_000
"""The largest space whose rest is listed when drawing has been given up."""


@register("random")
@dataclass(frozen=True, kw_only=True)
class RandomSearch(Searcher):
    """Measures distinct random allocations within the limits until the budget is spent.

    In a large space, allocations drawn uniformly are all alike: their energies crowd around the
    mean, and one of dozens of layers is nearly always at the smallest width. So by default a level
    t is drawn from [0, 1] first and every width from a binomial with mean t: each width is still
    uniform over its choices (the beta-binomial law with a = b = 1), and the allocations spread
    from the cheapest to the dearest. That makes a stronger and fairer baseline.

    Attributes:
        spread: Draw as above; otherwise each allocation of the space is equally likely.
    """

    summary: ClassVar[str] = "Distinct random allocations, spread from the cheapest to the dearest."
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})

    spread: bool = True

    def search(self, problem: Problem) -> None:
        """Measure what `_candidates` yields, in batches, while there is budget."""
        candidates = self._candidates(problem)
        while problem.remaining:
            batch = list(itertools.islice(candidates, min(BATCH, problem.remaining)))
            if not batch:
                return
            problem.evaluate(batch)

    def _candidates(self, problem: Problem) -> Iterator[BitAllocation]:
        """Yield distinct allocations within the limits; all of them in a small space."""
        seen: set[BitAllocation] = set()
        misses = 0
        while misses < TRIES and len(seen) < problem.space.size:
            allocation = self._draw(problem)
            if allocation in seen or not problem.allows(allocation):
                misses += 1
                continue
            misses = 0
            seen.add(allocation)
            yield allocation
        if len(seen) < problem.space.size <= ENUMERABLE:
            rest = [a for a in problem.space.enumerate() if a not in seen and problem.allows(a)]
            for index in problem.rng.permutation(len(rest)):
                seen.add(rest[index])
                yield rest[index]
        if not seen:
            raise InfeasibleError(_none_found(problem))

    def _draw(self, problem: Problem) -> BitAllocation:
        space, rng = problem.space, problem.rng
        if not self.spread:
            return space.sample(rng)
        most = np.array([len(choices) - 1 for choices in space.gene_choices], dtype=np.int64)
        drawn = space.decode(rng.binomial(most, rng.random()))
        return drawn if space.contains(drawn) else space.project(drawn)


def _none_found(problem: Problem) -> str:
    limits = problem.budget.limits
    smallest = {name: problem.pricing.smallest(problem.space, name) for name in limits}
    said = ", ".join(
        f"{name} <= {limits[name]:g} (smallest achievable {shown_cost(smallest[name])})"
        for name in limits
    )
    return f"{TRIES} random draws found no allocation within the limits together: {said}"
