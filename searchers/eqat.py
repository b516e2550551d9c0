"""EQAT: bit-widths that are learned in training, with energy in the loss.

[KS25] Karkehabadi, Sasan. Energy-Efficient Quantization-Aware Training with Dynamic Bit-Width
Optimization. GLSVLSI 2025 (doi:10.1145/3716368.3735291).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..models.config import OptimizerName
from ..spaces import BitAllocation, BitSpace, SpaceError, StudyError
from .problem import Problem
from .registry import register
from .rounding import nearest, within
from .steering import BetaSchedule, BudgetSteering
from .training import Training, TrainingSearcher, note_coreset

if TYPE_CHECKING:
    from ..models.qat.trainer import Trainer

Forward = Literal["rounded", "fractional"]

_STEPS_WORTH = 20.0
"""What the learning rate of widths adds up to over all steps, if none is given: twice the way from
one end of a range to the other in theta, with some to spare."""


@register("eqat")
@dataclass(frozen=True, kw_only=True)
class Eqat(TrainingSearcher):
    """Learns the widths of all operands by gradient descent while it trains the network [KS25].

    Every operand has a real width q between its narrowest and its widest choice, a sigmoid of what
    is learned. The loss is cross-entropy + alpha KL(quantized || full precision) + beta energy, the
    energy by the study's table and relative to uniform 8 bit. Its gradient to q is exact, that of
    the other terms passes through the step sizes of the quantizers.

    With a limit on the energy, beta is steered so that the learned energy meets it. Without one it
    is the setting. After ``epochs - fine_tune_epochs`` the widths are rounded, so that all limits
    are met, and stay for the rest.

    Attributes:
        beta: Factor of the energy without a limit on it.
        warmup_epochs: Epochs in which beta grows to that.
        fine_tune_epochs: Epochs, of all, at the end, with the widths as they are deployed.
        bit_optimizer: What takes the steps of the widths.
        bit_lr: Its learning rate; if None, 20 over the steps in which widths are learned.
        initial_bits: Width that all begin with.
        min_bits: Smallest width; the smallest choice of the space if None.
        max_bits: Largest width; the largest choice of the space if None.
        forward: Whether the network computes with ``rounded`` widths, as it is deployed, or with
            ``fractional`` ones.
    """

    summary: ClassVar[str] = "Learns widths in training, with the energy in the loss."
    paper: ClassVar[str] = "Karkehabadi and Sasan, EQAT, GLSVLSI 2025"

    beta: float = 0.01
    warmup_epochs: int = 10
    fine_tune_epochs: int = 5
    bit_optimizer: OptimizerName = "adam"
    bit_lr: float | None = None
    initial_bits: float = 7.5
    min_bits: int | None = None
    max_bits: int | None = None
    forward: Forward = "rounded"

    def __post_init__(self) -> None:
        super().__post_init__()
        BetaSchedule(beta=self.beta, warmup_epochs=self.warmup_epochs)  # refuses negative ones
        if not 0 <= self.fine_tune_epochs < self.epochs:
            raise StudyError(
                f"fine_tune_epochs must be at least 0 and less than epochs ({self.epochs}), got "
                f"{self.fine_tune_epochs}"
            )
        if self.bit_lr is not None and not 0 < self.bit_lr < math.inf:
            raise StudyError(f"bit_lr must be a positive number, got {self.bit_lr}")
        low, high = self.min_bits, self.max_bits
        if low is not None and high is not None and low > high:
            raise StudyError(f"min_bits must not be above max_bits, got {low} and {high}")

    @property
    def learning_epochs(self) -> int:
        """Epochs in which widths are learned."""
        return self.epochs - self.fine_tune_epochs

    def check(self, space: BitSpace) -> None:
        """Check that the space has widths from `min_bits` to `max_bits`.

        Raises:
            SpaceError: If an operand has none.
        """
        super().check(space)
        self._narrowed(space)

    def search(self, problem: Problem) -> None:
        """Train once; measure after every so many epochs."""
        saved = problem.saved
        seed = int(problem.rng.integers(2**31)) if saved is None else saved["seed"]
        space = self._narrowed(problem.space)
        trainer = self.trainer(problem, space.uniform(round(self.initial_bits)), seed)
        run = _Run(self, problem, space, trainer)
        if saved is not None:
            run.restore(saved)
        training = Training(self, problem, trainer, seed=seed)
        while not training.is_over:
            run.begin_epoch()
            training.run_epoch(
                run.allocation, beta=run.beta, learned=run.learned_widths, note=run.note
            )
        note_coreset(problem, trainer)

    def _narrowed(self, space: BitSpace) -> BitSpace:
        """Return the part of a space with widths from `min_bits` to `max_bits`; pins stay."""
        variables = []
        for variable in space.variables:
            choices = tuple(
                bits
                for bits in variable.choices
                if len(variable.choices) == 1
                or (self.min_bits or 0) <= bits <= (self.max_bits or math.inf)
            )
            if not choices:
                raise SpaceError(
                    f"{variable.slots[0].show(space.layers)} may be "
                    f"{', '.join(map(str, variable.choices))} bits, and none of these is between "
                    f"min_bits ({self.min_bits}) and max_bits ({self.max_bits})"
                )
            variables.append(replace(variable, choices=choices))
        return BitSpace(space.layers, variables, space.forbid, space.granularity)


class _Run:
    """The widths of one training: learned first, then held."""

    def __init__(
        self, settings: Eqat, problem: Problem, space: BitSpace, trainer: "Trainer"
    ) -> None:
        from ..models.qat.learned import LearnedSigmoid
        from ..models.qat.widths import SigmoidWidths

        self._settings, self._problem, self._space, self._trainer = (
            settings,
            problem,
            space,
            trainer,
        )
        self._held: BitAllocation | None = None
        limit = problem.budget.limits.get("energy")
        self._schedule = BetaSchedule(beta=settings.beta, warmup_epochs=settings.warmup_epochs)
        self._steering = None if limit is None else BudgetSteering(limit)
        self._learned: LearnedSigmoid = LearnedSigmoid(
            SigmoidWidths(space, settings.initial_bits),
            problem.energy.price_torch,
            problem.energy.w8a8,
            fractional=settings.forward == "fractional",
        )
        steps = trainer.steps_per_epoch * settings.coreset_fraction * settings.learning_epochs
        trainer.learn_widths(
            self._learned,
            optimizer=settings.bit_optimizer,
            lr=settings.bit_lr or _STEPS_WORTH / max(steps, 1),
            epochs=settings.learning_epochs,
        )

    def begin_epoch(self) -> None:
        """Hold the widths from the first epoch on in which they are no longer learned."""
        if self._held is None and self._trainer.epoch >= self._settings.learning_epochs:
            self._hold(self._rounded())

    def beta(self, energy: float) -> float:
        """Return the factor of the energy in the next step."""
        if self._steering is None:
            return self._schedule.at(self._trainer.epoch)
        return self._steering.update(
            energy, self._trainer.position / self._settings.learning_epochs
        )

    def allocation(self) -> BitAllocation:
        """Return the widths at which the network is run as it is now."""
        if self._held is not None:
            return self._held
        if self._trainer.epoch >= self._settings.learning_epochs:  # the last epoch that learns
            return self._rounded()
        return self._learned.rounded()

    def learned_widths(self) -> tuple[list[float], list[float]]:
        """Return the real widths of weights and activations."""
        if self._held is not None:
            return list(self._held.weights), list(self._held.activations)  # type: ignore[arg-type]
        weights, activations = self._learned.widths.bits()
        return weights.tolist(), activations.tolist()

    def note(self) -> Mapping[str, Any]:
        """Return what has to be kept besides the trainer's state."""
        return {
            "steering": None if self._steering is None else self._steering.to_dict(),
            "held": None if self._held is None else self._held.to_dict(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from where an interrupted run saved."""
        if self._steering is not None:
            self._steering.restore(saved["steering"])
        if saved["held"] is not None:
            self._hold(BitAllocation.from_dict(saved["held"]))
        self._trainer.restore(saved)

    def _hold(self, allocation: BitAllocation) -> None:
        self._held = allocation
        self._trainer.hold_widths(allocation)

    def _rounded(self) -> BitAllocation:
        """Return the allocation that the learned widths come to, within the limits."""
        problem, learned = self._problem, self._learned.widths.bits()
        limits = problem.budget.limits
        if not limits:
            return nearest(self._space, *learned)
        rounding = within(self._space, problem.pricing, limits, *learned)
        problem.findings["solver"] = [rounding.solution.to_dict()]
        return rounding.allocation
