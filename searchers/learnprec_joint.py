"""LearnPrec as published: selectors that are trained together with the network."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ..models.dynamic.network import DynamicNetwork
from ..models.dynamic.settings import FitSettings, SelectorSettings, check_positive
from ..spaces import BitAllocation, BitSpace, Measurement, StudyError
from .additive_search import cheapest_within
from .learnprec_base import SelectorSearcher
from .learnprec_curve import MARGIN, Curve
from .learnprec_fit import Calibrated, mean_widths
from .learnprec_plan import (
    REFERENCE_BITS,
    Place,
    Plan,
    narrowed,
    note_static,
    offered,
    widest_plan,
)
from .problem import Problem
from .registry import register
from .steering import BudgetSteering
from .training import Training, TrainingSearcher, note_coreset

if TYPE_CHECKING:
    from ..models.dynamic.gates import TrainableGate
    from ..models.dynamic.joint import LearnedSelectors
    from ..models.qat.trainer import Trainer
    from ..models.trained import TrainedNetwork

_EXAMPLES = 3
"""Images that show how data flows."""

_START = 0.8
"""How far up selectors begin between the energies of the narrowest and the widest choices."""


@register("learnprec-joint")
@dataclass(frozen=True, kw_only=True)
class LearnPrecJoint(SelectorSearcher, TrainingSearcher):
    """Trains the network and the selectors of its channels' widths together [LP].

    For ``selectors_from`` epochs the network is trained at the widest widths. Then selectors join,
    fitted to the network as it is by what narrower channels lose. From there on the loss is
    cross-entropy + alpha KL + beta energy. With a limit on the energy, beta is steered so that it
    is met.

    Attributes:
        weights: Width of the weights, or the next lower one with which the limits can be met.
        selectors_from: Epochs before selectors join; the paper's are 10 of 100.
        selector_lr: Learning rate of Adam for selectors, which falls as that of the weights does.
        beta: Factor of the energy without a limit on it.
        directions: Random directions of the logits for what selectors begin with.
        regression_steps: Steps of the regression that they begin with.
        points: Energies measured of the network when it is trained, beside the one it comes to.
    """

    summary: ClassVar[str] = "Trains the network with selectors of its channels' widths."

    weights: int = 8
    selectors_from: int = 3
    selector_lr: float = 0.01
    beta: float = 0.1
    directions: int = 3
    regression_steps: int = 400
    points: int = 0

    def __post_init__(self) -> None:
        TrainingSearcher.__post_init__(self)
        SelectorSettings.__post_init__(self)
        if not 2 <= self.weights <= REFERENCE_BITS:
            raise StudyError(f"weights have from 2 to {REFERENCE_BITS} bits, got {self.weights}")
        if not 0 <= self.selectors_from < self.epochs:
            raise StudyError(
                f"selectors_from must be at least 0 and less than epochs ({self.epochs}), got "
                f"{self.selectors_from}"
            )
        for name in ("selector_lr", "beta"):
            check_positive(name, getattr(self, name))
        for name in ("directions", "regression_steps"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.points < 0:
            raise StudyError(f"points must not be negative, got {self.points}")

    def narrowed(self, space: BitSpace) -> BitSpace:
        """Return the static allocations that choices are made around."""
        return narrowed(space, self.widths, self.weights)

    def search(self, problem: Problem) -> None:
        """Train, first without selectors and then with them, and measure."""
        saved = problem.saved
        seed = int(problem.rng.integers(2**31)) if saved is None else saved["seed"]
        trainer = self.trainer(problem, seed)
        run = _Run(self, problem, trainer, seed)
        if saved is not None:
            run.restore(saved)
        training = Training(self, problem, trainer, seed=seed)
        while not training.is_over:
            run.begin_epoch()
            training.run_epoch(
                run.allocation, beta=run.beta, learned=run.real, note=run.note, measure=run.measure
            )
        note_coreset(problem, trainer)
        run.measure_spread()


class _Run:
    """One training: at the widest widths first, then with selectors."""

    def __init__(
        self, settings: LearnPrecJoint, problem: Problem, trainer: "Trainer", seed: int
    ) -> None:
        from ..models.dynamic.operands import layouts

        self._settings, self._problem, self._trainer, self._seed = settings, problem, trainer, seed
        images, _ = problem.calibration()[0]
        space = settings.searched(problem.space)
        limits = problem.budget.limits
        places = layouts(problem.shared_model, images[:_EXAMPLES])
        self._plan = widest_plan(
            space,
            problem.pricing,
            limits,
            settings,
            settings.weights,
            places,
        )
        note_static(problem, settings, offered(space, problem.energy, settings, places))
        limit = limits.get("energy")
        self._steering = None if limit is None else BudgetSteering(limit * (1 - MARGIN))
        self._learned: LearnedSelectors | None = None
        self._gates: Mapping[Place, TrainableGate] = {}
        self._last: TrainedNetwork | None = None
        self._widest = _static(settings, problem, self._plan)
        trainer.hold_widths(self._widest)

    def begin_epoch(self) -> None:
        """Let selectors join, if this is the epoch for it."""
        if self._learned is None and self._trainer.epoch >= self._settings.selectors_from:
            self._join(fits=True)

    def allocation(self) -> BitAllocation:
        """Return the widest widths."""
        return self._widest

    def beta(self, energy: float) -> float:
        """Return the factor of the energy in the next step; make the sigmoids steeper."""
        settings = self._settings
        first = settings.selectors_from
        progress = (self._trainer.position - first) / (settings.epochs - first)
        if self._learned is not None:
            fallen = (settings.final_temperature / settings.temperature) ** progress
            self._learned.set_temperature(settings.temperature * fallen)
        if self._steering is None:
            return settings.beta
        return self._steering.update(energy, progress)

    def real(self) -> tuple[list[float], list[float]]:
        """Return the mean widths of the last batch."""
        return mean_widths(self._widest, self._learned.mean_widths() if self._learned else {})

    def note(self) -> Mapping[str, Any]:
        """Return what has to be kept besides the trainer's state."""
        return {
            "steering": None if self._steering is None else self._steering.to_dict(),
            "joined": self._learned is not None,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from where an interrupted run saved."""
        if saved["joined"]:
            self._join(fits=False)
        if self._steering is not None:
            self._steering.restore(saved["steering"])
        self._trainer.restore(saved)

    def measure(self, trained: "TrainedNetwork") -> Measurement:
        """Measure the network as it is; at the end within the limit."""
        if self._learned is None:
            return self._problem.evaluate_trained(trained)
        self._last = trained
        limit = self._problem.budget.limits.get("energy")
        if limit is not None and self._trainer.epoch >= self._settings.epochs:
            return self._curve(trained).measure(limit)
        return self._problem.evaluate_dynamic(self._network(trained, 0.0))

    def measure_spread(self) -> None:
        """Measure other energies of what was trained."""
        if self._settings.points and self._learned is not None:
            last = self._last or self._trainer.trained(self._widest)
            self._curve(last).measure_spread(self._settings.points)

    def _network(self, trained: "TrainedNetwork", offset: float) -> DynamicNetwork:
        assert self._plan is not None
        arrays = {slot: gate.selectors.arrays(offset) for slot, gate in self._gates.items()}
        return DynamicNetwork(self._plan.dynamic, arrays, self._settings.per, trained)

    def _deployed(self, trained: "TrainedNetwork") -> Calibrated:
        """Return the network with quantizers and batch norms as they are deployed."""
        problem, batches = self._problem, self._problem.calibration()
        model = self._network(trained, 0.0).deploy(
            problem.float_model(), problem.space.layers, problem.shared_model.config, batches
        )
        return Calibrated.of(model, batches)

    def _curve(self, trained: "TrainedNetwork") -> Curve:
        assert self._plan is not None
        calibrated = self._deployed(trained)
        calibrated.model.set_allocation(self._widest)
        offsets = calibrated.offsets(self._gates, self._plan, self._settings.batch_size)
        return Curve(self._problem, self._plan, offsets, lambda at: self._network(trained, at))

    def _join(self, *, fits: bool) -> None:
        """Let the gates choose from now on.

        Args:
            fits: Whether selectors are fitted to the network as it is; if not, they are restored.
        """
        import torch

        from ..models.dynamic.fit import trainable_gates
        from ..models.dynamic.joint import LearnedSelectors

        if self._plan is None:
            return
        settings, found, trainer = self._settings, self._plan, self._trainer
        generator = torch.Generator().manual_seed(self._seed)
        self._gates = trainable_gates(found.operands, settings, generator)
        if fits:
            self._fit()
        self._learned = LearnedSelectors(trainer.network, self._gates, found.dynamic, found.prices)
        self._learned.join()
        trainer.learn_widths(
            self._learned, optimizer="adam", lr=settings.selector_lr, epochs=settings.epochs
        )

    def _fit(self) -> None:
        """Let selectors begin with what narrower channels lose in the network as it is."""
        import torch

        assert self._plan is not None
        settings, problem = self._settings, self._problem
        shared = {f.name: getattr(settings, f.name) for f in fields(SelectorSettings)}
        fit = FitSettings(
            **shared,
            epochs=0,
            batch_size=settings.batch_size,
            directions=settings.directions,
            regression_steps=settings.regression_steps,
        )
        calibrated = self._deployed(self._trainer.trained(self._widest))
        problem.charge(self._trainer.images_estimated)
        fitter = calibrated.fitter(fit, self._plan, self._seed)
        fitter.begin()
        problem.charge(fitter.images_forward, fitter.images_backward)
        offsets = calibrated.offsets(fitter.gates, self._plan, settings.batch_size)
        low, high = offsets.ends()
        problem.charge(offsets.images_forward)
        offset = offsets.nearest(low + _START * (high - low))
        for slot, gate in self._gates.items():
            gate.selectors.load_state_dict(fitter.gates[slot].selectors.state_dict())
            with torch.no_grad():
                gate.selectors.score_bias.add_(offset)


def _static(settings: LearnPrecJoint, problem: Problem, found: Plan | None) -> BitAllocation:
    """Return the widths to train at before there are selectors."""
    if found is not None:
        return found.dynamic.widest
    space = settings.narrowed(settings.searched(problem.space))
    widest = space.uniform(settings.weights, settings.widths[-1])
    if problem.allows(widest):
        return widest
    return cheapest_within(space, problem.pricing, problem.budget.limits)
