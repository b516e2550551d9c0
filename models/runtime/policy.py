"""Which level answers an input.

After "Dynamic Precision Tuning for Energy Savings", an article of 2025: a top-1 probability over
0.9 stays low, one under 0.6 is redone in the highest precision, and what lies between in a middle
one.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...spaces import SpaceError
from ...spaces.dynamic import check_thresholds
from ..dynamic.cascade import confidence

Integers = npt.NDArray[np.int64]

THRESHOLDS = {2: (0.9,), 3: (0.9, 0.6)}
"""Of confidence, by the number of levels."""


class Policy(Protocol):
    """Says after each level that an input was run at whether its answer stands."""

    @property
    def decision_energy(self) -> float:
        """Energy of one decision relative to uniform 8 bit."""

    def next_levels(self, logits: Tensor, level: int) -> Integers:
        """Return the level to run each input at next; the same one if its answer stands.

        Args:
            logits: ``n x classes``, of one level that is not the highest.
            level: Which.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return what the audit log says of it."""


class FixedPolicy:
    """Every input is answered at the level that the guardrail allows."""

    decision_energy = 0.0

    def next_levels(self, logits: Tensor, level: int) -> Integers:
        """Return the level itself."""
        return np.full(len(logits), level, dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return its name."""
        return {"name": "fixed"}


class ConfidencePolicy:
    """An input of which a level is not sure is answered by a higher one.

    Of two levels, the first one's answer stands from ``thresholds[0]`` on. Of three, too; below
    ``thresholds[1]`` the last one answers; between them the second one does, if it is itself sure
    to ``thresholds[1]``, and else the last one. This is the rule of a cascade
    (`bitfront.models.dynamic.cascade.route`).

    Args:
        levels: How many there are.
        thresholds: Of the top-1 probability, falling, one fewer than levels; 0.9 and 0.6 if None.
        temperatures: What logits are divided by, for each level but the last; 1 if None.
        decision_energy: Of one decision, relative to uniform 8 bit.

    Raises:
        SpaceError: If the thresholds are out of order, or a number of these is wrong.
    """

    def __init__(
        self,
        levels: int,
        thresholds: Sequence[float] | None = None,
        *,
        temperatures: Sequence[float] | None = None,
        decision_energy: float = 0.0,
    ) -> None:
        if levels < 2:
            raise SpaceError(f"confidence chooses between at least 2 levels, got {levels}")
        if thresholds is None:
            thresholds = THRESHOLDS.get(levels, ())
        self.thresholds = tuple(thresholds)
        check_thresholds(self.thresholds, levels)
        self.temperatures = (1.0,) * (levels - 1) if temperatures is None else tuple(temperatures)
        if len(self.temperatures) != levels - 1 or not all(
            0 < temperature < math.inf for temperature in self.temperatures
        ):
            raise SpaceError(
                "confidence needs a positive temperature for each level but the last, got "
                f"{list(self.temperatures)} for {levels} levels"
            )
        self.decision_energy = decision_energy

    def next_levels(self, logits: Tensor, level: int) -> Integers:
        """Return the first level, from this one on, whose threshold the confidence reaches."""
        sure = confidence(logits, self.temperatures[level])
        reached = [sure >= threshold for threshold in self.thresholds[level:]]
        reached.append(np.ones(len(sure), dtype=bool))
        found: Integers = level + np.argmax(reached, axis=0)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return its name and settings."""
        return {
            "name": "confidence",
            "thresholds": list(self.thresholds),
            "temperatures": list(self.temperatures),
        }
