"""The confidence cascade: low precision where it is sure, higher precision elsewhere.

[DPT] "Dynamic Precision Tuning for Energy Savings", an article of 2025: profile, choose by the
confidence of the answer, redo in higher precision what is not sure enough.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..models.config import ScoreConfig, ScoreKind
from ..spaces import (
    BitAllocation,
    BitSpace,
    DynamicAllocation,
    Measurement,
    SpaceError,
    StudyError,
    check_thresholds,
)
from .additive import AdditiveModel, check_time_limit
from .additive_search import solve_within
from .base import Searcher
from .cascade_candidates import TRIPLE_MEMBERS, Answers, Candidates, Predictor, pairs, triples
from .cascade_members import ROUNDING, STEP, Members, Statics
from .pricing import Pricing, is_within, shown_cost
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .widths import check_offered, offered_widths

Floats = npt.NDArray[np.float64]

PUBLISHED_THRESHOLDS = (0.9, 0.6)
"""Stay above, redo in the highest precision below [DPT]."""

SCREENED = 32
"""Static allocations that cascades are made of, at most."""

FRONT_SHARE = 1 / 3
"""Part of the evaluations of cascades that is spread over the predicted front."""

FRONT_LOSS = 0.05
"""Most that these may lose, as a fraction of all images, if the tolerance is not larger."""

WORTH_MEASURING = 1e-4
"""Share of the energy that a candidate has to be expected to save."""

DEFAULT_SAMPLES = 1000
"""Images that accuracies are taken to be from where none was measured."""

REFERENCE_BITS = 8


@register("cascade")
@dataclass(frozen=True, kw_only=True)
class Cascade(Searcher):
    """Runs a cheap allocation first, and a dearer one where the first is not sure [DPT].

    1. Static allocations are measured: uniform 8 bit, which is the reference, and members of the
       Pareto set of energy and sensitivity score, which span its energies.
    2. What they answer to calibration images says how sure each is of what, and so what every pair
       of them would cost and lose at every threshold.
    3. Those expected to save most are measured, and each measurement corrects what is expected of
       the others: first some that are spread over the predicted front, then those that may be the
       cheapest within ``tolerance`` of the reference, which tunes members and thresholds at once.

    The static allocations are part of the trial, so that its front has whichever is better.

    Attributes:
        members: Uniform widths of the members in place of chosen ones, from low to high: one for
            both operands, or (weight, activation).
        stages: Most members of a cascade, 2 or 3, where they are chosen.
        tolerance: How far below the reference the accuracy may be, as a fraction of all images.
        thresholds: Of the confidence, falling; tried with the best members before any others. A
            cascade of two members takes the first.
        calibrate: Whether temperatures are fitted to the calibration images; all are 1 if not.
        static_evaluations: Evaluations of static allocations, where members are chosen; a third of
            the budget if None. Members that are set are all measured.
        score: Sensitivity score that says which static allocations are good.
        screen_images: How many of the calibration images are used; all if None.
        time_limit_s: Seconds the solver may take, if there are limits.
    """

    summary: ClassVar[str] = "Low precision first, and higher precision where it is not sure."
    paper: ClassVar[str] = "Dynamic Precision Tuning for Energy Savings, 2025"
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    needs_model: ClassVar[bool] = True
    follows_input: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    members: tuple[int | tuple[int, int], ...] | None = None
    stages: int = 2
    tolerance: float = 0.002
    thresholds: tuple[float, ...] = PUBLISHED_THRESHOLDS
    calibrate: bool = True
    static_evaluations: int | None = None
    score: ScoreKind = "kl"
    screen_images: int | None = None
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        ScoreConfig(kind=self.score, images=self.screen_images)  # refuses what it does not know
        check_time_limit(self.time_limit_s)
        if self.members is not None and len(self.members) not in (2, 3):
            raise StudyError(f"members must be 2 or 3 widths, got {list(self.members)}")
        if self.stages not in (2, 3):
            raise StudyError(f"stages must be 2 or 3, got {self.stages}")
        if not 0 <= self.tolerance < 1:
            raise StudyError(f"tolerance must be a fraction in [0, 1), got {self.tolerance}")
        if len(self.thresholds) not in (self.most_members - 1, 2):
            wanted = "one, or two, for a cascade of two"
            if self.most_members == 3:
                wanted = "two for a cascade of three"
            raise StudyError(f"thresholds must be {wanted}, got {list(self.thresholds)}")
        check_thresholds(self.thresholds, len(self.thresholds) + 1)
        if self.static_evaluations is not None and self.static_evaluations < 1:
            raise StudyError(
                f"static_evaluations must be at least 1, got {self.static_evaluations}"
            )

    @property
    def most_members(self) -> int:
        """How many members a cascade has at most."""
        return self.stages if self.members is None else len(self.members)

    def check(self, space: BitSpace) -> None:
        """Refuse members of widths that the space does not offer, or that come to the same."""
        super().check(space)
        if self.members is None:
            return
        check_offered(space, (bits for pair in self._widths() for bits in pair), "members")
        if len({space.uniform(*pair) for pair in self._widths()}) < len(self.members):
            raise SpaceError(
                f"members {list(self.members)} come to the same allocation in this space; choose "
                f"widths that differ"
            )

    def check_prices(self, space: BitSpace, pricing: Pricing) -> None:
        """Refuse members of which one costs no less than the next.

        Raises:
            StudyError: If one does.
            EnergyTableError: If the table does not price one.
        """
        costs = [pricing.price(space.uniform(*pair)) for pair in self._widths()]
        for low, high in itertools.pairwise(costs):
            if not low < high:
                raise StudyError(
                    f"a cascade begins with what costs least, got members whose energies are "
                    f"{shown_cost(low)} and then {shown_cost(high)} of uniform 8 bit: order "
                    f"members from low to high, or choose others"
                )

    def search(self, problem: Problem) -> None:
        """Measure static allocations, then cascades of them."""
        members = self._members(problem)
        statics = Statics(problem, members, reference_of(problem.space))
        if problem.remaining == 1 or len(members) < 2:  # then there are no cascades
            statics.measure(problem.remaining)
            return
        static = self._static_evaluations(problem)
        spread = math.ceil(static / 2)
        statics.measure(spread)
        search = _Search(self, problem, statics)
        search.learn_members()
        statics.measure_these(search.wanted_members(), static - spread)
        search.learn_members()
        search.measure_cascades()
        search.report()

    def _static_evaluations(self, problem: Problem) -> int:
        if self.members is not None:
            wanted = len(self.members) + 1  # and the reference
        elif self.static_evaluations is not None:
            wanted = self.static_evaluations
        else:
            wanted = max(2, math.ceil(problem.remaining / 3))
        return min(wanted, problem.remaining)

    def _widths(self) -> Iterator[tuple[int, int]]:
        for width in self.members or ():
            yield (width, width) if isinstance(width, int) else width

    def _members(self, problem: Problem) -> list[BitAllocation]:
        """Return what cascades may be made of, in the order in which it is measured."""
        if self.members is not None:
            return [problem.space.uniform(*pair) for pair in self._widths()]
        scores = problem.scores(ScoreConfig(kind=self.score, images=self.screen_images))
        model = AdditiveModel(problem.space, scores.monotone().pairs())
        curve = model.curve(problem.layer_costs("energy"))
        dearest_first = np.arange(len(curve))[::-1]
        order = farthest_first(curve.costs[dearest_first].tolist())[:SCREENED]
        members = [curve.allocation(int(index)) for index in dearest_first[order]]
        if limits := problem.budget.limits:
            solved = solve_within(problem.pricing, model, limits, self.time_limit_s)
            problem.findings["solver"] = [solved.to_dict()]
            members = [solved.allocation, *members]
        return list(dict.fromkeys([*members, reference_of(problem.space)]))


def reference_of(space: BitSpace) -> BitAllocation:
    """Return uniform 8 bit, or the widest widths where a space does not offer that."""
    widths = offered_widths(space)
    return space.uniform(REFERENCE_BITS if REFERENCE_BITS in widths else widths[-1])


class _Search:
    """Chooses which cascades to measure.

    Args:
        settings: Those of the strategy.
        problem: Measures them.
        statics: What they are made of, some of it measured.
    """

    def __init__(self, settings: Cascade, problem: Problem, statics: Statics) -> None:
        self.settings = settings
        self.problem = problem
        self.statics = statics
        self.members = Members(problem, statics, settings.calibrate, settings.screen_images)
        samples = max((m.samples for m in statics.measured.values()), default=0)
        answers = self.members.answers
        resolution = 1.0 / (samples or DEFAULT_SAMPLES)
        self.predictor = Predictor(answers, self._candidates(answers), resolution)
        self.open = self._may_be_within()
        self.found: list[_Found] = []

    def _candidates(self, answers: Answers) -> Candidates:
        """Return the cascades that there are to choose from."""
        settings = self.settings
        everyone = list(range(len(self.members.allocations)))
        if settings.members is not None and len(settings.members) == 3:
            return triples(answers, everyone, (_two(settings.thresholds),))
        found = pairs(answers, settings.thresholds[:1])
        if settings.stages == 3 and settings.members is None and len(everyone) > 2:
            some = sorted(farthest_first(answers.costs.tolist())[:TRIPLE_MEMBERS])
            found = found.joined(triples(answers, some, (_two(settings.thresholds),)))
        return found

    def _may_be_within(self) -> npt.NDArray[np.bool_]:
        """Return which candidates are predicted to be within the budget's limits."""
        candidates, problem = self.predictor.candidates, self.problem
        within = np.ones(len(candidates), dtype=np.bool_)
        for name, limit in problem.budget.limits.items():
            prices = np.array([problem.price(member, name) for member in self.members.allocations])
            if not len(candidates):
                break
            used = candidates.ran > 0
            by_stage = prices[candidates.members]
            if name == "size":
                total = (by_stage * used).sum(axis=1)  # the weights of each are stored
            else:
                total = (by_stage * candidates.ran).sum(axis=1)
                if name.startswith("mean_"):
                    total /= candidates.ran.sum(axis=1)
            within &= is_within(total, limit)
        return within

    # What is learned

    def learn_members(self) -> None:
        """Correct predictions by what static allocations were measured to lose."""
        for number, member in enumerate(self.members.allocations):
            loss = self.statics.loss_of(member)
            if math.isfinite(loss):
                self.predictor.learn_member(number, loss)

    def wanted_members(self) -> list[BitAllocation]:
        """Return members in the order in which promising cascades need them."""
        gains = self._gains()
        order = np.argsort(-gains, kind="stable")
        numbers = self.predictor.candidates.members[order].reshape(-1)
        wanted = dict.fromkeys(numbers.tolist())
        inside = [self.members.allocations[number] for number in wanted]
        rest = [member for member in self.statics.members if member not in inside]
        return [member for member in [*inside, *rest] if self.problem.allows(member)]

    @property
    def best(self) -> float:
        """The smallest energy measured so far that is within the tolerance and the limits."""
        costs = [found.energy for found in self.found if self._is_good(found)]
        static = self.statics.cheapest(self.settings.tolerance)
        if static is not None:
            costs.append(static.energy_vs_w8a8)
        return min(costs, default=float(self.statics.costs.max(initial=1.0)))

    def _is_good(self, found: "_Found") -> bool:
        return found.loss <= self.settings.tolerance + ROUNDING and found.within

    def _eligible(self) -> npt.NDArray[np.bool_]:
        """Return what was not measured and, as far as is known now, costs no more than it may."""
        limit = self.problem.budget.limits.get("energy", math.inf)
        return np.asarray(self.open & is_within(self.predictor.costs, limit))

    def _gains(self) -> Floats:
        gains = self.predictor.gains(self.best, self.settings.tolerance) * self._eligible()
        candidates = self.predictor.candidates
        for found in self.found:  # who redoes even fewer inputs loses no less
            if not found.loss <= self.settings.tolerance + ROUNDING:
                same = (candidates.members == candidates.members[found.index]).all(axis=1)
                fewer = candidates.thresholds <= candidates.thresholds[found.index]
                gains[same & fewer.all(axis=1)] = 0.0
        return gains

    # Measuring

    def measure_cascades(self) -> None:
        """Spend what is left of the budget."""
        self._measure_published()
        self._measure_front(round(FRONT_SHARE * self.problem.remaining))
        while self.problem.remaining:
            gains = self._gains()
            if not len(gains) or gains.max() <= WORTH_MEASURING * self.best:
                break
            self._measure(int(gains.argmax()))
        self._measure_front(self.problem.remaining)
        self.statics.measure(self.problem.remaining)

    def _measure_published(self) -> None:
        """Measure the most promising members with the thresholds that were set."""
        thresholds = self.predictor.candidates.thresholds
        wanted = self.settings.thresholds[: self.settings.most_members - 1]
        given = np.zeros(thresholds.shape[1])
        given[: len(wanted)] = wanted
        numbers = np.flatnonzero((thresholds == given).all(axis=1) & self.open)
        if len(numbers):
            worth = self._gains()[numbers]
            if not worth.any():  # none is cheaper: then the one that loses least
                worth = -self.predictor.losses[numbers]
            self._measure(int(numbers[worth.argmax()]))

    def _measure_front(self, count: int) -> None:
        """Measure members of the predicted front whose energies span it."""
        for _ in range(count):
            most, eligible = max(FRONT_LOSS, self.settings.tolerance), self._eligible()
            front = self.predictor.front(eligible, most).tolist()
            if not front:  # under a limit all may lose more
                front = self.predictor.front(eligible, math.inf).tolist()
            if not front:
                return
            costs = self.predictor.costs[front]
            known = [found.energy for found in self.found if math.isfinite(found.energy)]
            order = farthest_first([*known, *costs.tolist()], given=len(known))
            self._measure(front[order[len(known)] - len(known)])

    def _measure(self, index: int) -> None:
        from ..models.dynamic.network import DynamicNetwork

        predictor, accuracy = self.predictor, self.statics.accuracy
        numbers, thresholds = predictor.candidates.stages(index)
        costs = predictor.answers.costs[list(numbers)]
        expected = {
            "accuracy": accuracy - float(predictor.losses[index]),
            "energy": float(predictor.costs[index]),
            "runs": float(predictor.ran(index).sum()),
        }
        self.open[index] = False
        dynamic = self.members.cascade(numbers, thresholds)
        measured = self.problem.evaluate_dynamic(DynamicNetwork(dynamic))
        found = _Found(
            index,
            dynamic,
            measured,
            loss=math.nan if measured.failed else accuracy - measured.accuracy,
            within=not measured.failed and self.problem.within(measured),
            costs=tuple(costs.tolist()),
            expected=expected,
        )
        self.found.append(found)
        self.problem.log(
            STEP,
            dynamic.members[0],
            accuracy=measured.accuracy,
            energy=measured.energy_vs_w8a8,
            runs=found.runs,
            predicted_accuracy=expected["accuracy"],
            predicted_energy=expected["energy"],
            predicted_runs=expected["runs"],
            threshold=thresholds[0],
            first_energy=costs[0],
            last_energy=costs[-1],
        )
        if math.isfinite(found.loss) and math.isfinite(found.energy):
            predictor.learn(index, found.loss, found.energy)

    # What is reported

    def report(self) -> None:
        """Report the cheapest cascade within the tolerance, or else the most accurate one."""
        eligible = [found for found in self.found if found.within]
        if not eligible:
            return
        good = [found for found in eligible if self._is_good(found)]
        if good:
            best = min(good, key=lambda found: found.energy)
        else:
            best = min(eligible, key=lambda found: (found.loss, found.energy))
        static = self.statics.cheapest(self.settings.tolerance)
        findings = self.problem.findings
        findings["cascade"] = {
            **best.to_dict(),
            "reference_accuracy": self.statics.accuracy,
            "tolerance": self.settings.tolerance,
            "within_tolerance": bool(good),
            "static_energy": None if static is None else static.energy_vs_w8a8,
            "measured": len(self.found),
        }
        findings.setdefault("notes", []).append(_in_words(best, bool(good), static))


