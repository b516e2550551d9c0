"""What strategies that learn from rewards have in common: measuring episodes, and when to end."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ..spaces import BitAllocation, Measurement
from .problem import Problem

Reward = Literal["accuracy", "loss"]
"""What an episode is worth: ``accuracy``, a tenth of the points above the float network, as in HAQ;
``loss``, how far the logarithm of the loss is below that of the float network. Accuracies of
neighbouring allocations are often equal, losses never."""

MOST_FAILURES = 3
"""Episodes in a row without a finite reward that end a search."""

MOST_REPEATS = 100
"""Batches of episodes in a row that bring nothing new, after which nothing new is expected."""

_WIDEN = 1.1
"""How much wider noise should be for every batch of episodes that brought nothing new."""

_LEAST_LOSS = 1e-3
"""Added to losses, so that the logarithm of none is infinite; in nats."""


def quality(reward: Reward, baseline: Measurement | None) -> Callable[[Measurement], float]:
    """Return what says how good a measurement is; NaN where that cannot be said.

    Args:
        reward: By what.
        baseline: The float network; an accuracy of 0 and a loss of 1 nat if there is none.
    """
    float_accuracy, float_loss = (
        (0.0, 1.0) if baseline is None else (baseline.accuracy, baseline.loss)
    )

    def of(measurement: Measurement) -> float:
        if reward == "accuracy":
            return 10.0 * (measurement.accuracy - float_accuracy)
        if not 0 <= measurement.loss < math.inf:
            return math.nan
        return math.log((float_loss + _LEAST_LOSS) / (measurement.loss + _LEAST_LOSS))

    return of


class Episodes:
    """Measures the ends of episodes and says what they are worth.

    An allocation is asked for once: one that comes again is worth what it was, free of charge, and
    nothing new.

    Args:
        problem: Where they are measured.
        worth: The reward of an episode, by the measurement of its end.

    Attributes:
        count: Episodes so far.
        failed: Those with something new, but without a finite reward.
        repeats: Batches in a row that brought nothing new.
    """

    def __init__(self, problem: Problem, worth: Callable[[Measurement], float]) -> None:
        self._problem = problem
        self._worth = worth
        self._known = {m.allocation: m for m in problem.history}
        self._streak = 0
        self._has_ended = False
        self.count = 0
        self.failed = 0
        self.repeats = 0

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent, or the search has come to an end before."""
        return self._has_ended or self._problem.remaining == 0

    def progress(self, warmup: int = 0) -> float:
        """Return how far the search is after its warm-up, from 0 to 1 at the last evaluation."""
        total = self._problem.budget.evaluations - warmup - 1
        done = len(self._problem.history) - warmup
        return min(1.0, max(0.0, done / total)) if total > 0 else 1.0

    @property
    def widening(self) -> float:
        """How much farther than planned to look; 1 while there is something new."""
        return float(_WIDEN**self.repeats)

    def measure(self, allocations: Sequence[BitAllocation]) -> list[tuple[float, bool]]:
        """Return what episodes that end at some allocations are worth, and whether each is new.

        A reward that is not finite ends its episode and counts as failed. After `MOST_FAILURES`
        new ones in a row, or `MOST_REPEATS` batches with nothing new, the search is over, and the
        findings say why.

        Args:
            allocations: Ends of episodes that ran side by side, no more than evaluations remain.
        """
        new = dict.fromkeys(a for a in allocations if a not in self._known)
        self._known.update({m.allocation: m for m in self._problem.evaluate(list(new))})
        found = []
        for allocation in allocations:
            measurement = self._known[allocation]
            reward = self._worth(measurement)
            found.append((reward, allocation in new))
            self._log(measurement, reward)
            if allocation in new:
                del new[allocation]
                self._judge(measurement, reward)
        self.repeats = 0 if any(is_new for _, is_new in found) else self.repeats + 1
        if self.repeats == MOST_REPEATS:
            self._end(f"{MOST_REPEATS} batches of episodes in a row brought nothing new")
        return found

    def _log(self, measurement: Measurement, reward: float) -> None:
        self.count += 1
        self._problem.log(
            "episode",
            measurement.allocation,
            reward=reward,
            accuracy=measurement.accuracy,
            loss=measurement.loss,
        )

    def _judge(self, measurement: Measurement, reward: float) -> None:
        """Count failures, and end the search after too many in a row."""
        if math.isfinite(reward):
            self._streak = 0
            return
        self.failed += 1
        self._streak += 1
        self._problem.findings["failed_episodes"] = self.failed
        if self._streak == MOST_FAILURES:
            reason = measurement.error or f"the last reward is {reward}"
            self._end(f"the rewards of {MOST_FAILURES} in a row are not finite ({reason})")

    def _end(self, why: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            asked = len(self._problem.history)
            self._problem.findings.setdefault("notes", []).append(
                f"ended after {self.count} episodes and {asked} evaluations: {why}"
            )

    def state(self) -> dict[str, Any]:
        """Return where it stands, plain values by name; `restore` is the inverse."""
        return {
            "count": self.count,
            "failed": self.failed,
            "repeats": self.repeats,
            "streak": self._streak,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what this was the `state` of, on a problem with the same history."""
        self.count, self.failed = state["count"], state["failed"]
        self.repeats, self._streak = state["repeats"], state["streak"]
