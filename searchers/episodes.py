"""What strategies that learn from rewards have in common: measuring episodes, and when to end."""

import math
from collections.abc import Mapping, Sequence
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

_LEAST_LOSS = 1e-3
"""Added to losses, so that the logarithm of none is infinite; in nats."""


class Episodes:
    """Measures the ends of episodes and says what they are worth.

    An allocation is asked for once: one that comes again is worth what it was, and free.

    Args:
        problem: Where they are measured.
        reward: What they are worth.

    Attributes:
        count: Episodes so far.
        failed: Those of them without a finite reward.
        repeats: Batches in a row that brought nothing new.
    """

    def __init__(self, problem: Problem, reward: Reward) -> None:
        self._problem = problem
        self._reward = reward
        self._known = {m.allocation: m for m in problem.history}
        self._streak = 0
        self.count = 0
        self.failed = 0
        self.repeats = 0

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent, or the search has come to an end before."""
        return (
            self._problem.remaining == 0
            or self._streak >= MOST_FAILURES
            or self.repeats >= MOST_REPEATS
        )

    def progress(self, warmup: int = 0) -> float:
        """Return how far the search is after its warm-up, from 0 to 1 at the last evaluation."""
        total = self._problem.budget.evaluations - warmup - 1
        done = len(self._problem.history) - warmup
        return min(1.0, max(0.0, done / total)) if total > 0 else 1.0

    def measure(self, allocations: Sequence[BitAllocation]) -> list[tuple[float, bool]]:
        """Return what episodes that end at some allocations are worth, and whether each is new.

        A reward that is not finite ends its episode and counts as failed; after `MOST_FAILURES` in
        a row the search is over, and the findings say why.

        Args:
            allocations: Ends of episodes that ran side by side, no more than evaluations remain.
        """
        new = [a for a in dict.fromkeys(allocations) if a not in self._known]
        self.repeats = 0 if new else self.repeats + 1
        self._known.update({m.allocation: m for m in self._problem.evaluate(new)})
        fresh = set(new)
        found = []
        for allocation in allocations:
            found.append((self._finish(self._known[allocation]), allocation in fresh))
            fresh.discard(allocation)
        return found

    def _finish(self, measurement: Measurement) -> float:
        reward = self._worth(measurement)
        self.count += 1
        self._problem.log(
            "episode",
            measurement.allocation,
            reward=reward,
            accuracy=measurement.accuracy,
            loss=measurement.loss,
        )
        if math.isfinite(reward):
            self._streak = 0
            return reward
        self.failed += 1
        self._streak += 1
        self._problem.findings["failed_episodes"] = self.failed
        if self._streak == MOST_FAILURES:
            reason = measurement.error or f"the last one has a {self._reward} of {reward}"
            self._problem.findings.setdefault("notes", []).append(
                f"ended after {self.count} episodes: the rewards of {MOST_FAILURES} in a row are "
                f"not finite ({reason})"
            )
        return reward

    def _worth(self, measurement: Measurement) -> float:
        baseline = self._problem.baseline
        if self._reward == "accuracy":
            return 10.0 * (measurement.accuracy - (0.0 if baseline is None else baseline.accuracy))
        float_loss = 1.0 if baseline is None else baseline.loss
        loss = measurement.loss
        if not 0 <= loss < math.inf:
            return math.nan
        return math.log((float_loss + _LEAST_LOSS) / (loss + _LEAST_LOSS))

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
