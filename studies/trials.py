"""Trials: strategy x budget x seed, and how one of them runs; light, without torch."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .. import __version__
from ..searchers import Budget, Evaluator, ModelSource, Pricing, Problem
from ..searchers.budget import limit_text
from ..searchers.checkpoint import CHECKPOINT_VERSION, Checkpoint
from ..spaces import (
    BitAllocation,
    BitSpace,
    Measurement,
    Objective,
    SpaceError,
    StudyError,
    pareto_front,
)
from .desk import SharedScores, TrialCheckpoints, TrialDesk
from .findings import TRACE, plain
from .ledger import OwnWork, TrialRow
from .requests import Request
from .sections import StrategySpec
from .spec import StudySpec
from .training_code import module_text, training_code

if TYPE_CHECKING:
    from ..searchers.problem import Networks


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
    def trains(self) -> bool:
        """Whether its strategy trains the network, which takes as much as a worker does."""
        return self.strategy.build().trains

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
        for budget in spec.budgets_of(strategy)
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


def titles(trials: Iterable[Trial]) -> dict[str, str]:
    """Return what people are shown of each trial, by its id.

    That is strategy and seed, with the budget where the strategy has several.
    """
    rows = [trial.row() for trial in trials]
    budgets: dict[str, set[str]] = {}
    for row in rows:
        budgets.setdefault(row.strategy, set()).add(row.budget)
    return {
        row.id: f"{row.strategy}, seed {row.seed}"
        + (f", {row.budget}" if len(budgets[row.strategy]) > 1 else "")
        for row in rows
    }


def front_of(
    trial: Trial, history: Iterable[Measurement], objectives: Sequence[Objective], pricing: Pricing
) -> list[Measurement]:
    """Return what a trial found: measured on all images, within its limits, not dominated.

    Args:
        trial: The trial.
        history: What it was answered.
        objectives: What is compared.
        pricing: What allocations cost.
    """
    limits = trial.budget.limits
    return pareto_front(
        [m for m in history if m.fidelity == 1.0 and pricing.within(m, limits)],
        objectives,
    )


@dataclass(frozen=True)
class Ground:
    """What all trials of a study have in common.

    Attributes:
        space: Which allocations there are.
        pricing: What they cost.
        objectives: What is compared.
        baseline: The float network on the search split.
        training: Digest of the images that strategies train on; empty if none does.
    """

    space: BitSpace
    pricing: Pricing
    objectives: tuple[Objective, ...]
    baseline: Measurement
    training: str = ""

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
            checkpoints=TrialCheckpoints(desk, trial.id, self.signature(trial)),
        )

    def signature(self, trial: Trial) -> str:
        """Return a hexadecimal name of all that makes a trial ask what it asks.

        All but what is measured: a ledger adds that. The code of the strategy is part of it, as far
        as that can be told; where it trains, also the code that trains for it.
        """
        strategy, space = trial.strategy.build(), trial.strategy.searched(self.space)
        models = (self.pricing.energy, *self.pricing.tables.values())
        facts = [
            CHECKPOINT_VERSION,
            __version__,
            f"{type(strategy).__module__}:{type(strategy).__qualname__}",
            module_text(type(strategy)),
            strategy.settings(),
            [trial.strategy.label, trial.seed, asdict(trial.budget)],
            [objective.name for objective in self.objectives],
            [space.granularity, sorted(space.forbid)],
            [asdict(variable) for variable in space.variables],
            [[m.table.model_dump_json(), m.options.model_dump_json()] for m in models],
            [self.training, training_code(type(strategy))] if strategy.trains else "",
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def run_trial(trial: Trial, ground: Ground, desk: TrialDesk, model: ModelSource | None) -> None:
    """Run a trial to its end; whatever its strategy raises ends this trial only.

    Args:
        trial: What to run.
        ground: What it shares with others.
        desk: Where its questions go.
        model: The network, for strategies that look into it.
    """
    desk.begin(trial.id)

    def evaluator(
        allocations: Sequence[BitAllocation],
        *,
        fidelity: float = 1.0,
        networks: "Networks | None" = None,
    ) -> list[Measurement]:
        if networks is None:
            return desk.evaluate([Request(a, "search", fidelity) for a in allocations], trial.id)
        digests = [network if isinstance(network, str) else network.digest for network in networks]
        handed = {n.digest: n.to_bytes() for n in networks if not isinstance(n, str)}
        requests = [
            Request(allocation, "search", fidelity, digest)
            for allocation, digest in zip(allocations, digests, strict=True)
        ]
        return desk.evaluate(requests, trial.id, handed)

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
    own = OwnWork(problem.images_forward, problem.images_backward, findings, problem.finished)
    desk.end(trial.id, problem.wall_s, error, own)


def saved_work(data: bytes | None) -> tuple[float, OwnWork]:
    """Return the seconds and the own work of a trial as it saved them last; none if it did not.

    That is all there is of a trial whose process died.

    Args:
        data: Its checkpoint.
    """
    if data is None:
        return 0.0, OwnWork()
    try:
        saved = Checkpoint.from_bytes(data)
    except (StudyError, SpaceError):  # damaged
        return 0.0, OwnWork()
    findings = dict(plain(saved.findings))
    if saved.trace is not None:
        findings[TRACE] = dict(saved.trace)
    own = OwnWork(saved.images_forward, saved.images_backward, findings, saved.finished)
    return saved.wall_s, own
