"""How much energy weighs in the loss while bit-widths are learned.

`BetaSchedule` is the schedule of the paper; what energy it leads to is found by trial.
`BudgetSteering` finds the weight that leads to a given energy, within one run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..spaces import StudyError


@dataclass(frozen=True, kw_only=True)
class BetaSchedule:
    """A weight of the energy that grows linearly and then stays (EQAT, algorithm 1).

    Attributes:
        beta: The weight in the end.
        warmup_epochs: Epochs over which it grows; 0 for the full weight at once.

    Raises:
        StudyError: If the weight is negative or not finite, or the epochs are negative.
    """

    beta: float
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise StudyError(f"beta must be a number of at least 0, got {self.beta}")
        if self.warmup_epochs < 0:
            raise StudyError(f"warmup_epochs must be at least 0, got {self.warmup_epochs}")

    def at(self, epoch: float) -> float:
        """Return the weight in an epoch, the first of which is 1."""
        if self.warmup_epochs == 0:
            return self.beta
        return self.beta * min(1.0, epoch / self.warmup_epochs)


class BudgetSteering:
    """A controller of the weight of the energy that leads the learned energy to a target.

    The energy asked for falls along half a cosine from what it is at the start to the target, and
    then stays there. The weight follows the relative error by a proportional and an integral term
    in its logarithm: what weight is right depends on the loss and on the widths, over many orders
    of magnitude, and a weight is never negative.

    The gains suit a few hundred updates and more, and an optimizer that normalises gradients, such
    as Adam, with a learning rate of the widths of about 10 to 40 over the number of its steps. A
    learning rate that falls towards the end makes it exact.

    Args:
        target: The energy to end at, in the unit of what `update` is given.
        share: Share of the learning after which the target is asked for, in (0, 1].
        proportional: Change of the logarithm per relative error.
        integral: Change of the logarithm per relative error and the whole of the learning.

    Raises:
        StudyError: If a setting is not a positive number, or the share is above 1.
    """

    LOWEST, HIGHEST = 1e-8, 1e6
    """The weight starts at the lowest, which is no pressure on any loss that is used."""

    def __init__(
        self,
        target: float,
        *,
        share: float = 0.6,
        proportional: float = 200.0,
        integral: float = 1000.0,
    ) -> None:
        settings = {
            "target": target,
            "share": share,
            "proportional": proportional,
            "integral": integral,
        }
        for name, value in settings.items():
            if not 0 < value < math.inf:
                raise StudyError(f"{name} must be a positive number, got {value}")
        if share > 1:
            raise StudyError(f"share must be in (0, 1], got {share}")
        self.target, self.share = float(target), float(share)
        self.proportional, self.integral = float(proportional), float(integral)
        self._log_beta = math.log(self.LOWEST)
        self._start: float | None = None
        self._progress = 0.0
        self._error = 0.0

    @property
    def beta(self) -> float:
        """The weight that is in force."""
        return math.exp(self._log_beta)

    def goal(self, progress: float) -> float:
        """Return the energy asked for at some progress; the target before the first update.

        Args:
            progress: Share of the learning that is done, in [0, 1].
        """
        start = self.target if self._start is None else self._start
        left = 0.5 + 0.5 * math.cos(math.pi * min(progress / self.share, 1.0))
        return self.target + (start - self.target) * left

    def update(self, energy: float, progress: float) -> float:
        """Return the weight from now on.

        Args:
            energy: The energy of the widths as they are.
            progress: Share of the learning that is done, in [0, 1], never less than before.

        Raises:
            StudyError: If the energy is not a positive number, or progress went back.
        """
        if not 0 < energy < math.inf:
            raise StudyError(f"the learned energy must be a positive number, got {energy}")
        if not self._progress <= progress <= 1:
            raise StudyError(
                f"progress must be between {self._progress} and 1, got {progress}: it never falls"
            )
        if self._start is None:
            self._start, self._error = energy, 0.0
        error = energy / self.goal(progress) - 1
        self._log_beta += self.proportional * (error - self._error)
        self._log_beta += self.integral * (progress - self._progress) * error
        low, high = math.log(self.LOWEST), math.log(self.HIGHEST)
        self._log_beta = min(max(self._log_beta, low), high)
        self._error, self._progress = error, progress
        return self.beta

    def to_dict(self) -> dict[str, float | None]:
        """Return what has been learned so far as plain numbers, for `restore`."""
        return {
            "log_beta": self._log_beta,
            "start": self._start,
            "progress": self._progress,
            "error": self._error,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `to_dict` was called on a controller with the same settings.

        Raises:
            StudyError: If that is not such a state.
        """
        if set(state) != set(self.to_dict()):
            raise StudyError(
                f"the state of a steering has {sorted(self.to_dict())}, got {sorted(state)}"
            )
        self._log_beta, self._progress = float(state["log_beta"]), float(state["progress"])
        self._error = float(state["error"])
        self._start = None if state["start"] is None else float(state["start"])
