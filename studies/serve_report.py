"""What happened while a stream was served."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..models.runtime.audit import replay
from ..models.runtime.controller import PrecisionController
from .serve_stream import Stream


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
        window: Most checked inputs that the guardrail judged together after each one.
        check_every: Every so-many-th input was run in the shadow.
        window_fitted: Whether these two are lower than usual, since the stream was short.
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
    window: int
    check_every: int
    window_fitted: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Served:
    """What became of every input.

    Attributes:
        level: Who answered.
        floor: The level in force.
        energy: Of the answer, relative to uniform 8 bit.
        shadow: Of what was run only to watch.
        right: Whether the answer was right.
    """

    level: npt.NDArray[np.int64]
    floor: npt.NDArray[np.int64]
    energy: npt.NDArray[np.float64]
    shadow: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]


def report_on(
    study: str,
    controller: PrecisionController,
    members: tuple[int, ...],
    stream: Stream,
    served: Served,
    log: Sequence[Mapping[str, Any]],
    *,
    window_fitted: bool,
) -> ServeReport:
    """Return what happened.

    Args:
        study: Its name.
        controller: What served, closed.
        members: Uniform widths of its levels.
        stream: What was served.
        served: What became of it.
        log: Events of the audit log.
        window_fitted: Whether the guardrail's window was fitted to the stream.
    """
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
        study=study,
        inputs=stream.inputs,
        levels=tuple(levels),
        phases=tuple(_phase(name, served, part) for name, part in phases.items()),
        switches=tuple(event for event in events if event["event"] == "switch"),
        failures=tuple(event for event in events if event["event"] == "failure"),
        rolled_back_after=_rolled_back_after(controller, stream),
        returned_after=_returned_after(served, stream),
        replays=replay(events) == controller.states,
        window=controller.settings.window,
        check_every=controller.settings.check_every,
        window_fitted=window_fitted,
    )


def _phase(name: str, served: Served, part: slice) -> PhaseReport:
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


def _returned_after(served: Served, stream: Stream) -> int | None:
    lowest = np.flatnonzero(served.floor[stream.end :] == 0)
    return int(lowest[0]) if stream.noise and len(lowest) else None
