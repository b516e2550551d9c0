"""LearnPrec: every channel's width chosen for every input, by small networks.

[LP] Nivetha, Manjula, Sayfiddinova, Sharma. Inference-Time Energy Minimization Through Learnable
Numerical Precision In Activation Computation (LearnPrec).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..models.config import ScoreConfig, ScoreKind
from ..models.dynamic.settings import FitSettings
from ..spaces import BitAllocation, BitSpace, StudyError
from .additive import AdditiveModel, check_time_limit
from .additive_search import cheapest_within, solve_within
from .learnprec_base import SelectorSearcher
from .learnprec_curve import Curve
from .learnprec_fit import Calibrated, fitted
from .learnprec_plan import (
    REFERENCE_BITS,
    Plan,
    narrowed,
    note_static,
    offered,
    plan,
    widest_plan,
)
from .problem import Problem
from .registry import register
from .spread import farthest_first

_EXAMPLES = 3
"""Images that show how data flows."""


@register("learnprec")
@dataclass(frozen=True, kw_only=True)
class LearnPrec(FitSettings, SelectorSearcher):
    """Lets a small network choose the width of every activation channel, for every input [LP].

    The network's weights stay as they are: selectors are fitted to calibration images. Scores of
    all selectors can be moved together, and so one fit gives a curve of energies, of which
    ``points`` are measured.

    Attributes:
        weights: Width of the weights, or the next lower one with which the limits can be met; or
            ``ilp``: for every energy that is aimed at the widths that sensitivity scores say are
            best, and with them those of activations that do not choose.
        headroom: Of ``ilp``: by how much the static allocation may cost more than what is aimed
            at, as a share of that.
        score: Of ``ilp``: what is summed.
        time_limit_s: Of ``ilp``: seconds the solver may take for each answer.
        points: Energies that are aimed at: evenly between the narrowest and the widest choices, or
            up to the limit.
    """

    summary: ClassVar[str] = "Chooses the width of every activation channel for every input."

    weights: int | Literal["ilp"] = 8
    headroom: float = 0.0
    score: ScoreKind = "kl"
    time_limit_s: float = 60.0
    points: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        ScoreConfig(kind=self.score)  # refuses what it does not know
        check_time_limit(self.time_limit_s)
        if self.weights != "ilp" and not 2 <= self.weights <= REFERENCE_BITS:
            raise StudyError(f"weights have from 2 to {REFERENCE_BITS} bits, got {self.weights}")
        if not 0 <= self.headroom < math.inf:
            raise StudyError(f"headroom must be a share of at least 0, got {self.headroom}")
        if self.points < 1:
            raise StudyError(f"points must be at least 1, got {self.points}")

    def narrowed(self, space: BitSpace) -> BitSpace:
        """Return the static allocations that choices are made around."""
        return narrowed(space, self.widths, None if self.weights == "ilp" else self.weights)

    def search(self, problem: Problem) -> None:
        """Fit, then measure the energies that are aimed at; for ``ilp`` one fit for each."""
        from ..models.threads import fixed_threads

        seed = int(problem.rng.integers(2**31))
        with fixed_threads(self.threads):
            network = _Network(self, problem, seed)
            if self.weights == "ilp":
                self._search_allocations(problem, network)
            else:
                self._search_energies(problem, network)

    def _search_energies(self, problem: Problem, network: "_Network") -> None:
        assert isinstance(self.weights, int)
        found = network.widest_plan(self.weights)
        if found is None:
            _measure_static(problem, self.narrowed(self.searched(problem.space)))
            return
        network.curve(found).measure_spread(self.points)

    def _search_allocations(self, problem: Problem, network: "_Network") -> None:
        space, limits = self.narrowed(self.searched(problem.space)), problem.budget.limits
        scores = problem.scores(ScoreConfig(kind=self.score))
        model = AdditiveModel(space, scores.monotone().pairs())
        low = problem.pricing.smallest(space, "energy")
        high = problem.price(space.uniform(8))
        high = min(high, limits.get("energy", high))
        targets = np.linspace(low, high, self.points + 1)[1:][::-1]
        said = []
        for index in farthest_first(targets.tolist()):
            if not problem.remaining:
                break
            aimed = float(targets[index])
            within = {**limits, "energy": aimed * (1 + self.headroom)}
            solution = solve_within(problem.pricing, model, within, self.time_limit_s)
            said.append(solution.to_dict())
            found = network.plan(solution.allocation)
            if found is None:
                problem.evaluate([solution.allocation])
                continue
            network.curve(found, (aimed, aimed)).measure(aimed)
        problem.findings["solver"] = said


class _Network:
    """The network that selectors are fitted to, and what it is calibrated on."""

    def __init__(self, settings: LearnPrec, problem: Problem, seed: int) -> None:
        from ..models.dynamic.operands import layouts

        self._settings, self._problem, self._seed = settings, problem, seed
        self._space = settings.searched(problem.space)
        self._calibrated = Calibrated.of(problem.quantized_model(), problem.calibration())
        self._layouts = layouts(self._calibrated.model, self._calibrated.images[:_EXAMPLES])
        self._is_noted = False

    def plan(self, base: BitAllocation) -> Plan | None:
        """Return what there is to choose around an allocation."""
        found = plan(self._space, self._problem.energy, base, self._settings, self._layouts)
        return self._noted(found)

    def widest_plan(self, weights: int) -> Plan | None:
        """Return what there is to choose with uniform weights; see `learnprec_plan.widest_plan`."""
        problem = self._problem
        limits = problem.budget.limits
        found = widest_plan(
            self._space, problem.pricing, limits, self._settings, weights, self._layouts
        )
        return self._noted(found)

    def curve(self, found: Plan, span: tuple[float, float] | None = None) -> Curve:
        """Fit the selectors of a plan; see `fitted`."""
        return fitted(self._problem, self._settings, found, self._calibrated, self._seed, span)

    def _noted(self, found: Plan | None) -> Plan | None:
        """Say once what does not choose, where it could have but for what that costs."""
        if not self._is_noted:
            self._is_noted = True
            offer = offered(self._space, self._problem.energy, self._settings, self._layouts)
            note_static(self._problem, self._settings, offer)
        return found


def _measure_static(problem: Problem, space: BitSpace) -> None:
    """Measure the one allocation there is where nothing chooses."""
    widest = space.uniform(8)
    if not problem.allows(widest):
        widest = cheapest_within(space, problem.pricing, problem.budget.limits)
    problem.evaluate([widest])
