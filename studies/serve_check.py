"""A study's test split served through a precision controller, with a shift in the middle."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..energy.dynamic import decision_cost
from ..models.engine import Engine
from ..models.images import ImageSet
from ..models.runtime.audit import AuditLog, read_audit, replay
from ..models.runtime.controller import PrecisionController
from ..models.runtime.guardrail import GuardSettings
from ..models.runtime.levels import prepare_levels
from ..models.runtime.policy import THRESHOLDS, ConfidencePolicy, FixedPolicy, Policy
from ..models.threads import fixed_threads
from ..searchers.widths import check_offered, offered_widths
from ..spaces import BitAllocation, DynamicAllocation, StudyError
from ..spaces.dynamic import check_thresholds
from .progress import ProgressCallback
from .spec import StudySpec
from .workload import Prepared, Workload, prepare

PolicyName = Literal["fixed", "confidence"]

DEFAULT_MEMBERS = (4, 6, 8)

_SET_UP = 1000
"""Most images that are set aside for the set-up, if nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is served, and how.

    Attributes:
        members: Uniform widths of the levels, low first; 4, 6 and 8 if None, or what the space has.
        policy: Who answers an input: the level in force, or a higher one where it is not sure.
        thresholds: Of the confidence; 0.9 and 0.6 if None.
        guard: What is watched.
        noise: Standard deviation of normal noise on the inputs, of the range of a pixel.
        noise_from: The first input with noise.
        noise_to: The first one without again; None for none.
        limit: Most inputs.
        repeat: How often the test split is served, one time after the other.
        set_up: Images that are set aside for the set-up; a quarter, but at most 1,000, if None.
        batch_size: Inputs that the controller is given at a time.
        audit: The audit log's file.
        seed: Of the order of images, and of the noise.
    """

    members: tuple[int, ...] | None = None
    policy: PolicyName = "fixed"
    thresholds: tuple[float, ...] | None = None
    guard: GuardSettings = field(default_factory=GuardSettings)
    noise: float = 0.0
    noise_from: int = 0
    noise_to: int | None = None
    limit: int | None = None
    repeat: int = 1
    set_up: int | None = None
    batch_size: int = 64
    audit: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in get_args(PolicyName):
            raise StudyError(f"--policy is fixed or confidence, got {self.policy!r}")
        if not self.noise and (self.noise_from or self.noise_to is not None):
            raise StudyError("--noise-from and --noise-to say when there is --noise, and it is 0")
        if self.members is not None and len(self.members) < 2:
            raise StudyError(f"--members names at least 2 widths, got {list(self.members)}")
        if self.thresholds is not None:
            if self.policy != "confidence":
                raise StudyError("--thresholds are of --policy confidence")
            check_thresholds(self.thresholds, len(self.members or DEFAULT_MEMBERS))
        if not 0 <= self.noise < math.inf:
            raise StudyError(f"--noise is a standard deviation, at least 0, got {self.noise}")
        if self.noise_to is not None and self.noise_to <= self.noise_from:
            raise StudyError(
                f"the noise must end after it begins, got --noise-from {self.noise_from} and "
                f"--noise-to {self.noise_to}"
            )


@dataclass(frozen=True)
class LevelReport:
    """What became of the inputs that a level answered.

    Attributes:
        name: Of the level.
        width: Uniform width that was asked for.
        energy: Of one inference, relative to uniform 8 bit.
        in_force: Inputs while it was in force.
        answered: Inputs it answered.
        accuracy: Share of these that was right; None of none.
    """

    name: str
    width: int
    energy: float
    in_force: int
    answered: int
    accuracy: float | None


@dataclass(frozen=True)
class PhaseReport:
    """What became of the inputs of a part of the stream; None of none.

    Attributes:
        name: Of the part.
        inputs: How many.
        accuracy: Share that was right.
        energy: Mean energy of an answer, relative to uniform 8 bit.
        shadow_energy: The same of what was run only to watch.
        lowest_share: Share of the inputs for which the lowest level was in force.
    """

    name: str
    inputs: int
    accuracy: float | None
    energy: float | None
    shadow_energy: float | None
    lowest_share: float | None


@dataclass(frozen=True)
class ServeReport:
    """What happened.

    Attributes:
        study: Its name.
        inputs: How many were served.
        levels: By level.
        phases: All inputs, and where there is noise, those before it, under it and after it.
        switches: Events of the audit log that changed the level.
        failures: Events that told of a failure.
        rolled_back_after: Inputs from the first with noise to the rollback; None if there was none.
        returned_after: Inputs from the first without noise again until the lowest level was in
            force; None if it did not come to that.
        replays: Whether the audit log replays to the controller's own states.
    """

    study: str
    inputs: int
    levels: tuple[LevelReport, ...]
    phases: tuple[PhaseReport, ...]
    switches: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]
    rolled_back_after: int | None
    returned_after: int | None
    replays: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def serve_check(
    spec: StudySpec, settings: ServeSettings, *, progress: ProgressCallback | None = None
) -> ServeReport:
    """Serve a study's test split through a controller.

    The images come in an order drawn with the seed. Those set aside for the set-up are the first of
    that order and are not served: training images would not do, since levels agree more on them.

    Args:
        spec: The study.
        settings: What is served, and how.
        progress: Told of preparing the network.

    Raises:
        BitfrontError: If the study cannot be prepared, or the settings do not fit it.
    """
    prepared = prepare(spec, progress)
    stream = _stream(prepared.workload.images["test"], settings)
    _check_stream(stream, settings)
    members = settings.members or _default_members(prepared)
    check_offered(prepared.space, members, "--members")
    with fixed_threads(spec.execution.threads_per_worker), TemporaryDirectory() as folder:
        path = settings.audit or Path(folder) / "audit.jsonl"
        controller = _controller(spec, prepared, settings, members, AuditLog(path))
        try:
            controller.calibrate(stream.set_up.batches(settings.batch_size))
            served = _serve(controller, stream, settings.batch_size)
        finally:
            controller.close()
        trail = read_audit(path)
    return _report(spec, controller, members, stream, served, trail.events)


@dataclass(frozen=True)
class Stream:
    """Images to set up with, and images to serve.

    Attributes:
        set_up: Not served.
        images: To serve, one time after the other.
        inputs: How many in all.
        noise: Standard deviation, of the range of a pixel.
        first: The first input with noise.
        end: The first one without again.
        rng: Draws the noise.
    """

    set_up: ImageSet
    images: ImageSet
    inputs: int
    noise: float
    first: int
    end: int
    rng: np.random.Generator

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels; the noise does not depend on the size of batches."""
        std = torch.tensor(self.images.std).view(-1, 1, 1)
        for start in range(0, self.inputs, batch_size):
            numbers = np.arange(start, min(start + batch_size, self.inputs))
            x, labels = self.images.batch(numbers % len(self.images))
            noisy = (numbers >= self.first) & (numbers < self.end) & (self.noise > 0)
            if noisy.any():
                drawn = self.rng.standard_normal((int(noisy.sum()), *x.shape[1:]), dtype=np.float32)
                x[torch.from_numpy(noisy)] += self.noise / std * torch.from_numpy(drawn)
            yield x, labels


