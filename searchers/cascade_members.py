"""The static allocations that a cascade is made of: how good they are, and how sure of what."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, DynamicAllocation, Measurement
from .cascade_candidates import Answers, smoothed
from .problem import Problem
from .spread import farthest_first

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-9
"""Differences of accuracies below this are none."""

STEP = "candidate"
"""What is logged is called so."""

_EXAMPLES = 4
"""Images on which the engine compares its kernels with the reference."""


class Statics:
    """The static allocations: what they cost and, as far as measured, how good they are.

    Args:
        problem: Measures them.
        members: What cascades may be made of, the most trusted first.
        reference: What accuracies are compared with.
    """

    def __init__(
        self, problem: Problem, members: list[BitAllocation], reference: BitAllocation
    ) -> None:
        self.problem = problem
        self.members = sorted(members, key=problem.price)
        self.costs = np.array([problem.price(member) for member in self.members])
        self.reference = reference
        self.measured: dict[BitAllocation, Measurement] = {}
        self._first = members[0]

    def measure(self, count: int) -> None:
        """Measure up to so many, always the one whose energy is farthest from those before.

        The reference comes first, unless there are limits that it does not meet: then it comes
        second, since all else is compared with it.
        """
        limits = self.problem.budget.limits
        allowed = [member for member in self.members if self.problem.allows(member)]
        first = [self.reference]
        if limits and not self.problem.allows(self.reference):
            first = [self._first, self.reference]
        candidates = list(dict.fromkeys([*first, *allowed]))
        prices = [self.problem.price(candidate) for candidate in candidates]
        order = farthest_first(prices, given=len(first))
        self.measure_these([candidates[index] for index in order], count)

    def measure_these(self, wanted: list[BitAllocation], count: int) -> None:
        """Measure the first so many of those that have not been."""
        fresh = [one for one in dict.fromkeys(wanted) if one not in self.measured][:count]
        for measurement in self.problem.evaluate(fresh) if fresh else []:
            self.measured[measurement.allocation] = measurement
            self.problem.log(
                STEP,
                measurement.allocation,
                accuracy=measurement.accuracy,
                energy=measurement.energy_vs_w8a8,
            )

    @property
    def accuracy(self) -> float:
        """Accuracy of the reference; the highest of all where that failed, NaN where all did."""
        reference = self.measured.get(self.reference)
        if reference is not None and not reference.failed:
            return reference.accuracy
        return max((m.accuracy for m in self.measured.values() if not m.failed), default=math.nan)

    def loss_of(self, member: BitAllocation) -> float:
        """Return how far a member is below the reference; NaN if that is not known."""
        found = self.measured.get(member)
        return math.nan if found is None or found.failed else self.accuracy - found.accuracy

    def cheapest(self, tolerance: float) -> Measurement | None:
        """Return the cheapest one within the tolerance and the limits."""
        good = [
            m
            for m in self.measured.values()
            if self.loss_of(m.allocation) <= tolerance + ROUNDING and self.problem.within(m)
        ]
        return min(good, key=lambda m: m.energy_vs_w8a8, default=None)


class Members:
    """What members answer to calibration images; those that answer nothing finite are left out.

    Args:
        problem: Has the network and the images, and is charged for them.
        statics: The members, and the reference.
        calibrate: Whether temperatures are fitted.
        images: Most images that are used; all if None.

    Attributes:
        allocations: The members, cheapest first.
        temperatures: What their logits are divided by.
        answers: What they answer.
    """

    def __init__(
        self, problem: Problem, statics: Statics, calibrate: bool, images: int | None
    ) -> None:
        from ..models.dynamic.cascade import confidence, fit_temperature, member_logits
        from ..models.engine import Engine  # brings torch

        batches = list(_beginning(problem.calibration(), images))
        engine = Engine(problem.shared_model, batches[0][0][:_EXAMPLES])
        everyone = [*statics.members, statics.reference]
        logits, labels = member_logits(engine, everyone, batches)
        problem.charge(forward=len(everyone) * len(labels))
        finite = np.asarray(np.isfinite(logits).all(axis=(1, 2)))
        kept = np.flatnonzero(finite[:-1] & finite[-1])  # without the reference, nobody
        self.allocations = [statics.members[number] for number in kept]
        self.temperatures = [
            fit_temperature(logits[number], labels) if calibrate else 1.0 for number in kept
        ]
        self._classes = logits.shape[2]
        shape = len(kept), len(labels)
        if len(kept):
            from scipy.special import softmax  # the command line starts without scipy

            reference = logits[-1].astype(np.float64)
            likely = softmax(
                reference / (fit_temperature(reference, labels) if calibrate else 1.0), axis=1
            )
            sure = [
                confidence(logits[number], temperature)
                for number, temperature in zip(kept, self.temperatures, strict=True)
            ]
            chosen = logits[kept].argmax(axis=2)
            regrets = likely.max(axis=1) - likely[np.arange(len(labels)), chosen]
        else:
            sure, regrets = [], np.zeros(shape)
        confidences = np.array(sure).reshape(shape)
        decision = self._decision_cost(problem)
        self.answers = Answers(
            statics.costs[kept], confidences, smoothed(regrets, confidences), decision
        )

    def cascade(self, members: Sequence[int], thresholds: Sequence[float]) -> DynamicAllocation:
        """Return the cascade of some members, by their numbers."""
        return DynamicAllocation(
            "cascade",
            tuple(self.allocations[number] for number in members),
            thresholds=tuple(thresholds),
            temperatures=tuple(self.temperatures[number] for number in members[:-1]),
            classes=self._classes,
        )

    def _decision_cost(self, problem: Problem) -> float:
        """Return the cost of one decision, relative to uniform 8 bit."""
        from ..energy import decision_cost

        if len(self.allocations) < 2:
            return 0.0
        energy = problem.energy
        return decision_cost(energy, self.cascade((0, 1), (0.5,))) / energy.w8a8


def _beginning(
    batches: "Sequence[tuple[Tensor, Tensor]]", limit: int | None
) -> "Iterator[tuple[Tensor, Tensor]]":
    left = math.inf if limit is None else limit
    for x, labels in batches:
        if left <= 0:
            return
        count = int(min(len(x), left))
        yield x[:count], labels[:count]
        left -= count
