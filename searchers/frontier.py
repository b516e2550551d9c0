"""Our own search: an additive start, a learned correction, and few images for poor candidates.

The parts are known: additive scores and their exact Pareto set (HAWQ-V3, arXiv:2011.10680), a
Gaussian process over discrete choices, the expected hypervolume improvement (M. Emmerich,
K. Giannakoglou, B. Naujoks, IEEE TEVC 10(4), 2006), races (O. Maron, A. Moore, NIPS 1993). What
makes them fit each other here: costs are known exactly before anything is measured, so that only
one of two objectives is uncertain and the improvement is a sum of one-dimensional ones.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from ..models.config import ScoreConfig, ScoreKind
from ..spaces import StudyError, non_dominated
from .additive import AdditiveModel
from .additive_search import solve_within
from .base import Searcher
from .cost_axis import CostAxis
from .improvement import most_promising
from .pareto_sums import widths_of
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .surrogate import Surrogate, fit

if TYPE_CHECKING:
    from ..models.divergence import LogitDivergence

Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.int64]

TIME_LIMIT_S = 60.0
"""Seconds for the exact optimum under the limits."""

POOL = 2000
"""Candidates that are compared by the surrogate in each round."""

SEEDS = 24
"""Members of an additive curve that are looked at."""

CURVE = 512
"""Points that an additive curve is thinned to."""

CENTRES = 4
"""Members of the front near which the additive model is solved again, in each round."""

HOPELESS = 1.0
"""Standard errors by which a candidate has to be behind on the first images to be given up."""

FLOOR = 1e-6
"""Divergences below this, in nats, are equal."""


@register("frontier")
@dataclass(frozen=True, kw_only=True)
class Frontier(Searcher):
    """Searches the front where it is uncertain, starting from the additive model's.

    1. Sensitivity scores give the additive model, and its exact Pareto set is looked at first.
    2. Candidates are *screened*: their divergence KL(float || quantized) of logits is measured on
       calibration images, on the first few at first; who is clearly behind on those is given up.
    3. A surrogate learns what the additive model has wrong, pairs of choices included. Candidates
       are made from the front so far and from the additive model solved again with what was
       learned, and those with the largest expected hypervolume improvement are screened next.
    4. In the second half of the rounds the most promising of those screened are measured on the
       search split.

    Where the budget limits the cost that is compared, all of this happens just below the limit.

    Attributes:
        score: Sensitivity score of the additive model.
        screens: Candidates screened for each evaluation of the budget.
        screen_images: Calibration images used to screen; all if None.
        rounds: Rounds that the budget is divided into.
    """

    summary: ClassVar[str] = (
        "The additive front, corrected by what measurements teach about pairs of layers."
    )
    needs_model: ClassVar[bool] = True

    score: ScoreKind = "fisher"
    screens: float = 4.0
    screen_images: int | None = 256
    rounds: int = 8

    def __post_init__(self) -> None:
        ScoreConfig(kind=self.score, images=self.screen_images)
        if not 0 < self.screens < math.inf:
            raise StudyError(f"screens must be a positive number, got {self.screens}")
        if self.rounds < 1:
            raise StudyError(f"rounds must be at least 1, got {self.rounds}")

    def search(self, problem: Problem) -> None:
        """Screen and measure in rounds until the budget is spent."""
        from ..models.divergence import LogitDivergence  # brings torch

        scores = problem.scores(ScoreConfig(kind=self.score, images=self.screen_images)).monotone()
        divergence = LogitDivergence(
            problem.shared_model, problem.calibration(), self.screen_images
        )
        model = AdditiveModel(problem.space, scores.pairs())
        problem.charge(forward=divergence.count)  # in float, to compare with
        search = _Search(problem, model, divergence, CostAxis.of(problem))
        search.screen(search.first_candidates())
        screens = math.ceil(self.screens * problem.budget.evaluations)
        rounds = min(self.rounds, problem.remaining)
        for number in range(rounds):
            left = rounds - number
            wanted = -(-(screens - len(search.rows)) // left)
            if wanted > 0 and len(search.rows) < problem.space.size:
                search.screen(search.next_candidates(wanted))
            search.report(self.score)
            if 2 * number >= rounds - 1:  # until then candidates still get much better
                search.measure(-(-problem.remaining // left))


@dataclass(eq=False)
class _Search:
    """What is known so far: the candidates that were screened, and which of them were measured.

    Attributes:
        problem: What is to be solved.
        model: The additive model.
        divergence: Screens.
        axis: The costs.
        rows: ``v`` choices of every candidate screened.
        costs: What each costs.
        values: The logarithm of its mean divergence.
        firsts: Its divergence on each of the first images.
        measured: Which of them were measured on the search split.
        expected: Divergence that the surrogate predicted of some, before they were screened.
    """

    problem: Problem
    model: AdditiveModel
    divergence: "LogitDivergence"
    axis: CostAxis
    rows: list[States] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    firsts: list[Floats] = field(default_factory=list)
    measured: set[int] = field(default_factory=set)
    expected: dict[int, float] = field(default_factory=dict)

    # Candidates

    def first_candidates(self) -> States:
        """Return uniform allocations, and members of the additive curve that span the costs."""
        space, limits = self.problem.space, self.problem.budget.limits
        widths = sorted({bits for variable in space.variables for bits in variable.choices})
        known = [space.uniform(bits) for bits in widths]
        if limits:  # there may be so many that none of the curve is within all of them
            known.append(
                solve_within(self.problem.pricing, self.model, limits, TIME_LIMIT_S).allocation
            )
        first = np.array([self.axis.states(allocation) for allocation in known])
        fresh = self._fresh(np.concatenate([first, self._span(self.model, SEEDS)]))
        return fresh[[self.problem.allows(a) for a in self.axis.allocations(fresh)]]

    def next_candidates(self, count: int) -> States:
        """Return those with the largest expected improvement of the front."""
        surrogate = self._surrogate()
        pool = self._fresh(np.concatenate([self._solved_again(surrogate), self._changed()]))
        costs, _ = self.axis.price(pool)
        mean, deviation = surrogate.predict(pool[:, self.axis.free], self._prior(pool))
        chosen = most_promising(costs, mean, deviation, self._staircase(), self.axis, count)
        # A price may be above the sum over the layers: sizes are rounded up to bytes.
        allocations = self.axis.allocations(pool[chosen])
        chosen = [
            index
            for index, allocation in zip(chosen, allocations, strict=True)
            if self.problem.allows(allocation)
        ]
        for place, index in enumerate(chosen, start=len(self.rows)):
            self.expected[place] = float(mean[index])
        return pool[chosen]

    def _span(self, model: AdditiveModel, count: int) -> States:
        """Return members of a model's curve: half of them anywhere, half where it counts."""
        curve = model.curve(self.axis.costs, cap=CURVE)
        states = curve.states.astype(np.int64)
        _, within = self.axis.price(states)
        chosen: list[int] = []
        for part in (within, within & (curve.costs >= self.axis.lowest)):
            members = np.flatnonzero(part)[::-1]
            if len(members):
                order = farthest_first(curve.costs[members].tolist())
                chosen += members[order[: count // 2]].tolist()
        return states[chosen]

    def _solved_again(self, surrogate: Surrogate) -> States:
        """Return members of the additive curves that hold near some members of the front.

        Near one allocation the surrogate is additive: its value where one choice is changed gives
        scores, and what is optimal under those is a step of all layers at once.
        """
        front = np.array(self.rows)[self._front()]
        centres = self.problem.rng.choice(len(front), size=min(CENTRES, len(front)), replace=False)
        found = []
        for centre in front[np.sort(centres)]:
            changed, places = [], []
            for v, variable in enumerate(self.problem.space.variables):
                for state, bits in enumerate(variable.choices):
                    changed.append(np.where(np.arange(len(centre)) == v, state, centre))
                    places.append((variable.slots[0], bits))
            states = np.array(changed)
            mean, _ = surrogate.predict(states[:, self.axis.free], self._prior(states))
            scores = np.where(np.isnan(self.model.scores), np.nan, 0.0)
            for (slot, bits), value in zip(places, np.exp(mean).tolist(), strict=True):
                if slot.operand == "weight":
                    scores[slot.layer, bits, :] += value
                else:
                    scores[slot.layer, :, bits] += value
            found.append(self._span(AdditiveModel(self.problem.space, scores), SEEDS))
        return np.concatenate(found)

    def _changed(self) -> States:
        """Return members of the front with one to three choices changed at random."""
        rng = self.problem.rng
        parents = np.array(self.rows)[self._front()]
        sizes = np.array([len(variable.choices) for variable in self.problem.space.variables])
        free = self.axis.free
        children = parents[rng.integers(len(parents), size=POOL)].copy()
        changes = rng.integers(1, 4, size=POOL)
        for turn in range(3 if len(free) else 0):
            rows = np.flatnonzero(changes > turn)
            genes = free[rng.integers(len(free), size=len(rows))]
            shifts = 1 + (rng.random(len(rows)) * (sizes[genes] - 1)).astype(np.int64)
            children[rows, genes] = (children[rows, genes] + shifts) % sizes[genes]
        return children

    def _fresh(self, candidates: States) -> States:
        """Return those that were not screened, each once, within the limits."""
        _, within = self.axis.price(candidates)
        known = {states.tobytes() for states in self.rows}
        distinct = {
            states.tobytes(): states
            for states, allowed in zip(candidates, within, strict=True)
            if allowed and states.tobytes() not in known
        }
        return np.array(list(distinct.values()), dtype=np.int64).reshape(-1, candidates.shape[1])

    # What is known

    def _surrogate(self) -> Surrogate:
        rows = np.array(self.rows)
        return fit(rows[:, self.axis.free], self._prior(rows), np.array(self.values))

    def _prior(self, states: States) -> Floats:
        """Return the logarithm of what the additive model predicts."""
        weights, activations = widths_of(self.problem.space, states)
        scores = self.model.scores[np.arange(weights.shape[1]), weights, activations].sum(axis=1)
        smallest = FLOOR * float(np.nanmax(self.model.scores))
        return np.asarray(np.log(np.maximum(scores, max(smallest, np.finfo(float).tiny))))

    def _front(self) -> npt.NDArray[np.intp]:
        """Return the numbers of the candidates on the front, those that count if there are any."""
        costs = np.array(self.costs)
        numbers = np.flatnonzero((costs >= self.axis.lowest) & (costs <= self.axis.highest))
        if not len(numbers):
            numbers = np.arange(len(costs))
        pairs = np.stack([costs, np.array(self.values)], axis=1)[numbers]
        return numbers[non_dominated(pairs)]

    def _staircase(self) -> tuple[Floats, Floats]:
        """Return costs, ascending, and the best value at each or below."""
        order = np.lexsort((self.values, self.costs))
        costs = np.array(self.costs)[order]
        return costs, np.minimum.accumulate(np.array(self.values)[order])

    # Measuring

    def screen(self, candidates: States) -> None:
        """Measure the divergence of candidates, on fewer images of those clearly behind."""
        if not len(candidates):
            return
        costs, _ = self.axis.price(candidates)
        allocations = self.axis.allocations(candidates)
        first = self.divergence(allocations, 0, 1)
        going = np.flatnonzero(
            [not self._is_behind(*pair) for pair in zip(costs, first, strict=True)]
        )
        rest = self.divergence([allocations[i] for i in going], 1)
        self.problem.charge(forward=first.size + rest.size)
        values = first.mean(axis=1)
        if len(going):
            whole = np.concatenate([first[going], rest], axis=1).mean(axis=1)
            # The first images may be harder or easier than all of them, for everyone alike.
            known = np.isfinite(whole) & (values[going] > 0)
            if known.any():
                values *= np.median(whole[known] / values[going][known])
            values[going] = whole
        worst = max(self.values, default=0.0) + 1.0
        self.rows += list(candidates)
        self.costs += costs.tolist()
        self.values += [
            math.log(max(value, FLOOR)) if math.isfinite(value) else worst
            for value in values.tolist()
        ]
        self.firsts += list(first)

    def _is_behind(self, cost: float, first: Floats) -> bool:
        """Return whether something that costs no more is clearly better on the first images."""
        rivals = np.flatnonzero(np.array(self.costs) <= cost)
        if not len(rivals):
            return False
        rival = rivals[np.argmin(np.array(self.values)[rivals])]
        ahead = first - self.firsts[rival]
        error = float(ahead.std()) / math.sqrt(len(ahead))
        return bool(ahead.mean() > HOPELESS * error)

    def measure(self, count: int) -> None:
        """Measure those of the screened that stand out, front by front.

        Under a limit the best come first, else those whose costs are farthest from the measured.
        """
        costs, values = np.array(self.costs), np.array(self.values)
        counts = (costs >= self.axis.lowest) & (costs <= self.axis.highest)
        chosen: list[int] = []
        left = np.array([n for n in range(len(costs)) if n not in self.measured], dtype=np.intp)
        while len(left) and len(chosen) < count:
            part = left[counts[left]] if counts[left].any() else left
            layer = part[non_dominated(np.stack([costs[part], values[part]], axis=1))]
            best_first = layer[np.argsort(values[layer], kind="stable")].tolist()
            taken = [*self.measured, *chosen]
            if not self.axis.is_limited:
                order = farthest_first([*costs[taken], *costs[best_first]], given=len(taken))
                best_first = [best_first[index - len(taken)] for index in order[len(taken) :]]
            chosen += best_first[: count - len(chosen)]
            left = np.setdiff1d(left, layer)
        self.measured |= set(chosen)
        self.problem.evaluate(self.axis.allocations(np.array(self.rows)[chosen]))

    def report(self, score: str) -> None:
        """Report what was learned so far."""
        allocations = self.axis.allocations(np.array(self.rows))
        surrogate = self._surrogate()
        places = sorted(self.expected)
        missed = [self.values[place] - self.expected[place] for place in places]
        self.problem.findings.update(
            {
                "predicts": "kl",
                "predicted": {
                    allocation.key: math.exp(value)
                    for allocation, value in zip(allocations, self.values, strict=True)
                },
                "screened": len(self.rows),
                "additivity": {
                    "score": score,
                    "explained_by_additive_model": surrogate.explained,
                    "share_of_pairs_in_the_rest": surrogate.pair_share,
                    "log_error_of_surrogate": float(np.sqrt(np.mean(np.square(missed))))
                    if missed
                    else None,
                },
            }
        )
