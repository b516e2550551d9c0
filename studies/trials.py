"""Trials: strategy x budget x seed, and how one of them runs; light, without torch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..searchers import Budget, Evaluator, ModelSource, Pricing, Problem
from ..searchers.budget import limit_text
from ..spaces import BitAllocation, BitSpace, Measurement, Objective, Scores
from .findings import TRACE, plain
from .ledger import OwnWork, TrialRow
from .requests import Request
from .sections import StrategySpec
from .spec import StudySpec


@dataclass(frozen=True)
class Trial:
    """One run of one strategy.

    Attributes:
        strategy: The strategy and its settings.
        budget: What it may spend.
        seed: Its seed.
    """

    strategy: StrategySpec
    budget: Budget
    seed: int

    @property
    def id(self) -> str:
        """Its name, unique in the study."""
        return f"{self.strategy.label} | {budget_label(self.budget)} | {self.seed}"

    @property
    def title(self) -> str:
        """What people are shown."""
        return f"{self.strategy.label}, seed {self.seed}"

    def row(self) -> TrialRow:
        """Return the trial as the ledger plans it."""
        return TrialRow(self.id, self.strategy.label, budget_label(self.budget), self.seed)


def planned(spec: StudySpec) -> list[Trial]:
    """Return all trials of a study, in the order strategy, budget, seed.

    A deterministic strategy runs with the first seed only: with another it would ask the same
    again, and its equal results would pass for a variance of zero.
    """
    return [
        Trial(strategy, budget, seed)
        for strategy in spec.strategies
        for budget in spec.budgets
        for seed in (spec.seeds[:1] if strategy.build().deterministic else spec.seeds)
    ]


def budget_label(budget: Budget) -> str:
    """Return the words for a budget; different for any two budgets.

    Examples:
        >>> budget_label(Budget(30, {"energy": 0.6, "size": 20000}))
        '30 evaluations, energy <= 0.6, size <= 20000'
    """
    limits = (f"{name} <= {limit_text(limit)}" for name, limit in budget.limits.items())
    return ", ".join((f"{budget.evaluations} evaluations", *limits))


class ScoreKeeper(Protocol):
    """What has the sensitivity scores of a study, which all of its trials share."""

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        ...

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""


class TrialDesk(ScoreKeeper, Protocol):
    """Where a trial brings its questions: it answers, charges and records."""

    def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""

    def evaluate(self, requests: Sequence[Request], trial: str | None = None) -> list[Measurement]:
        """Answer requests in order, charged to a trial unless that is None."""
        ...

    def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""


@dataclass(frozen=True)
class SharedScores:
    """The scores of a study as a strategy's problem reaches them."""

    keeper: ScoreKeeper

    def get(self, signature: str) -> Scores | None:
        """Return the scores of that signature, if there are any."""
        return self.keeper.scores(signature)

    def put(self, scores: Scores) -> None:
        """Keep scores under their signature."""
        self.keeper.put_scores(scores)


@dataclass(frozen=True)
class Ground:
    """What all trials of a study have in common.

    Attributes:
        space: Which allocations there are.
        pricing: What they cost.
        objectives: What is compared.
        baseline: The float network on the search split.
    """

    space: BitSpace
    pricing: Pricing
    objectives: tuple[Objective, ...]
    baseline: Measurement

    def problem(
        self, trial: Trial, evaluator: Evaluator, model: ModelSource | None, desk: TrialDesk
    ) -> Problem:
        """Return the problem a trial is to solve, over the part of the space that it searches."""
        return Problem(
            trial.strategy.searched(self.space),
            self.pricing.energy,
            evaluator,
            trial.budget,
            seed=trial.seed,
            label=trial.strategy.label,
            objectives=self.objectives,
            baseline=self.baseline,
            model=model,
            tables=self.pricing.tables,
            score_store=SharedScores(desk),
        )


def run_trial(trial: Trial, ground: Ground, desk: TrialDesk, model: ModelSource | None) -> None:
    """Run a trial to its end; whatever its strategy raises ends this trial only.

    Args:
        trial: What to run.
        ground: What it shares with others.
        desk: Where its questions go.
        model: The network, for strategies that look into it.
    """
    started = time.monotonic()
    desk.begin(trial.id)

    def evaluator(
        allocations: Sequence[BitAllocation], *, fidelity: float = 1.0
    ) -> list[Measurement]:
        return desk.evaluate([Request(a, "search", fidelity) for a in allocations], trial.id)

    problem = ground.problem(trial, evaluator, model, desk)
    error, findings = None, {}
    try:
        trial.strategy.build().run(problem)
    except (Exception, SystemExit) as raised:  # a stranger's code may raise anything
        error = f"{type(raised).__name__}: {raised}"
    try:
        findings = dict(plain(problem.findings))
    except Exception as raised:
        error = error or f"its findings are no plain values: {type(raised).__name__}: {raised}"
    if problem.trace is not None:
        findings[TRACE] = problem.trace.to_dict()
    own = OwnWork(problem.images_forward, problem.images_backward, findings)
    desk.end(trial.id, time.monotonic() - started, error, own)
