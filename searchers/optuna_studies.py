"""Optuna studies over a bit-width space: asked for allocations, told what came of them."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ..spaces import BitAllocation, BitSpace, Measurement, Objective
from .pricing import is_within
from .problem import Problem

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import IntDistribution
    from optuna.samplers import BaseSampler

Sampler = Literal["nsga2", "nsga3", "tpe", "gp", "cmaes"]

MEASURED = ("accuracy", "loss")
"""The objectives no price list knows."""

TOO_DEAR = -1e6
"""What CMA-ES is told of an allocation over a cap, less by how much: below every measured value,
and the better the nearer it is. CMA-ES looks at ranks only, so the distance does not matter."""


class OptunaStudy:
    """An Optuna study in memory, whose parameters are the genes of a space.

    A parameter is the index of a width among the choices of its gene, an integer, because widths
    are ordered. What is told of a draw is told of the allocation it became: a draw with a
    forbidden pair is told as failed, which every sampler ignores, and the allocation it is
    projected to is enqueued and asked for in its place.

    The study optimizes all objectives of the problem; the limits of the budget are its
    constraints, by what share of the limit they are exceeded. With a cap it has one objective, the
    problem's first that must be measured, for the sampler that has no more: CMA-ES.

    Args:
        problem: What is searched.
        sampler: Name of the sampler.
        population: Size of a generation, where the sampler has any.
        seed: The sampler's seed.
        cap: The largest acceptable price of `Problem.cost_name`; None for no cap and all
            objectives.

    Attributes:
        misses: Asks in a row that led to nothing new.
    """

    def __init__(
        self,
        problem: Problem,
        sampler: Sampler,
        *,
        population: int,
        seed: int,
        cap: float | None = None,
    ) -> None:
        import optuna

        self.misses = 0
        self._problem = problem
        self._parameters = parameters(problem.space)
        self._cap = cap
        self._has_generations = sampler in ("nsga2", "nsga3", "cmaes")
        self._objectives = problem.objectives if cap is None else (_to_measure(problem),)
        self._limits = dict(problem.budget.limits)
        if cap is not None:
            name = problem.cost_name
            self._limits[name] = min(cap, self._limits.get(name, math.inf))
        with quiet_optuna():
            self._study: Study = optuna.create_study(
                sampler=_make_sampler(sampler, len(self._objectives), population, seed),
                directions=["maximize" if o.maximize else "minimize" for o in self._objectives]
                if cap is None
                else ["maximize"],
            )

    def ask_for_new(
        self, count: int, known: Mapping[BitAllocation, Measurement], patience: int
    ) -> "list[tuple[Trial, BitAllocation]]":
        """Return trials of allocations to measure and to `tell` of.

        What need not be measured is told at once: what is known, and what is beyond the limits.

        Args:
            count: How many different allocations to return; there are fewer only when patience
                has ended. Several trials may have the same.
            known: What was measured before.
            patience: Asks in a row that may lead to nothing new.
        """
        pending = []
        fresh: set[BitAllocation] = set()
        while len(fresh) < count and self.misses < patience:
            trial, allocation = self._ask()
            self.misses += 1
            if not self._allows(allocation):
                self._refuse(trial, allocation)
            elif allocation in known:
                self.tell(trial, known[allocation])
            else:
                pending.append((trial, allocation))
                if allocation not in fresh:
                    fresh.add(allocation)
                    self.misses = 0
        return pending

    def add(self, measurement: Measurement) -> None:
        """Tell of a measurement that the sampler did not ask for."""
        allocation = measurement.allocation
        trial = self._enqueued(allocation)
        if self._allows(allocation):
            self.tell(trial, measurement)
        else:
            self._refuse(trial, allocation)

    def tell(self, trial: "Trial", measurement: Measurement) -> None:
        """Tell what was measured; a measurement that failed is told as failed."""
        values = [objective.of(measurement) for objective in self._objectives]
        if measurement.failed or not all(map(math.isfinite, values)):
            self._fail(trial)
        else:
            self._finish(trial, measurement.allocation, values)

    def _ask(self) -> "tuple[Trial, BitAllocation]":
        with quiet_optuna():
            trial = self._study.ask(dict(self._parameters))
        allocation = self._allocation(trial)
        if self._problem.space.contains(allocation):
            return trial, allocation
        self._fail(trial)
        allocation = self._problem.space.project(allocation)
        return self._enqueued(allocation), allocation

    def _enqueued(self, allocation: BitAllocation) -> "Trial":
        genes = self._problem.space.encode(allocation).tolist()
        self._study.enqueue_trial(dict(zip(self._parameters, genes, strict=True)))
        trial = self._study.ask(dict(self._parameters))
        if self._has_generations:
            # Optuna looks for a trial's generation when it draws, which an enqueued one needs not;
            # without one it would never be a parent.
            with quiet_optuna():
                _ = trial.relative_params
        return trial

    def _allows(self, allocation: BitAllocation) -> bool:
        return self._problem.pricing.allows(allocation, self._limits)

    def _refuse(self, trial: "Trial", allocation: BitAllocation) -> None:
        """Tell of an allocation beyond the limits, which nobody measures.

        Samplers with constraints rank it by how far it is beyond them; the prices are true, and of
        what must be measured the mean of the answers so far stands in. Only the Gaussian process
        looks at that, and the mean teaches it least: the worst value would say that accuracy falls
        where the limit is.
        """
        answers = [m for m in self._problem.history if not m.failed]
        values = [
            _mean([objective.of(m) for m in answers])
            if objective.name in MEASURED
            else self._problem.price(allocation, objective.name)
            for objective in self._objectives
        ]
        self._finish(trial, allocation, values)

    def _finish(self, trial: "Trial", allocation: BitAllocation, values: list[float]) -> None:
        excess = {}
        for name, limit in self._limits.items():
            price = self._problem.price(allocation, name)
            share = price / limit - 1.0
            excess[name] = min(share, 0.0) if is_within(price, limit) else share
        if not all(map(math.isfinite, excess.values())):
            self._fail(trial)
        elif self._cap is None:
            for name, share in excess.items():
                trial.set_constraint(name, share)
            self._study.tell(trial, values)
        else:
            beyond = sum(share for share in excess.values() if share > 0)
            sign = 1.0 if self._objectives[0].maximize else -1.0
            self._study.tell(trial, TOO_DEAR - beyond if beyond else sign * values[0])

    def _fail(self, trial: "Trial") -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _allocation(self, trial: "Trial") -> BitAllocation:
        return self._problem.space.decode([trial.params[name] for name in self._parameters])


def parameters(space: BitSpace) -> "dict[str, IntDistribution]":
    """Return Optuna's parameters of a space by name, in the order of its genes.

    A gene has the name of its operand, ``conv1.weight``, of the first one where several are tied,
    and in a per-channel space the channel behind it: ``conv1.weight[3]``.
    """
    from optuna.distributions import IntDistribution

    found = {}
    for variable in space.variables:
        if len(variable.choices) > 1:
            operand, last = variable.slots[0].show(space.layers), len(variable.choices) - 1
            for channel in range(variable.channels):
                name = operand if variable.channels == 1 else f"{operand}[{channel}]"
                found[name] = IntDistribution(0, last)
    return found


def _make_sampler(name: Sampler, objectives: int, population: int, seed: int) -> "BaseSampler":
    from optuna import samplers

    makers: Mapping[Sampler, Callable[[], BaseSampler]] = {
        "nsga2": lambda: samplers.NSGAIISampler(population_size=population, seed=seed),
        "nsga3": lambda: samplers.NSGAIIISampler(
            population_size=population,
            seed=seed,
            dividing_parameter=_divisions(objectives, population),
        ),
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
        "cmaes": lambda: samplers.CmaEsSampler(
            popsize=population, seed=seed, warn_independent_sampling=False
        ),
    }
    return makers[name]()


def _divisions(objectives: int, population: int) -> int:
    """Return how finely NSGA-III divides an axis, for about as many directions as individuals."""
    divisions = 1
    while objectives > 1 and math.comb(divisions + objectives, objectives - 1) <= population:
        divisions += 1
    return divisions


def _to_measure(problem: Problem) -> Objective:
    """Return the first objective that must be measured; the first of all if none must."""
    objectives = problem.objectives
    return next((o for o in objectives if o.name in MEASURED), objectives[0])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing a study, an experimental feature, or how its sampler gets on.

    Its logger and the warning filters are the user's, and are as before when this ends.
    """
    from optuna.exceptions import ExperimentalWarning

    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)
