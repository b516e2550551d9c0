"""What a strategy is given."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..spaces import (
    DEFAULT_OBJECTIVES,
    BitAllocation,
    BitSpace,
    EvaluationError,
    InfeasibleError,
    Measurement,
    Objective,
    SpaceError,
    StudyError,
    pareto_front,
)
from .budget import Budget, BudgetSpent, check_feasible, price, respects

if TYPE_CHECKING:  # torch stays out until a strategy asks for the network
    from torch import Tensor

    from ..energy import EnergyModel
    from ..models.quantized import QuantizedModel


class Evaluator(Protocol):
    """Measures allocations on the search split: in parallel, cached, recorded."""

    def __call__(
        self, allocations: Sequence[BitAllocation], *, fidelity: float = 1.0
    ) -> list[Measurement]:
        """Return one measurement per allocation, in the same order.

        What cannot be measured comes back as a measurement that `Measurement.failed`.

        Args:
            allocations: What to measure.
            fidelity: Share of the split's images to use, in (0, 1].
        """
        ...


class ModelSource(Protocol):
    """The network, for strategies that look into it."""

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network."""
        ...

    def calibration(self) -> "Sequence[tuple[Tensor, Tensor]]":
        """Return the calibration set as batches of ``b x c x h x w`` images and ``b`` labels."""
        ...


class Problem:
    """All that a strategy may know of a study, and the only way it acts on it.

    Args:
        space: Which allocations there are.
        energy: Prices them; free of charge.
        evaluator: Measures them.
        budget: What may be spent.
        seed: The trial's seed.
        label: The strategy's label in the study; strategies with the same seed and different
            labels draw different random numbers.
        objectives: What the study compares.
        baseline: The float network on the search split; not charged.
        model: The network, for strategies that declare ``needs_model``.

    Attributes:
        history: Every measurement asked for, in order, the failed ones too.
        rng: The only source of randomness, made from seed and label.
    """

    def __init__(
        self,
        space: BitSpace,
        energy: "EnergyModel",
        evaluator: Evaluator,
        budget: Budget,
        *,
        seed: int = 0,
        label: str = "",
        objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
        baseline: Measurement | None = None,
        model: ModelSource | None = None,
    ) -> None:
        self.space = space
        self.energy = energy
        self.budget = budget
        self.seed = seed
        self.objectives = tuple(objectives)
        self.baseline = baseline
        self.history: list[Measurement] = []
        self.rng = np.random.default_rng(_entropy(seed, label))
        self._evaluator = evaluator
        self._model = model

    @property
    def remaining(self) -> int:
        """How many evaluations are left."""
        return self.budget.evaluations - len(self.history)

    def evaluate(
        self, allocations: Sequence[BitAllocation], *, fidelity: float = 1.0
    ) -> list[Measurement]:
        """Measure allocations on the search split.

        Every one asked for is charged, also one that was asked before or that fails. Low fidelity
        costs fewer images, and as many evaluations.

        Args:
            allocations: Members of the space; the longer the list, the more runs in parallel.
            fidelity: Share of the search split's images to use, in (0, 1].

        Returns:
            One measurement per allocation, in the same order.

        Raises:
            BudgetSpent: If more were asked for than evaluations remain. Those that fit have
                then been measured and are in the history.
            SpaceError: If one is not in the space; then none is measured.
        """
        if not 0.0 < fidelity <= 1.0:
            raise SpaceError(f"fidelity is a share of the images in (0, 1], got {fidelity!r}")
        for allocation in allocations:
            self.space.validate(allocation)
        affordable = list(allocations[: self.remaining])
        if affordable:
            measured = self._evaluator(affordable, fidelity=fidelity)
            if len(measured) != len(affordable):
                raise EvaluationError(
                    f"the evaluator answered {len(measured)} of {len(affordable)} questions"
                )
            self.history.extend(measured)
        if len(affordable) < len(allocations):
            raise BudgetSpent(f"all {self.budget.evaluations} evaluations are used")
        return measured if affordable else []

    def price(self, allocation: BitAllocation, name: str = "energy") -> float:
        """Return what an allocation costs, without measuring it.

        Args:
            allocation: What to price.
            name: ``energy`` (relative to uniform 8 bit), ``size`` (bytes) or ``bops``.
        """
        return price(self.energy, allocation, name)

    def allows(self, allocation: BitAllocation) -> bool:
        """Return whether an allocation's price respects the budget's limits; nothing is charged."""
        limits = self.budget.limits
        return not limits or respects(self.energy.costs(allocation), limits)

    def only_allowed(self, allocations: Iterable[BitAllocation]) -> list[BitAllocation]:
        """Return those allocations whose price respects the limits, each once, in order.

        Raises:
            InfeasibleError: If none does; it says what the cheapest of them cost.
        """
        distinct = list(dict.fromkeys(allocations))
        allowed = [allocation for allocation in distinct if self.allows(allocation)]
        if not allowed:
            limits = self.budget.limits
            said = ", ".join(
                f"{name} {min(self.price(a, name) for a in distinct):.4g} (limit {limit:g})"
                for name, limit in limits.items()
            )
            raise InfeasibleError(
                f"none of the {len(distinct)} allocations this strategy considers is within the "
                f"limits; the cheapest has {said}"
            )
        return allowed

    def within(self, measurement: Measurement) -> bool:
        """Return whether a measurement respects the budget's limits."""
        return respects(measurement, self.budget.limits)

    def front(self) -> list[Measurement]:
        """Return what is best so far: measured on all images, within the limits, not dominated."""
        eligible = [m for m in self.history if m.fidelity == 1.0 and self.within(m)]
        return pareto_front(eligible, self.objectives)

    def require_feasible(self) -> None:
        """Check that some allocation of the space respects each limit.

        Raises:
            InfeasibleError: Saying the smallest achievable cost.
        """
        check_feasible(self.space, self.energy, self.budget.limits)

    @property
    def has_model(self) -> bool:
        """Whether `quantized_model` and `calibration` have something to return."""
        return self._model is not None

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network to look into or to change.

        Raises:
            StudyError: If the problem carries no network.
        """
        return self._source().quantized_model()

    def calibration(self) -> "Sequence[tuple[Tensor, Tensor]]":
        """Return the calibration set as batches of ``b x c x h x w`` images and ``b`` labels.

        Raises:
            StudyError: If the problem carries no network.
        """
        return self._source().calibration()

    def _source(self) -> ModelSource:
        if self._model is None:
            raise StudyError("this problem carries no network; set needs_model = True on the class")
        return self._model


def _entropy(seed: int, label: str) -> np.random.SeedSequence:
    """Return a seed sequence that is the same in every process, unlike `hash`."""
    word = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")
    return np.random.SeedSequence([seed, word])
