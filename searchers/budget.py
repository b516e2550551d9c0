"""What a strategy may spend, and what an answer may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..spaces import StudyError, nearest

LIMITABLE = ("energy", "size", "bops", "mean_weight_bits", "mean_activation_bits")
"""The objectives that can be limited: those whose cost is known before anything is measured."""


class BudgetSpent(Exception):  # noqa: N818 - not an error: it is how a search normally ends
    """The evaluation budget is used up: how a search normally ends."""


@dataclass(frozen=True)
class Budget:
    """What a strategy may spend, and what an acceptable answer may cost.

    Attributes:
        evaluations: How many allocations it may ask for, the same one twice counted twice.
        limits: Cost -> its largest acceptable value: ``energy`` (relative to uniform 8 bit),
            ``energy:TABLE`` (the same under a further table of the study), ``size`` (bytes),
            ``bops``, ``mean_weight_bits`` or ``mean_activation_bits``.

    Raises:
        StudyError: If there is nothing to spend, or a limit is unknown or not positive.
    """

    evaluations: int
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.evaluations, bool) or not isinstance(self.evaluations, int):
            raise StudyError(
                f"a budget's evaluations must be a whole number, got {self.evaluations!r}"
            )
        if self.evaluations < 1:
            raise StudyError(f"a budget needs at least 1 evaluation, got {self.evaluations}")
        for name, limit in self.limits.items():
            if name not in LIMITABLE and not name.startswith("energy:"):
                raise StudyError(
                    f"a budget cannot limit {name!r}, only costs known before measuring; "
                    f"{nearest(name, LIMITABLE)}"
                )
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
                raise StudyError(f"the limit on {name} must be a positive number, got {limit!r}")


def limit_text(limit: float) -> str:
    """Return a limit with all of its digits.

    Examples:
        >>> limit_text(0.6), limit_text(20000.0), limit_text(1234567)
        ('0.6', '20000', '1234567')
    """
    return repr(float(limit)).removesuffix(".0")
