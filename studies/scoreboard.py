"""Where a running search stands, for those who watch it."""

import time
from collections.abc import Mapping, Sequence

from ..searchers import Pricing
from ..spaces import (
    Measurement,
    Objective,
    SpaceError,
    as_costs,
    hypervolume,
    pareto_front,
    reference_point,
)
from .progress import ProgressEvent
from .trials import Trial, titles


class Scoreboard:
    """Counts answers and keeps the common front of all trials.

    Args:
        trials: What is going to run.
        objectives: What the front trades off.
        pricing: What allocations cost.
    """

    def __init__(
        self, trials: Sequence[Trial], objectives: Sequence[Objective], pricing: Pricing
    ) -> None:
        self._trials: Mapping[str, Trial] = {trial.id: trial for trial in trials}
        self._titles = titles(trials)
        self._objectives = tuple(objectives)
        self._pricing = pricing
        self._done = dict.fromkeys(self._trials, 0)
        self._ended: set[str] = set()
        self._front: list[Measurement] = []
        self._best: float | None = None
        self._last, self._note = "", ""
        self._started = time.monotonic()

    def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""
        self._done[trial] = 0

    def add(self, trial: str, measurement: Measurement) -> None:
        """Count an answer."""
        self._done[trial] += 1
        self._last = self._titles[trial]
        if measurement.failed or measurement.fidelity < 1.0:
            return
        limits = self._trials[trial].budget.limits
        if self._pricing.within(measurement, limits):
            self._best = max(self._best or 0.0, measurement.accuracy)
            self._front = pareto_front([*self._front, measurement], self._objectives)

    def end(self, trial: str, error: str | None) -> None:
        """Note that a trial has ended; what it did not use of its budget is not waited for."""
        self._ended.add(trial)
        if error is not None:
            self._note = f"{self._titles[trial]} failed: {error}"

    def event(self) -> ProgressEvent:
        """Return where the search stands."""
        total = sum(
            self._done[name] if name in self._ended else trial.budget.evaluations
            for name, trial in self._trials.items()
        )
        return ProgressEvent(
            phase="search",
            done=sum(self._done.values()),
            total=total,
            trial=self._last,
            best=self._best,
            hypervolume=self._hypervolume(),
            elapsed_s=time.monotonic() - self._started,
            note=self._note,
        )

    def _hypervolume(self) -> float | None:
        if not self._front:
            return None
        try:
            reference = reference_point(self._objectives)
        except SpaceError:  # an objective without a standard worst value
            return None
        return hypervolume(as_costs(self._front, self._objectives), reference)
