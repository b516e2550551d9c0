"""One width everywhere: the curve that every mixed allocation has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from ..spaces import BitAllocation, InfeasibleError, StudyError
from .base import Searcher
from .problem import Problem
from .registry import register
from .widths import check_offered, offered_widths


@register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Searcher):
    """Measures one width for all layers, then the next smaller one, and so on.

    What the space pins stays pinned, and an operand that does not offer a width gets the next
    larger one it offers.

    Attributes:
        widths: Widths in the order they are measured: one for both operands, or (weight,
            activation); every width the space offers, from high to low, if None.
    """

    summary: ClassVar[str] = "One width for all layers, from high to low."
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    deterministic: ClassVar[bool] = True

    widths: tuple[int | tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.widths is not None and not self.widths:
            raise StudyError("widths must name at least one width, or be left out for all")

    def search(self, problem: Problem) -> None:
        """Measure each distinct uniform allocation within the limits."""
        wished = self._pairs(problem)
        check_offered(problem.space, (bits for pair in wished for bits in pair), "widths")
        distinct = dict.fromkeys(problem.space.uniform(*pair) for pair in wished)
        allowed = [allocation for allocation in distinct if problem.allows(allocation)]
        if not allowed:
            raise InfeasibleError(_too_dear(problem, list(distinct)))
        problem.evaluate(allowed)

    def _pairs(self, problem: Problem) -> list[tuple[int, int]]:
        widths = self.widths or tuple(reversed(offered_widths(problem.space)))
        return [(w, w) if isinstance(w, int) else w for w in widths]


def _too_dear(problem: Problem, tried: list[BitAllocation]) -> str:
    limits = problem.budget.limits
    nearest = {name: min(problem.price(a, name) for a in tried) for name in limits}
    said = ", ".join(f"{name} {nearest[name]:.4g} (limit {limits[name]:g})" for name in limits)
    return f"no uniform allocation is within the limits; the cheapest tried cost {said}"
