"""What a strategy is given."""

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt

from ..spaces import (
    DEFAULT_OBJECTIVES,
    BitAllocation,
    BitSpace,
    EnergyTableError,
    EvaluationError,
    InfeasibleError,
    Measurement,
    Objective,
    Scores,
    SpaceError,
    StudyError,
    pareto_front,
    score_signature,
)
from .budget import Budget, BudgetSpent, limit_text
from .checkpoint import Checkpoint, CheckpointStore, State
from .pricing import Pricing, is_within, shown_cost
from .randomness import generator, generator_state
from .trace import Trace, finite

if TYPE_CHECKING:  # torch stays out until a strategy asks for the network
    from torch import Tensor, nn

    from ..energy import EnergyModel
    from ..models.config import ScoreConfig
    from ..models.dynamic.network import DynamicNetwork
    from ..models.images import ImageSet
    from ..models.quantized import QuantizedModel
    from ..models.trained import TrainedNetwork

    Networks = Sequence[TrainedNetwork | DynamicNetwork | str]

_MEAN_WIDTHS = ("mean_weight_bits", "mean_activation_bits")


class Evaluator(Protocol):
    """Measures allocations on the search split: in parallel, cached, recorded."""

    def __call__(
        self,
        allocations: Sequence[BitAllocation],
        *,
        fidelity: float = 1.0,
        networks: "Networks | None" = None,
    ) -> list[Measurement]:
        """Return one measurement per allocation, in the same order.

        What cannot be measured comes back as a measurement that `Measurement.failed`.

        Args:
            allocations: What to measure.
            fidelity: Share of the split's images to use, in (0, 1].
            networks: The trained or dynamic network to measure each with, or the digest of one
                that was handed over before; the study's own weights if None. Given only where a
                strategy hands some over: an evaluator for others need not take it.
        """
        ...