@dataclass(frozen=True)
class _Served:
    """What became of every input."""

    level: npt.NDArray[np.int64]
    floor: npt.NDArray[np.int64]
    energy: npt.NDArray[np.float64]
    shadow: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]


def _stream(images: ImageSet, settings: ServeSettings) -> Stream:
    order_rng, noise_rng = np.random.default_rng(settings.seed).spawn(2)
    order = order_rng.permutation(len(images))
    set_up = min(_SET_UP, len(images) // 4) if settings.set_up is None else settings.set_up
    if not 0 < set_up < len(images):
        raise StudyError(
            f"{set_up} images are to be set aside of a test split of {len(images)}; some must be, "
            f"and some must be left to serve"
        )
    served = images.subset(order[set_up:])
    inputs = len(served) * settings.repeat
    inputs = inputs if settings.limit is None else min(inputs, settings.limit)
    return Stream(
        images.subset(order[:set_up]),
        served,
        inputs,
        settings.noise,
        settings.noise_from,
        inputs if settings.noise_to is None else settings.noise_to,
        noise_rng,
    )


def _check_stream(stream: Stream, settings: ServeSettings) -> None:
    """Check that the stream is long enough for what is to be shown.

    Raises:
        StudyError: If it ends before the noise begins or ends, or a window is full, or labels are
            missing.
    """
    guard = settings.guard
    for name, number in (("begins", settings.noise_from), ("ends", settings.noise_to)):
        if settings.noise and number is not None and number >= stream.inputs:
            raise StudyError(
                f"the stream ends after {stream.inputs} inputs, before the noise {name} at "
                f"{number}; serve more with --repeat or --limit, or let it come earlier"
            )
    needed = guard.window * (guard.check_every if "agreement" in guard.signals else 1)
    if stream.inputs < needed:
        raise StudyError(
            f"the stream ends after {stream.inputs} inputs, before a window of {guard.window} "
            f"checked ones is full at {needed}; serve more with --repeat or --limit, or lower "
            f"--window or --check-every"
        )
    if "accuracy" in guard.signals:
        for images in (stream.set_up, stream.images):
            if missing := int((images.labels < 0).sum()):
                raise StudyError(
                    f"--guard accuracy needs labels, and {missing} of {len(images)} images have "
                    f"none; watch agreement or confidence"
                )


def _default_members(prepared: Prepared) -> tuple[int, ...]:
    """Return 4, 6 and 8, or what the space offers, but no width that costs as much as a larger one.

    Raises:
        StudyError: If fewer than two are left.
    """
    space, energy = prepared.space, prepared.workload.energy
    offered = offered_widths(space)
    chosen = (
        DEFAULT_MEMBERS
        if set(DEFAULT_MEMBERS) <= set(offered)
        else sorted({offered[0], offered[len(offered) // 2], offered[-1]})
    )
    costs = [energy.energy(space.uniform(width)) for width in chosen]
    kept = [
        width
        for number, width in enumerate(chosen)
        if all(costs[number] < cost for cost in costs[number + 1 :])
    ]
    if len(kept) < 2:
        raise StudyError(
            f"under table {energy.table.id} none of {', '.join(map(str, chosen))} bits costs less "
            f"than {chosen[-1]}; name other widths with --members, or choose another table"
        )
    return tuple(kept)


def _controller(
    spec: StudySpec,
    prepared: Prepared,
    settings: ServeSettings,
    members: tuple[int, ...],
    log: AuditLog,
) -> PrecisionController:
    workload = prepared.workload
    allocations = [prepared.space.uniform(width) for width in members]
    try:
        policy = _policy(settings, workload, allocations)
        example = workload.images["calibration"].batch(slice(0, 4))[0]
        engine = Engine(workload.quantized_model(), example)
        return PrecisionController(
            prepare_levels(engine, workload.energy, allocations, example),
            classes=workload.architecture.classes,
            policy=policy,
            guardrail=settings.guard,
            audit=log,
            name=spec.model.name,
        )
    except BaseException:
        log.close()
        raise


def _policy(
    settings: ServeSettings, workload: Workload, allocations: Sequence[BitAllocation]
) -> Policy:
    """Return who answers an input.

    Raises:
        SpaceError: If thresholds and levels do not fit together.
    """
    if settings.policy == "fixed":
        return FixedPolicy()
    count = len(allocations)
    thresholds = settings.thresholds or THRESHOLDS.get(count, ())
    check_thresholds(thresholds, count)
    cascade = DynamicAllocation(
        "cascade",
        tuple(allocations),
        thresholds=thresholds,
        temperatures=(1.0,) * (count - 1),
        classes=workload.architecture.classes,
    )
    deciding = decision_cost(workload.energy, cascade) / workload.energy.w8a8
    return ConfidencePolicy(count, thresholds, decision_energy=deciding)


def _serve(controller: PrecisionController, stream: Stream, batch_size: int) -> _Served:
    answers, right = [], []
    for x, labels in stream.batches(batch_size):
        answers.append(controller(x, labels))
        right.append((answers[-1].logits.argmax(dim=1) == labels).numpy())
    return _Served(
        np.concatenate([answer.level for answer in answers]),
        np.concatenate([answer.floor for answer in answers]),
        np.concatenate([answer.energy for answer in answers]),
        np.concatenate([answer.shadow_energy for answer in answers]),
        np.concatenate(right),
    )


def _report(
    spec: StudySpec,
    controller: PrecisionController,
    members: tuple[int, ...],
    stream: Stream,
    served: _Served,
    log: Sequence[Mapping[str, Any]],
) -> ServeReport:
    start = max(n for n, event in enumerate(log) if event["event"] == "start")
    events = log[start:]
    levels = []
    for number, (level, width) in enumerate(zip(controller.levels, members, strict=True)):
        mine = served.level == number
        accuracy = float(served.right[mine].mean()) if mine.any() else None
        in_force = int((served.floor == number).sum())
        levels.append(
            LevelReport(level.name, width, level.energy, in_force, int(mine.sum()), accuracy)
        )
    phases = {"all": slice(0, stream.inputs)}
    if stream.noise:
        phases |= {
            "before the noise": slice(0, stream.first),
            "under the noise": slice(stream.first, stream.end),
            "after the noise": slice(stream.end, stream.inputs),
        }
    return ServeReport(
        study=spec.study,
        inputs=stream.inputs,
        levels=tuple(levels),
        phases=tuple(_phase(name, served, part) for name, part in phases.items()),
        switches=tuple(event for event in events if event["event"] == "switch"),
        failures=tuple(event for event in events if event["event"] == "failure"),
        rolled_back_after=_rolled_back_after(controller, stream),
        returned_after=_returned_after(served, stream),
        replays=replay(events) == controller.states,
    )


def _phase(name: str, served: _Served, part: slice) -> PhaseReport:
    right = served.right[part]
    if not len(right):
        return PhaseReport(name, 0, None, None, None, None)
    return PhaseReport(
        name,
        len(right),
        float(right.mean()),
        float(served.energy[part].mean()),
        float(served.shadow[part].mean()),
        float((served.floor[part] == 0).mean()),
    )


def _rolled_back_after(controller: PrecisionController, stream: Stream) -> int | None:
    highest = len(controller.levels) - 1
    if stream.noise:
        for number, level in controller.history:
            if stream.first < number <= stream.end and level == highest:
                return number - stream.first
    return None


def _returned_after(served: _Served, stream: Stream) -> int | None:
    lowest = np.flatnonzero(served.floor[stream.end :] == 0)
    return int(lowest[0]) if stream.noise and len(lowest) else None
