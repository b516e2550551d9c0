"""The samplers of Optuna as strategies.

[Optuna] Akiba, Sano, Yanase, Ohta, Koyama. Optuna: A Next-generation Hyperparameter Optimization
Framework. KDD 2019.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..spaces import BitAllocation, BitSpace, InfeasibleError, SpaceError, StudyError
from .additive import AdditiveModel
from .base import Searcher
from .budget import limit_text
from .optuna_studies import MEASURED, OptunaStudy, Sampler
from .pricing import shown_cost
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .widths import offered_widths

PATIENCE = 300
"""Asks in a row that lead to no measurement before a sampler is given up."""

GP_PATIENCE = 20
"""The same for the Gaussian process, which takes seconds to ask."""

MOST_GENES = {"gp": 200, "cmaes": 200}
"""The most free widths of samplers whose work grows with the square of their number, or faster."""

MOST_CAPS = 12
"""The most caps that CMA-ES searches under."""

GENERATIONS = 3
"""Generations that the budget must allow CMA-ES under every cap."""


@register("optuna")
@dataclass(frozen=True, kw_only=True)
class OptunaSearch(Searcher):
    """Lets a sampler of Optuna choose what is measured.

    One parameter for every free width, the study's objectives, and the budget's limits as
    constraints. An allocation beyond the limits is not measured, and one that was measured before
    is not measured again; the sampler is told of either. It ends when the budget is spent, or a
    sampler finds nothing new to ask for.

    Attributes:
        sampler: ``nsga2``, ``nsga3``, ``tpe`` (tree-structured Parzen estimator), ``gp``
            (Gaussian process) or ``cmaes``.
        batch: Allocations asked for at a time, and measured in parallel.
        population: Individuals of a generation: of ``nsga2``, ``nsga3`` and ``cmaes``.
        warm_start: Begin with the uniform allocations, the cheapest one and, where the network is
            at hand, the best ones by added-up sensitivity scores.
    """

    summary: ClassVar[str] = "A sampler of Optuna: NSGA-II or III, TPE, Gaussian process or CMA-ES."
    paper: ClassVar[str] = "Akiba, Sano, Yanase, Ohta, Koyama 2019"
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})

    sampler: Sampler = "nsga2"
    batch: int = 8
    population: int = 20
    warm_start: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise StudyError(f"batch must be at least 1, got {self.batch}")
        if self.population < 4:
            raise StudyError(f"population must be at least 4, got {self.population}")

    def check(self, space: BitSpace) -> None:
        """Refuse spaces too large for the sampler, or too small for CMA-ES."""
        super().check(space)
        most = MOST_GENES.get(self.sampler)
        if most is not None and space.genes > most:
            raise SpaceError(
                f"the sampler {self.sampler!r} takes at most {most} free widths, and the space has "
                f"{space.genes}: choose 'nsga2' or 'tpe', or free fewer widths"
            )
        if self.sampler == "cmaes" and space.genes < 2:
            raise SpaceError(
                f"the sampler 'cmaes' needs at least 2 free widths, and the space has "
                f"{space.genes}: choose another sampler, or free more widths"
            )

    def search(self, problem: Problem) -> None:
        """Measure what the sampler asks for, in batches, while there is budget."""
        warm = self._warm_start(problem)
        known = dict(zip(warm, problem.evaluate(warm), strict=True))
        studies = deque(self._studies(problem))
        for study, allocation in itertools.product(studies, warm):
            study.add(known[allocation])
        patience = GP_PATIENCE if self.sampler == "gp" else PATIENCE
        while studies and (left := min(problem.remaining, problem.space.size - len(known))):
            study = studies.popleft()
            asked = study.ask_for_new(min(self.batch, left), known, patience)
            fresh = list(dict.fromkeys(allocation for _, allocation in asked))
            known.update(zip(fresh, problem.evaluate(fresh), strict=True))
            for trial, allocation in asked:
                study.tell(trial, known[allocation])
            if study.misses < patience:
                studies.append(study)
        if not known:
            raise InfeasibleError(_none_found(problem))

    def _studies(self, problem: Problem) -> Iterator[OptunaStudy]:
        """Yield the studies that take turns: one, or for CMA-ES one under every cap."""
        caps: list[float | None] = [None]
        if self.sampler == "cmaes":
            caps = [*self._caps(problem)]
        for cap in caps:
            seed = int(problem.rng.integers(2**31))
            yield OptunaStudy(problem, self.sampler, population=self.population, seed=seed, cap=cap)

    def _caps(self, problem: Problem) -> list[float]:
        """Return caps on the problem's cost, evenly spaced up to its limit or its largest value."""
        if all(objective.name in MEASURED for objective in problem.objectives):
            return [problem.budget.limits.get(problem.cost_name, math.inf)]
        space, name = problem.space, problem.cost_name
        low = problem.pricing.smallest(space, name)
        high = problem.price(space.uniform(max(offered_widths(space))), name)
        high = max(low, min(high, problem.budget.limits.get(name, high)))
        affordable = problem.remaining // (GENERATIONS * self.population)
        count = min(max(affordable, 1), MOST_CAPS)
        return [low + (high - low) * (index + 1) / count for index in range(count)]

    def _warm_start(self, problem: Problem) -> list[BitAllocation]:
        """Return what is measured before the sampler is asked, at most half of the budget.

        Any start of the list spans the costs.
        """
        if not self.warm_start:
            return []
        space = problem.space
        candidates = [*map(space.uniform, reversed(offered_widths(space)))]
        for name in (problem.cost_name, *problem.budget.limits):
            candidates.append(space.minimum(problem.layer_costs(name))[1])
        if problem.has_model:
            candidates += _of_curve(problem, self.population)
        allowed = [a for a in dict.fromkeys(candidates) if problem.allows(a)]
        prices = [problem.price(allocation, problem.cost_name) for allocation in allowed]
        most = max(1, problem.remaining // 2)
        return [allowed[index] for index in farthest_first(prices)[:most]] if allowed else []


def _of_curve(problem: Problem, count: int) -> list[BitAllocation]:
    """Return the best allocations by added-up sensitivity scores, at spread out costs.

    What they were expected to score goes among the findings, to be compared with what they do.
    """
    from ..models.config import ScoreConfig

    config = ScoreConfig()
    model = AdditiveModel(problem.space, problem.scores(config).monotone().pairs())
    name = problem.cost_name
    curve = model.curve(problem.layer_costs(name))
    costs = curve.costs[curve.costs <= problem.budget.limits.get(name, math.inf)].tolist()
    chosen = farthest_first(costs)[:count] if costs else []
    members = [curve.allocation(index) for index in chosen]
    problem.findings["predicts"] = f"{config.kind} score"
    problem.findings["predicted"] = {member.key: model.predict(member) for member in members}
    return members


def _none_found(problem: Problem) -> str:
    limits = problem.budget.limits
    said = ", ".join(
        f"{name} <= {limit_text(limit)} (smallest achievable "
        f"{shown_cost(problem.pricing.smallest(problem.space, name))})"
        for name, limit in limits.items()
    )
    return f"the sampler asked for no allocation within the limits together: {said}"