@dataclass(frozen=True)
class _Found:
    """A cascade that was measured.

    Attributes:
        index: Its number among the candidates.
        dynamic: The cascade.
        measured: What was measured.
        loss: How far its accuracy is below the reference; NaN if it failed.
        within: Whether it is within the budget's limits.
        costs: Energies of its members.
        expected: What had been predicted.
    """

    index: int
    dynamic: DynamicAllocation
    measured: Measurement
    loss: float
    within: bool
    costs: tuple[float, ...]
    expected: dict[str, float]

    @property
    def energy(self) -> float:
        """Mean energy relative to uniform 8 bit."""
        return self.measured.energy_vs_w8a8

    @property
    def runs(self) -> float | None:
        """Members run on an input, on average."""
        return None if self.measured.dynamic is None else sum(self.measured.dynamic.ran)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "member_energies": list(self.costs),
            "members": [member.to_dict() for member in self.dynamic.members],
            "thresholds": list(self.dynamic.thresholds),
            "temperatures": list(self.dynamic.temperatures),
            "energy": self.energy,
            "accuracy": self.measured.accuracy,
            "runs": self.runs,
            "predicted": dict(self.expected),
        }


def _in_words(best: _Found, is_good: bool, static: Measurement | None) -> str:
    """Return what was chosen, in a sentence for whoever reads the result."""
    members = " and ".join(shown_cost(cost) for cost in best.costs)
    thresholds = " and ".join(f"{threshold:.4g}" for threshold in best.dynamic.thresholds)
    temperatures = " and ".join(f"{t:.3g}" for t in best.dynamic.temperatures)
    runs = "an unknown number of" if best.runs is None else f"{best.runs:.3f}"
    said = (
        f"the best cascade has members of energy {members}, confidence {thresholds} at temperature "
        f"{temperatures}, and ran {runs} members on an input ({best.expected['runs']:.3f} "
        f"predicted): energy {shown_cost(best.energy)} ({shown_cost(best.expected['energy'])} "
        f"predicted), {100 * best.loss:.2f} points below the reference on the search split"
    )
    if not is_good:
        return f"{said}; none that was measured is within the tolerance and the limits"
    if static is None:
        return f"{said}; no static allocation that was measured is as good"
    return (
        f"{said}; the cheapest static one that is as good has {shown_cost(static.energy_vs_w8a8)}"
    )


def _two(thresholds: tuple[float, ...]) -> tuple[float, float]:
    return thresholds[0], thresholds[-1]
