"""Every allocation of a small space: the answer that all other strategies are held against."""

from dataclasses import dataclass
from typing import ClassVar

from ..spaces import BitSpace, StudyError
from .base import Searcher
from .budget import Budget
from .problem import Problem
from .registry import register

BATCH = 64
"""Allocations asked for at a time: enough for any pool, few enough to show progress."""


@register("exhaustive")
@dataclass(frozen=True, kw_only=True)
class Exhaustive(Searcher):
    """Measures every allocation within the limits, in the order of the space.

    Its front is the best the space has. A space that is larger than the budget is refused before
    anything is measured: half of a space in a fixed order is worth less than any sample of it.
    """

    summary: ClassVar[str] = "Every allocation of a space no larger than the budget."
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    deterministic: ClassVar[bool] = True

    def check_budget(self, space: BitSpace, budget: Budget) -> None:
        """Refuse a space that is larger than the budget."""
        if space.size > budget.evaluations:
            raise StudyError(
                f"exhaustive measures all {space.size} allocations of the space, and the budget is "
                f"{budget.evaluations} evaluations: raise it, or offer fewer widths"
            )

    def search(self, problem: Problem) -> None:
        """Measure all of the space."""
        everything = problem.only_allowed(problem.space.enumerate())
        for start in range(0, len(everything), BATCH):
            problem.evaluate(everything[start : start + BATCH])
