"""One width everywhere: the curve that every mixed allocation has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from ..spaces import BitSpace, StudyError
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

    def check(self, space: BitSpace) -> None:
        """Refuse widths the space does not offer."""
        super().check(space)
        check_offered(space, (bits for pair in self._pairs(space) for bits in pair), "widths")

    def search(self, problem: Problem) -> None:
        """Measure each distinct uniform allocation within the limits."""
        pairs = self._pairs(problem.space)
        problem.evaluate(problem.only_allowed(problem.space.uniform(*pair) for pair in pairs))

    def _pairs(self, space: BitSpace) -> list[tuple[int, int]]:
        widths = self.widths or tuple(reversed(offered_widths(space)))
        return [(w, w) if isinstance(w, int) else w for w in widths]
