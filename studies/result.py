"""What a finished study leaves: its points, its trials and its baselines, as one JSON file."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..spaces import OBJECTIVES, Measurement, Objective, StudyError
from .findings import Pair

RESULT_FILE = "result.json"
FORMAT = 4
"""Version of the file's layout: 2 has findings and predictions of trials, which are empty in 1, 3
has the trained networks that points were measured with, and 4 what dynamic networks chose; a reader
refuses what is newer than itself."""

TrialStatus = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class Point:
    """One finalist: a member of a trial's front, measured on both splits.

    A trial's front is chosen by what its strategy could see, the search split; what is reported is
    the test split.

    Attributes:
        strategy: Label of the strategy that found it.
        seed: Seed of its trial.
        budget: Label of its trial's budget.
        search: What the strategy saw.
        test: The same allocation, with the same trained network if there is one, measured once more
            on the test split.
        on_strategy_front: Whether no other finalist of the strategy (any seed, same budget)
            dominates it on the search split.
        on_front: Whether no other finalist of the study dominates it on the test split.
    """

    strategy: str
    seed: int
    budget: str
    search: Measurement
    test: Measurement
    on_strategy_front: bool
    on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = _shallow(self)
        return {**values, "search": self.search.to_dict(), "test": self.test.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Point":
        """Build a point from what `to_dict` returns."""
        measured = {name: Measurement.from_dict(values[name]) for name in ("search", "test")}
        return cls(**{**values, **measured})


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """How one run of one strategy went, and what it cost.

    Attributes:
        strategy: Label of the strategy.
        seed: Its seed.
        budget: Label of its budget.
        evaluations: Evaluations it was charged for, repeated ones included.
        images_forward: Images those evaluations ran on, and those the strategy passed through the
            network itself.
        wall_s: Seconds from its start to its end; if it was interrupted, without those between.
        status: ``failed`` if the strategy raised; what it had measured by then still counts.
        error: What it raised; None if it ended normally.
        images_backward: Images it passed backward.
        findings: What the strategy reported beside its front, plain values by name.
        predictions: What it predicted of the allocations it measured, each with the loss that was
            measured on the search split, in nats.
    """

    strategy: str
    seed: int
    budget: str
    evaluations: int
    images_forward: int
    wall_s: float
    status: TrialStatus = "done"
    error: str | None = None
    images_backward: int = 0
    findings: Mapping[str, Any] = field(default_factory=dict)
    predictions: tuple[Pair, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "predictions": [list(pair) for pair in self.predictions]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialRecord":
        """Build a record from what `to_dict` returns."""
        pairs = tuple((float(p), float(m)) for p, m in values.get("predictions", ()))
        return cls(**{**values, "predictions": pairs})


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Everything a finished study has to say.

    Attributes:
        name: The study's name.
        spec: The resolved study, as plain values.
        points: The finalists of all trials, in the order of `trials`, cheapest first.
        trials: Every trial, in the order strategy, budget, seed.
        float_search: The float network on the search split.
        float_test: The float network on the test split.
        uniform_w8a8: Weights and activations of 8 bits everywhere, on the test split.
        workload: Digest of what was measured: weights, data, quantizer.
        space_size: Number of allocations in the space.
        table_agreement: Kendall's tau between the ranking of the finalists by energy under the
            study's table and under each other table it names.
        versions: Versions of what the result depends on.
        notes: Sentences a reader should know: data found, tables of weak evidence, failed trials.
    """

    name: str
    spec: Mapping[str, Any]
    points: tuple[Point, ...]
    trials: tuple[TrialRecord, ...]
    float_search: Measurement
    float_test: Measurement
    uniform_w8a8: Measurement
    workload: str
    space_size: int
    table_agreement: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> tuple[Point, ...]:
        """The finalists no other dominates on the test split, cheapest first."""
        chosen = (point for point in self.points if point.on_front)
        return tuple(sorted(chosen, key=lambda point: self.cost.of(point.test)))

    @property
    def cost(self) -> Objective:
        """What is shown against accuracy: the study's first objective that is a cost, or energy."""
        named = self.spec.get("objectives") or ()
        costs = (name for name in named if name in OBJECTIVES and name not in ("accuracy", "loss"))
        return OBJECTIVES[next(costs, "energy")]

    @property
    def has_several_budgets(self) -> bool:
        """Whether a trial's strategy and seed do not tell it from all others."""
        return len({trial.budget for trial in self.trials}) > 1

    @property
    def failed_trials(self) -> tuple[TrialRecord, ...]:
        """The trials whose strategy raised."""
        return tuple(trial for trial in self.trials if trial.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = _shallow(self)
        for name in _MEASUREMENTS:
            values[name] = values[name].to_dict()
        values["points"] = [point.to_dict() for point in self.points]
        values["trials"] = [trial.to_dict() for trial in self.trials]
        values["notes"] = list(self.notes)
        values["space_size"] = _number(self.space_size)
        return {"format": FORMAT, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudyResult":
        """Build a result from what `to_dict` returns.

        Raises:
            StudyError: If it was written by a newer version.
        """
        known = {**values}
        if (version := known.pop("format", None)) not in range(1, FORMAT + 1):
            raise StudyError(
                f"the result has format {version!r} and this version of bitfront reads format 1 to "
                f"{FORMAT}; read it with the version that wrote it, or run the study again"
            )
        for name in _MEASUREMENTS:
            known[name] = Measurement.from_dict(known[name])
        known["points"] = tuple(map(Point.from_dict, known["points"]))
        known["trials"] = tuple(map(TrialRecord.from_dict, known["trials"]))
        known["notes"] = tuple(known["notes"])
        known["space_size"] = int(str(known["space_size"]), 0)
        return cls(**known)

    def save(self, folder: Path) -> Path:
        """Write the result into a study folder, whole or not at all.

        Returns:
            The file's path.
        """
        path = folder / RESULT_FILE
        write_atomic(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> "StudyResult":
        """Read the result of a study folder.

        Raises:
            StudyError: If there is none, or it cannot be read.
        """
        path = folder / RESULT_FILE
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StudyError(
                f"no result in {folder}: run the study to its end first (bitfront run STUDY)"
            ) from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise StudyError(f"{path} is not a study's result: {error}") from error


_MEASUREMENTS = ("float_search", "float_test", "uniform_w8a8")


def _number(size: int) -> int | str:
    """Return a count as JSON can carry it: per-channel spaces are larger than any float."""
    return size if size < 2**53 else hex(size)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _shallow(value: Point | StudyResult) -> dict[str, Any]:
    """Return a dataclass as a dict, its values as they are."""
    return {entry.name: getattr(value, entry.name) for entry in fields(value)}
