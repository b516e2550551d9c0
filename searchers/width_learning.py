"""What strategies have in common that learn widths in training and then hold them."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..models.config import OptimizerName
from ..spaces import BitAllocation, StudyError
from .problem import Problem
from .steering import BetaSchedule, BudgetSteering
from .training import Training, TrainingSearcher, note_coreset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..models.qat.trainer import LearnedWidths, Trainer
    from ..models.qat.widths import Widths

    class Learned(LearnedWidths, Protocol):
        """Learned widths that say which ones they are."""

        @property
        def widths(self) -> Widths:
            """The parameters."""
            ...

        def losses(self) -> npt.NDArray[np.float64] | None:
            """Return what each layer loses at every pair of widths, if that was measured."""
            ...


_STEPS_WORTH = 20.0
"""What the learning rate of widths adds up to over all steps, if none is given: enough to cross the
range of a sigmoid twice, and little enough to be steered."""


_OFF = 0.1
"""Share of a limit by which the learned energy may miss it without a word."""


@dataclass(frozen=True, kw_only=True)
class WidthLearner(TrainingSearcher):
    """A strategy that learns widths by gradient descent, then rounds them and trains on.

    With a limit on the energy, its weight in the loss is steered so that the learned energy meets
    it. Without one it is a setting.

    Attributes:
        beta: Factor of the energy without a limit on it.
        warmup_epochs: Epochs in which beta grows to that.
        fine_tune_epochs: Epochs, of all, at the end, with the widths as they are deployed.
        bit_optimizer: What takes the steps of the widths.
        bit_lr: Its learning rate; if None, 20 over the steps in which widths are learned, which
            suits Adam.
    """

    beta: float = 0.01
    warmup_epochs: int = 10
    fine_tune_epochs: int = 5
    bit_optimizer: OptimizerName = "adam"
    bit_lr: float | None = None

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
        if self.bit_lr is None and self.bit_optimizer not in ("adam", "adamw"):
            raise StudyError(
                f"bit_optimizer {self.bit_optimizer!r} needs a bit_lr: the default is for adam"
            )

    @property
    def learning_epochs(self) -> int:
        """Epochs in which widths are learned."""
        return self.epochs - self.fine_tune_epochs

    @abstractmethod
    def learned(self, problem: Problem) -> "Learned":
        """Return what is learned, as it begins."""

    @abstractmethod
    def rounded(self, problem: Problem, learned: "Learned") -> BitAllocation:
        """Return what the learned widths come to, within the limits."""

    def search(self, problem: Problem) -> None:
        """Train once; measure after every so many epochs."""
        saved = problem.saved
        seed = int(problem.rng.integers(2**31)) if saved is None else saved["seed"]
        trainer = self.trainer(problem, seed)
        widths = _Widths(self, problem, trainer)
        if saved is None:
            widths.require_possible()
        else:
            widths.restore(saved)
        training = Training(self, problem, trainer, seed=seed)
        while not training.is_over:
            widths.begin_epoch()
            training.run_epoch(
                widths.allocation, beta=widths.beta, learned=widths.real, note=widths.note
            )
        note_coreset(problem, trainer)


class _Widths:
    """The widths of one training: learned first, then held."""

    def __init__(self, settings: WidthLearner, problem: Problem, trainer: "Trainer") -> None:
        self._settings, self._problem, self._trainer = settings, problem, trainer
        self._held: BitAllocation | None = None
        limit = problem.budget.limits.get("energy")
        self._schedule = BetaSchedule(beta=settings.beta, warmup_epochs=settings.warmup_epochs)
        self._steering = None if limit is None else BudgetSteering(limit)
        self._learned = settings.learned(problem)
        steps = trainer.steps_per_epoch * settings.learning_epochs
        trainer.learn_widths(
            self._learned,
            optimizer=settings.bit_optimizer,
            lr=settings.bit_lr or _STEPS_WORTH / max(steps, 1),
            epochs=settings.learning_epochs,
        )

    def require_possible(self) -> None:
        """Check, before hours of training, that the limits can be met together.

        Raises:
            InfeasibleError: If they cannot.
        """
        self._rounded()

    def begin_epoch(self) -> None:
        """Hold the widths from the first epoch on in which they are no longer learned."""
        if self._held is None and self._trainer.epoch >= self._settings.learning_epochs:
            self._hold(self._rounded())
            self._note_energy()

    def beta(self, energy: float) -> float:
        """Return the factor of the energy in the next step."""
        if self._steering is None:
            return self._schedule.at(self._trainer.epoch)
        progress = self._trainer.position / self._settings.learning_epochs
        return self._steering.update(energy, progress)

    def allocation(self) -> BitAllocation:
        """Return the widths at which the network is run as it is now."""
        if self._held is not None:
            return self._held
        if self._trainer.epoch >= self._settings.learning_epochs:  # the last epoch that learns
            return self._rounded()
        return self._learned.rounded()

    def real(self) -> tuple[list[float], list[float]]:
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

    def _note_energy(self) -> None:
        """Say where steering missed the limit: rounding then decides more than it should."""
        if self._steering is None:
            return
        learned = self._learned.energy().item()
        if abs(learned / self._steering.target - 1) > _OFF:
            self._problem.findings.setdefault("notes", []).append(
                f"widths were learned to an energy of {learned:.3f}, and the limit is "
                f"{self._steering.target:g}: more epochs, or another bit_lr, would come closer"
            )

    def _rounded(self) -> BitAllocation:
        return self._settings.rounded(self._problem, self._learned)
