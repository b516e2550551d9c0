"""What strategies have in common that train the network with its quantizers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..models.qat.config import QatSettings
from ..spaces import BitAllocation, BitSpace, Measurement, StudyError
from .base import Searcher
from .budget import Budget
from .problem import Problem

if TYPE_CHECKING:  # torch stays out until there is something to train
    from ..models.qat.trainer import EpochReport, Trainer
    from ..models.trained import TrainedNetwork

Floats = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class TrainingSearcher(QatSettings, Searcher):
    """A strategy that trains networks with their quantizers; the settings are those of training.

    Attributes:
        evaluate_every: Epochs after which the network as it then is gets measured; the last epoch
            always is. Each is an evaluation, and a candidate like any other.
    """

    needs_model: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    evaluate_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_every < 1:
            raise StudyError(f"evaluate_every must be at least 1, got {self.evaluate_every}")

    @property
    def evaluations_needed(self) -> int:
        """Evaluations of one training."""
        return math.ceil(self.epochs / self.evaluate_every)

    def check_budget(self, space: BitSpace, budget: Budget) -> None:
        """Check that one training can be measured to its end.

        Raises:
            StudyError: If it cannot.
        """
        super().check_budget(space, budget)
        if budget.evaluations < self.evaluations_needed:
            raise StudyError(
                f"{self.epochs} epochs measured every {self.evaluate_every} take "
                f"{self.evaluations_needed} evaluations, and the budget is {budget.evaluations}: "
                "raise it, or evaluate_every"
            )

    def trainer(self, problem: Problem, seed: int) -> "Trainer":
        """Return a trainer of a fresh network.

        Args:
            problem: Has the network and the images.
            seed: Of the order of images.
        """
        from ..models.qat.network import TrainableNetwork
        from ..models.qat.trainer import Trainer
        from ..models.quantized import QuantizedModel

        images = problem.training()
        if self.images is not None:
            images = images.beginning(self.images)
        calibration = problem.calibration()
        model = problem.float_model(initial=self.start == "initial")
        config = problem.shared_model.config.for_training
        reference = QuantizedModel(model, problem.space.layers, config)
        reference.calibrate(calibration)
        network = TrainableNetwork(model, reference, self)
        teacher = problem.float_model() if self.teacher == "trained" else None
        return Trainer(
            network, images, calibration, self, seed=seed, teacher=teacher, device=problem.device
        )


class Training:
    """A training under way: what is measured of it, logged and kept.

    Args:
        settings: The strategy.
        problem: What it is to solve.
        trainer: Trains.
        number: Which of several trainings of the trial it is; None if there is one.
        note: Further plain values to keep with every epoch.
    """

    def __init__(
        self,
        settings: TrainingSearcher,
        problem: Problem,
        trainer: "Trainer",
        *,
        number: int | None = None,
        **note: Any,
    ) -> None:
        self.trainer, self._number = trainer, number
        self._settings, self._problem, self._note = settings, problem, note

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.trainer.epoch >= self._settings.epochs

    def run_epoch(
        self,
        allocation: Callable[[], BitAllocation],
        *,
        beta: Callable[[float], float] = lambda energy: 0.0,
        learned: Callable[[], tuple[Floats, Floats]] | None = None,
        note: Callable[[], Mapping[str, Any]] = dict,
        measure: "Callable[[TrainedNetwork], Measurement] | None" = None,
    ) -> Measurement | None:
        """Train for an epoch; measure, log and keep what comes of it.

        Args:
            allocation: Says, after the epoch, at which widths the network is to run.
            beta: As for `Trainer.run_epoch`.
            learned: Says, after the epoch, the real widths of weights and activations, if there
                are other ones than those of the allocation.
            note: Says, after the epoch, what else is to be kept.
            measure: Measures the network, if not `Problem.evaluate_trained`.

        Returns:
            The measurement, if it was time for one.
        """
        problem, trainer = self._problem, self.trainer
        try:
            report = trainer.run_epoch(beta)
        finally:  # also for an epoch that diverges
            problem.charge(*trainer.passed)
        at, measurement = allocation(), None
        if self.is_over or trainer.epoch % self._settings.evaluate_every == 0:
            measurement = (measure or problem.evaluate_trained)(trainer.trained(at))
            problem.charge(trainer.images_estimated)
        self._log(report, at, measurement, None if learned is None else learned())
        kept = {**self._note, **note()}
        problem.save({**trainer.state(), "number": self._number, **kept})
        return measurement

    def _log(
        self,
        report: "EpochReport",
        allocation: BitAllocation,
        measurement: Measurement | None,
        learned: tuple[Floats, Floats] | None,
    ) -> None:
        weights, activations = (None, None) if learned is None else learned
        metrics: dict[str, float | None] = {
            "accuracy": None if measurement is None else measurement.accuracy,
            "loss": None if measurement is None else measurement.loss,
            "training_accuracy": report.accuracy,
            "cross_entropy": report.cross_entropy,
        }
        if self._number is not None:
            metrics["training"] = self._number
        if self._settings.alpha > 0:
            metrics["kl"] = report.kl
        if learned is not None:
            metrics |= {"learned_energy": report.energy, "beta": report.beta}
        self._problem.log(
            "epoch", allocation, weight_bits=weights, activation_bits=activations, **metrics
        )


def note_coreset(problem: Problem, trainer: "Trainer") -> None:
    """Say, where a coreset was used, what it saved."""
    coreset = trainer.coreset
    if coreset.keeps_all or not coreset.images_scored:
        return
    all_images = coreset.images * trainer.epoch
    problem.findings.setdefault("notes", []).append(
        f"coresets left out {coreset.images_left_out:,} of {all_images:,} training samples "
        f"({100 * coreset.images_left_out / all_images:.0f} %), and choosing them scored "
        f"{coreset.images_scored:,} with two forward passes each"
    )
