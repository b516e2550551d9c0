"""What a strategy may spend, what an answer may cost, and whether that is possible at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING

import numpy as np

from ..spaces import (
    OBJECTIVES,
    BitAllocation,
    BitSpace,
    InfeasibleError,
    Measurement,
    StudyError,
    nearest,
)

if TYPE_CHECKING:
    from ..energy import Costs, EnergyModel

LIMITABLE = ("energy", "size", "bops")
"""The objectives that can be limited: those whose cost is known before anything is measured."""


class BudgetSpent(Exception):  # noqa: N818 - not an error: it is how a search normally ends
    """The evaluation budget is used up: how a search normally ends."""


@dataclass(frozen=True)
class Budget:
    """What a strategy may spend, and what an acceptable answer may cost.

    Attributes:
        evaluations: How many allocations it may ask for, the same one twice counted twice.
        limits: Objective -> the largest acceptable value: ``energy`` (relative to uniform 8
            bit), ``size`` (bytes) or ``bops``.

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
            if name not in LIMITABLE:
                raise StudyError(
                    f"a budget cannot limit {name!r}, only costs known before measuring; "
                    f"{nearest(name, LIMITABLE)}"
                )
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
                raise StudyError(f"the limit on {name} must be a positive number, got {limit!r}")


def check_feasible(space: BitSpace, energy: "EnergyModel", limits: Mapping[str, float]) -> None:
    """Check that some allocation of a space respects each limit.

    Args:
        space: Which allocations there are.
        energy: Prices them.
        limits: As in `Budget`.

    Raises:
        InfeasibleError: Saying the smallest achievable cost.
    """
    for name, limit in limits.items():
        smallest = smallest_cost(space, energy, name)
        if smallest > limit:
            # Rounded up, so that the number shown is one that can be asked for.
            shown = Context(prec=4, rounding=ROUND_CEILING).create_decimal(smallest)
            raise InfeasibleError(
                f"no allocation has {name} <= {limit_text(limit)} ({OBJECTIVES[name].unit}); the "
                f"smallest achievable is {shown:f}: raise the limit or allow smaller widths"
            )


def limit_text(limit: float) -> str:
    """Return a limit with all of its digits.

    Examples:
        >>> limit_text(0.6), limit_text(20000.0), limit_text(1234567)
        ('0.6', '20000', '1234567')
    """
    return repr(float(limit)).removesuffix(".0")


def smallest_cost(space: BitSpace, energy: "EnergyModel", name: str) -> float:
    """Return the smallest cost any allocation of a space has.

    Args:
        space: Which allocations there are.
        energy: Prices them.
        name: ``energy`` (relative to uniform 8 bit), ``size`` (bytes) or ``bops``.
    """
    if name == "energy":
        costs = energy.layer_costs
    else:
        bits = np.arange(33, dtype=np.float64)
        pairs = np.outer(bits, bits if name == "bops" else np.ones(33))
        counts = [layer.macs if name == "bops" else layer.weight_count for layer in space.layers]
        costs = np.array(counts, dtype=np.float64)[:, None, None] * pairs
    _, cheapest = space.minimum(costs)
    return price(energy, cheapest, name)


def respects(costs: "Costs | Measurement", limits: Mapping[str, float]) -> bool:
    """Return whether every limited cost is known (not NaN) and at most its limit.

    Args:
        costs: What an allocation costs, or what was measured of it.
        limits: As in `Budget`.
    """
    return all(getattr(costs, OBJECTIVES[name].attribute) <= limits[name] for name in limits)


def price(energy: "EnergyModel", allocation: BitAllocation, name: str) -> float:
    """Return what an allocation costs.

    Args:
        energy: Prices it.
        allocation: What to price.
        name: ``energy`` (relative to uniform 8 bit), ``size`` (bytes) or ``bops``.
    """
    return float(getattr(energy.costs(allocation), OBJECTIVES[name].attribute))