class ModelSource(Protocol):
    """The network, for strategies that look into it."""

    @property
    def digest(self) -> str:
        """A name of the network with its weights, its quantizers and the images."""
        ...

    @property
    def device(self) -> str:
        """Where a strategy is to train, as torch names it: ``cpu`` or ``cuda``."""
        ...

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network."""
        ...

    def calibration(self) -> "Sequence[tuple[Tensor, Tensor]]":
        """Return the calibration set as batches of ``b x c x h x w`` images and ``b`` labels."""
        ...

    def float_model(self, initial: bool = False) -> "nn.Module":
        """Return a fresh copy of the float network; with its initial weights if asked."""
        ...

    def training(self) -> "ImageSet":
        """Return the images to train on.

        Raises:
            StudyError: If there are none.
        """
        ...


class ScoreStore(Protocol):
    """Keeps sensitivity scores, so that all strategies of a study share them."""

    def get(self, signature: str) -> Scores | None:
        """Return the scores of that signature, if there are any."""
        ...

    def put(self, scores: Scores) -> None:
        """Keep scores under their signature."""
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
        tables: Further energy models, by the name of their table, that limits may name.
        score_store: Keeps sensitivity scores beyond this problem.
        checkpoints: Keeps what the strategy saves beyond this problem.

    Attributes:
        history: Every measurement asked for, in order, the failed ones too.
        rng: The only source of randomness, made from seed and label.
        pricing: What allocations cost.
        findings: What a strategy wants reported beside its front, plain values by name. Those a
            study knows how to show: ``solver``, a list of what an exact solver said;
            ``predicted``, predictions by `BitAllocation.key`, and ``predicts``, of what; and
            ``notes``, a list of sentences that whoever reads the result should know.
        trace: What was logged step by step; None before the first `log`.
        images_forward: Images the strategy passed through the network itself.
        images_backward: Images it passed backward.
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
        tables: "Mapping[str, EnergyModel] | None" = None,
        score_store: ScoreStore | None = None,
        checkpoints: CheckpointStore | None = None,
    ) -> None:
        self.space = space
        self.energy = energy
        self.pricing = Pricing(energy, tables or {})
        self.budget = budget
        self.seed = seed
        self.objectives = tuple(objectives)
        self.baseline = baseline
        self.history: list[Measurement] = []
        self.findings: dict[str, Any] = {}
        self.trace: Trace | None = None
        self.images_forward = 0
        self.images_backward = 0
        self.rng = generator(seed, label)
        self._evaluator = evaluator
        self._model = model
        self._score_store = score_store
        self._checkpoints = checkpoints
        self._label = label
        self._saved: State | None = None
        self._finished = False
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds the trial has taken so far, with those of an interrupted run up to its last save.

        Nothing should be decided by it: the same trial would ask otherwise another time.
        """
        return time.monotonic() - self._started

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
        _require_share(fidelity)
        for allocation in allocations:
            self.space.validate(allocation)
        affordable = list(allocations[: self.remaining])
        measured = self._ask(affordable, fidelity) if affordable else []
        if len(affordable) < len(allocations):
            raise BudgetSpent(f"all {self.budget.evaluations} evaluations are used")
        return measured

    def evaluate_trained(self, network: "TrainedNetwork", *, fidelity: float = 1.0) -> Measurement:
        """Measure a network that was trained for an allocation, on the search split.

        It is measured as it is: neither adapted nor reconstructed nor repaired. It is charged as
        one evaluation, also if it was handed over before or cannot be measured.

        Args:
            network: The network, with the allocation it is to run at, a member of the space.
            fidelity: Share of the search split's images to use, in (0, 1].

        Raises:
            BudgetSpent: If no evaluation is left.
            SpaceError: If the allocation is not in the space.
        """
        _require_share(fidelity)
        self.space.validate(network.allocation)
        if self.remaining < 1:
            raise BudgetSpent(f"all {self.budget.evaluations} evaluations are used")
        return self._ask([network.allocation], fidelity, [network])[0]

    def evaluate_dynamic(self, network: "DynamicNetwork", *, fidelity: float = 1.0) -> Measurement:
        """Measure a network that chooses its widths while it runs, on the search split.

        It is charged as one evaluation. What it costs is known only then: its energy is the mean
        over the images, and `Measurement.dynamic` says what was chosen.

        Args:
            network: What there is to choose from, all members of the space, and what chooses.
            fidelity: Share of the search split's images to use, in (0, 1].

        Raises:
            BudgetSpent: If no evaluation is left.
            SpaceError: If a member is not in the space.
        """
        _require_share(fidelity)
        for member in network.dynamic.members:
            self.space.validate(member)
        if self.remaining < 1:
            raise BudgetSpent(f"all {self.budget.evaluations} evaluations are used")
        return self._ask([network.allocation], fidelity, [network])[0]

    def _ask(
        self,
        allocations: Sequence[BitAllocation],
        fidelity: float,
        networks: "Networks | None" = None,
    ) -> list[Measurement]:
        if networks is None:  # an evaluator need not know of networks
            measured = self._evaluator(allocations, fidelity=fidelity)
        else:
            measured = self._evaluator(allocations, fidelity=fidelity, networks=networks)
        if len(measured) != len(allocations):
            raise EvaluationError(
                f"the evaluator answered {len(measured)} of {len(allocations)} questions"
            )
        self.history.extend(measured)
        return measured

    def price(self, allocation: BitAllocation, name: str = "energy") -> float:
        """Return what an allocation costs, without measuring it.

        Args:
            allocation: What to price.
            name: A cost, as in `Pricing`: ``energy`` (relative to uniform 8 bit), ``size`` ...
        """
        return self.pricing.price(allocation, name)

    def layer_costs(self, name: str = "energy") -> npt.NDArray[np.float64]:
        """Return the cost of each layer by its two widths, ``L x 33 x 33``; see `Pricing`."""
        return self.pricing.layer_costs(name)

    @cached_property
    def cost_name(self) -> str:
        """The first objective that is a cost known before measuring; ``energy`` if none is."""
        known = (o.name for o in self.objectives if o.name not in ("accuracy", "loss"))
        return next(known, "energy")

    def allows(self, allocation: BitAllocation) -> bool:
        """Return whether an allocation's price respects the budget's limits; nothing is charged."""
        return self.pricing.allows(allocation, self.budget.limits)

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
                f"{name} {shown_cost(min(self.price(a, name) for a in distinct))} "
                f"(limit {limit_text(limit)})"
                for name, limit in limits.items()
            )
            raise InfeasibleError(
                f"none of the {len(distinct)} allocations this strategy considers is within the "
                f"limits; the cheapest has {said}"
            )
        return allowed

    def within(self, measurement: Measurement) -> bool:
        """Return whether a measurement respects the budget's limits."""
        return self.pricing.within(measurement, self.budget.limits)

    def front(self) -> list[Measurement]:
        """Return what is best so far: measured on all images, within the limits, not dominated."""
        eligible = [m for m in self.history if m.fidelity == 1.0 and self.within(m)]
        return pareto_front(eligible, self.objectives)

    def require_feasible(self, part: BitSpace | None = None) -> None:
        """Check that some allocation of the space respects each limit.

        Args:
            part: The part of the space to look in; all of it if None.

        Raises:
            InfeasibleError: Saying the smallest achievable cost.
        """
        self.pricing.check_feasible(self.space if part is None else part, self.budget.limits)

    def scores(self, config: "ScoreConfig") -> Scores:
        """Return the sensitivity scores of every choice of the space.

        They are computed once and kept; whoever asks for them is charged the images they cost.

        Args:
            config: Which scores, and how.

        Raises:
            EvaluationError: If a score is not finite.
            StudyError: If the problem carries no network.
        """
        source = self._source()
        choices = [
            (self.space.weight_choices(i), self.space.activation_choices(i))
            for i in range(len(self.space.layers))
        ]
        signature = score_signature(source.digest, asdict(config), choices)
        found = self._score_store.get(signature) if self._score_store is not None else None
        if found is None:
            from ..models.sensitivity import compute_scores  # brings torch

            found = compute_scores(
                self.shared_model, source.calibration(), config, choices, signature
            )
            if self._score_store is not None:
                self._score_store.put(found)
        self.charge(found.images_forward, found.images_backward)
        return found

    def charge(self, forward: int = 0, backward: int = 0) -> None:
        """Count images that a strategy passes through the network itself.

        Args:
            forward: Images passed forward.
            backward: Images passed backward.
        """
        self.images_forward += forward
        self.images_backward += backward

    def log(
        self,
        step: str,
        allocation: BitAllocation,
        /,
        *,
        weight_bits: Sequence[SupportsFloat] | None = None,
        activation_bits: Sequence[SupportsFloat] | None = None,
        **metrics: SupportsFloat | None,
    ) -> None:
        """Note where the search stands after a step, for people to see as curves.

        Added to what is given are the prices of the allocation, free of charge: ``energy``
        (relative to uniform 8 bit), the study's cost and every limited cost, and the mean widths.
        With ``accuracy`` comes ``best_accuracy``, the highest so far of an allocation within the
        limits.

        Args:
            step: What one step is called, such as ``episode``; one word for the whole search.
            allocation: What the search stands at, as it can be deployed; what is priced.
            weight_bits: Widths of the layers' weights to show in place of the allocation's, where
                learned ones lie between the choices: a number for each layer.
            activation_bits: The same for their input activations.
            metrics: Further values by name; None, or what is not finite, where there is none.

        Raises:
            StudyError: If the word is another than before, a value is no number, widths are not a
                finite number for each layer, or the allocation is one of other layers.

        Examples:
            ``problem.log("episode", allocation, reward=reward, accuracy=measurement.accuracy)``
        """
        if self.trace is None:
            self.trace = Trace(step, tuple(layer.name for layer in self.space.layers))
        if step != self.trace.step:
            raise StudyError(f"a search logs one kind of step: {self.trace.step!r}, got {step!r}")
        names = dict.fromkeys(("energy", self.cost_name, *self.budget.limits, *_MEAN_WIDTHS))
        prices = {name: self._known_price(allocation, name) for name in names}
        values: dict[str, SupportsFloat | None] = {**metrics}
        if "accuracy" in metrics:
            best = self.trace.last("best_accuracy")
            accuracy = finite("accuracy", metrics["accuracy"])
            limits = self.budget.limits.items()
            if accuracy is not None and all(is_within(prices[name], most) for name, most in limits):
                best = accuracy if best is None else max(best, accuracy)
            values["best_accuracy"] = best
        self.trace.add(
            allocation,
            values | {n: p for n, p in prices.items() if n not in values},
            weight_bits=weight_bits,
            activation_bits=activation_bits,
        )

    def save(self, state: State) -> None:
        """Keep what the strategy needs to go on from here, in place of what it saved before.

        Call it where a step is complete: after an episode, an epoch, a generation. All that the
        problem knows is kept with it: what was asked, the state of `rng`, what was logged,
        `findings` and the images counted. If the trial is interrupted and its study is run again,
        `search` starts with the problem as it is now, and finds the state in `saved`.

        Args:
            state: Arrays of numbers and plain values by name, as in `State`. What was made of it
                later, such as a generator of the strategy's own, has to be in it.

        Raises:
            StudyError: If a value is neither.
        """
        self._keep(state)

    def finish(self) -> None:
        """Keep that the search has come to its end, in place of what was saved.

        `Searcher.run` calls this for strategies that train: another run of this very trial then has
        all that this one has, and nothing is trained again.
        """
        self._keep({}, finished=True)
        self._finished = True

    @property
    def finished(self) -> bool:
        """Whether the search has come to its end, in this run or in an earlier one."""
        return self._finished

    def _keep(self, state: State, *, finished: bool = False) -> None:
        if self._checkpoints is None:
            return
        checkpoint = Checkpoint(
            state,
            tuple((m.allocation, m.fidelity, m.network or "") for m in self.history),
            generator_state(self.rng),
            None if self.trace is None else self.trace.to_dict(),
            self.findings,
            self.images_forward,
            self.images_backward,
            self.wall_s,
            finished,
        )
        self._checkpoints.put(checkpoint.to_bytes())

    @property
    def saved(self) -> State | None:
        """What an interrupted run of this very trial saved last; None at a fresh start.

        The history is then that of the moment it was saved: what is counted from the start of a
        search goes by ``budget.evaluations``, not by `remaining`.
        """
        return self._saved

    def resume(self) -> None:
        """Go to where an interrupted run of this very trial saved last, if one did.

        `Searcher.run` calls this before `Searcher.search`. What had been asked is asked again, in
        order, so that history and charges are those of a run without an interruption; a study has
        the answers, and tries again what had failed. Where what is kept is damaged or of another
        trial, the trial starts over and ``findings["notes"]`` says so.
        """
        kept = None if self._checkpoints is None or self.history else self._checkpoints.get()
        if kept is None:
            return
        try:
            checkpoint = Checkpoint.from_bytes(kept)
            self._require_fitting(checkpoint)
            rng = generator(self.seed, self._label, checkpoint.rng)
            trace = None if checkpoint.trace is None else Trace.from_dict(checkpoint.trace)
        except (StudyError, SpaceError) as error:
            note = f"started over, since what an interrupted run had saved cannot be used: {error}"
            self.findings.setdefault("notes", []).append(note)
            return
        for (fidelity, trained), group in itertools.groupby(
            checkpoint.asked, key=lambda ask: (ask[1], ask[2] != "")
        ):
            allocations, _, networks = zip(*group, strict=True)
            self._ask(allocations, fidelity, networks if trained else None)
        self.rng, self.trace = rng, trace
        self.findings = dict(checkpoint.findings)
        self.images_forward = checkpoint.images_forward
        self.images_backward = checkpoint.images_backward
        self._started -= checkpoint.wall_s
        self._saved = checkpoint.state
        self._finished = checkpoint.finished

    def _require_fitting(self, checkpoint: Checkpoint) -> None:
        if len(checkpoint.asked) > self.budget.evaluations:
            raise StudyError(
                f"it has {len(checkpoint.asked)} evaluations, and the budget is "
                f"{self.budget.evaluations}"
            )
        for allocation, _, _ in checkpoint.asked:
            self.space.validate(allocation)

    @property
    def has_model(self) -> bool:
        """Whether there is a network to look into or to train."""
        return self._model is not None

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network to look into or to change.

        Raises:
            StudyError: If the problem carries no network.
        """
        return self._source().quantized_model()

    @cached_property
    def shared_model(self) -> "QuantizedModel":
        """A calibrated copy of the network, made once, to look into and to leave as it is.

        Sensitivity scores are computed on it. Calibration, and weights that are repaired from
        calibration images, take seconds; who does not change the network need not pay them twice.

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

    def float_model(self, initial: bool = False) -> "nn.Module":
        """Return a fresh copy of the study's float network, in evaluation mode.

        Its batch norms are as they are, and not folded into other layers.

        Args:
            initial: Whether its weights are the initial ones instead of the study's.

        Raises:
            StudyError: If the problem carries no network.
        """
        return self._source().float_model(initial)

    @property
    def device(self) -> str:
        """Where to train, as torch names it.

        Raises:
            StudyError: If the problem carries no network.
        """
        return self._source().device

    def training(self) -> "ImageSet":
        """Return the images to train on; neither the search split's nor the test split's.

        Raises:
            StudyError: If the problem carries no network, or the study loaded no training images.
        """
        return self._source().training()

    def _known_price(self, allocation: BitAllocation, name: str) -> float:
        """Return a cost; NaN where a table does not support a width."""
        try:
            return self.price(allocation, name)
        except EnergyTableError:
            return math.nan

    def _source(self) -> ModelSource:
        if self._model is None:
            raise StudyError("this problem carries no network; set needs_model = True on the class")
        return self._model


def _require_share(fidelity: float) -> None:
    if not 0.0 < fidelity <= 1.0:
        raise SpaceError(f"fidelity is a share of the images in (0, 1], got {fidelity!r}")
