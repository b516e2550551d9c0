"""Running a study from its file to its result."""

import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import yaml

from .. import __version__
from ..energy import load_table, score_under
from ..searchers import Pricing
from ..spaces import (
    BitAllocation,
    EnergyTableError,
    EvaluationError,
    Measurement,
    Objective,
    StudyError,
    as_costs,
    non_dominated,
)
from .cluster import require_listening
from .findings import notes_of, predictions
from .ledger import TrialRow
from .progress import Phase, ProgressCallback, ProgressEvent
from .record import LEDGER_FILE, Books
from .requests import Request
from .result import Point, StudyResult, TrialRecord, write_atomic
from .spec import StudySpec
from .trials import Ground, Trial, front_of, planned, titles

if TYPE_CHECKING:
    from .pool import Pool
    from .workload import Prepared, Workload

SPEC_FILE = "study.yaml"


def run_study(spec: StudySpec, *, progress: ProgressCallback | None = None) -> StudyResult:
    """Run a study, keep its result in its folder, and log it to MLflow.

    Args:
        spec: The study.
        progress: Told where the study stands.

    Raises:
        BitfrontError: If the study cannot be run; then nothing is written but trained weights, to
            their cache. If MLflow refuses the result, the result is in the folder all the same.
    """
    from .ledger import Ledger
    from .mlflow_store import connect, resolve_uri, sqlite_path
    from .tracking import log_study

    uri = resolve_uri(spec.tracking.uri, spec.folder.parent)
    if (path := sqlite_path(uri)) is None or path.exists():
        connect(uri)  # better to hear now than after hours that nobody answers there
    result = measure_study(spec, progress=progress)
    _tell(progress, ProgressEvent(phase="track"))
    with closing(Ledger(spec.folder / LEDGER_FILE)) as ledger:
        evaluations = ledger.rows()
    log_study(
        result,
        uri=uri,
        experiment=spec.tracking.experiment,
        folder=spec.folder,
        evaluations=evaluations,
    )
    _tell(progress, ProgressEvent(phase="track", done=1, total=1))
    return result


def measure_study(spec: StudySpec, *, progress: ProgressCallback | None = None) -> StudyResult:
    """Run a study and keep its result in its folder.

    Every strategy runs once with every budget and seed. What it selected on the search split, its
    trial's front, is then measured once on the test split; that is what is reported. Selection
    never sees the test split, except for `Point.on_front`, which says what stands out among the
    finalists once they are measured there.

    Args:
        spec: The study.
        progress: Told where the study stands.

    Raises:
        BitfrontError: If the study cannot be run.
    """
    from .workload import prepare

    if spec.execution.address is not None:
        require_listening(spec.execution.address)
    prepared = prepare(spec, progress)
    trials = planned(spec)
    _open_folder(spec)
    # Strategies, Ray and whatever they load may print; standard output is for who called.
    with redirect_stdout(sys.stderr), _pool(spec, prepared, trials, progress) as pool:
        baselines = _measure_baselines(prepared, pool, progress)
        workload = prepared.workload
        ground = Ground(
            prepared.space,
            prepared.pricing,
            spec.compared,
            baselines.float_search,
            _training_facts(spec, workload),
        )
        pool.run(trials, ground)
        histories = {trial.id: pool.history(trial.id) for trial in trials}
        rows = pool.trials()
        records = [_record(row, histories[row.id]) for row in rows]
        named = titles(trials)
        said = [f"{named[row.id]}: {note}" for row in rows for note in notes_of(row.own.findings)]
        finalists, notes = _finalists(trials, histories, spec.compared, prepared.pricing)
        tested = _measure_finalists(finalists, pool, progress)
        pool.keep_networks({m.network for m in tested if m.network is not None})
        measuring_notes = pool.notes()
    notes += _over_limits(finalists, tested, prepared.pricing)
    points = _points(finalists, tested, spec.compared)
    agreement, more_notes = _table_agreement(spec, prepared, points)
    result = StudyResult(
        name=spec.study,
        spec=spec.to_dict(),
        points=points,
        trials=tuple(records),
        float_search=baselines.float_search,
        float_test=baselines.float_test,
        uniform_w8a8=baselines.uniform_w8a8,
        workload=workload.digest,
        space_size=prepared.space.size,
        table_agreement=agreement,
        versions=_versions(),
        notes=(*prepared.notes, *measuring_notes, *baselines.notes, *notes, *said, *more_notes),
    )
    result.save(spec.folder)
    return result


def _training_facts(spec: StudySpec, workload: "Workload") -> str:
    """Return what trials that train have in common besides their strategies; empty without any."""
    if workload.train is None:
        return ""
    return f"{workload.train.digest}, gpus {spec.execution.gpus_per_trial > 0}"


@dataclass(frozen=True)
class _Baselines:
    float_search: Measurement
    float_test: Measurement
    uniform_w8a8: Measurement
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Finalist:
    trial: Trial
    search: Measurement


def _open_folder(spec: StudySpec) -> None:
    """Make the study's folder, and leave in it the study as it was resolved."""
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True)
        write_atomic(spec.folder / SPEC_FILE, text)
    except OSError as error:
        raise StudyError(
            f"cannot write the study's folder {spec.folder}: {error.strerror}; choose another "
            f"with 'output'"
        ) from error


def _pool(
    spec: StudySpec,
    prepared: "Prepared",
    trials: Sequence[Trial],
    progress: ProgressCallback | None,
) -> "AbstractContextManager[Pool]":
    """Open the pool that the study asks for; Ray is loaded only if it does."""
    execution, workload = spec.execution, prepared.workload
    books = Books(spec.folder, workload.digest, prepared.pricing, tuple(trials), spec.compared)
    threads = execution.threads_per_worker
    if execution.workers == 0:
        from .pool import local_pool

        return local_pool(workload, books, threads=threads, progress=progress)
    from .ray_pool import ray_pool

    return ray_pool(
        workload,
        books,
        workers=execution.workers,
        threads=threads,
        gpus=execution.gpus_per_worker,
        gpus_per_trial=execution.gpus_per_trial,
        address=execution.address,
        progress=progress,
    )


def _measure_baselines(
    prepared: "Prepared", pool: "Pool", progress: ProgressCallback | None
) -> _Baselines:
    """Measure what every allocation is compared with; nobody is charged.

    Raises:
        EvaluationError: If the float network itself cannot be measured.
    """
    layers = prepared.workload.layers
    float32, w8a8 = (BitAllocation.uniform(layers, width) for width in (32, 8))
    requests = [Request(float32), Request(float32, "test"), Request(w8a8, "test")]
    if prepared.one_part:
        requests.append(Request(float32, "calibration"))
    search, test, uniform, *calibration = _measure("baselines", requests, pool, progress)
    for measurement in (search, test, *calibration):
        if measurement.failed:
            raise EvaluationError(f"the float network cannot be measured: {measurement.error}")
    notes = tuple(_accuracy_on_all(search, test, other) for other in calibration)
    return _Baselines(search, test, uniform, notes)


def _accuracy_on_all(*float_splits: Measurement) -> str:
    """Return a note with the float accuracy on all images: what a published figure compares with.

    Where all splits come from one set of images, none of them alone is that set.
    """
    samples = sum(measurement.samples for measurement in float_splits)
    correct = sum(round(measurement.accuracy * measurement.samples) for measurement in float_splits)
    return (
        f"float32 on all {samples:,} images of the three splits together: "
        f"{correct:,} correct, {100 * correct / samples:.2f} %"
    )


def _record(row: TrialRow, history: Sequence[Measurement]) -> TrialRecord:
    """Return how a trial went, given what it was answered."""
    return TrialRecord(
        row.strategy,
        row.seed,
        row.budget,
        evaluations=len(history),
        images_forward=sum(m.samples + m.images_forward for m in history) + row.own.images_forward,
        wall_s=row.wall_s,
        status="done" if row.state == "done" else "failed",
        error=row.error,
        images_backward=sum(m.images_backward for m in history) + row.own.images_backward,
        findings=row.own.findings,
        predictions=predictions(row.own.findings, history),
    )


def _finalists(
    trials: Sequence[Trial],
    histories: Mapping[str, Sequence[Measurement]],
    objectives: Sequence[Objective],
    pricing: Pricing,
) -> tuple[list[_Finalist], list[str]]:
    """Return each trial's front on the search split, and a note on every trial without one."""
    finalists, notes = [], []
    named = titles(trials)
    for trial in trials:
        front = front_of(trial, histories[trial.id], objectives, pricing)
        if not front:
            notes.append(f"{named[trial.id]}: {_why_nothing(histories[trial.id])}")
        finalists += [_Finalist(trial, measurement) for measurement in front]
    return finalists, notes


def _why_nothing(history: Sequence[Measurement]) -> str:
    """Return why a trial has no finalist."""
    if not history:
        return "asked for no evaluation"
    why = f"none of its {len(history)} evaluations gave an accuracy within the budget"
    errors = [measurement.error for measurement in history if measurement.error is not None]
    return f"{why}; the first of {len(errors)} that failed: {errors[0]}" if errors else why


def _over_limits(
    finalists: Sequence[_Finalist], tested: Sequence[Measurement], pricing: Pricing
) -> list[str]:
    """Say which finalists cost more on the test split than their limits, which held on search.

    That can only be where costs are means over inputs.
    """
    notes = []
    for finalist, test in zip(finalists, tested, strict=True):
        limits = finalist.trial.budget.limits
        if test.dynamic is None or test.failed or pricing.within(test, limits):
            continue
        costs = ", ".join(f"{name} {pricing.price_of(test, name):.4g}" for name in limits)
        notes.append(
            f"{finalist.trial.id}: a finalist within the limits on the search split is over them "
            f"on the test split, with {costs}"
        )
    return notes


def _measure_finalists(
    finalists: Sequence[_Finalist], pool: "Pool", progress: ProgressCallback | None
) -> list[Measurement]:
    """Measure finalists on the test split, each allocation and each trained network once."""
    requests = [replace(Request.answered_by(f.search), split="test") for f in finalists]
    distinct = list(dict.fromkeys(requests))
    answers = dict(zip(distinct, _measure("test", distinct, pool, progress), strict=True))
    return [answers[request] for request in requests]


def _measure(
    phase: Phase, requests: Sequence[Request], pool: "Pool", progress: ProgressCallback | None
) -> list[Measurement]:
    """Answer requests of the driver's own, and tell after every answer how far that is."""
    started, total = time.monotonic(), len(requests)
    _tell(progress, ProgressEvent(phase=phase, total=total))
    answers: list[Measurement] = []
    for answer in pool.each(requests):
        answers.append(answer)
        elapsed_s = time.monotonic() - started
        _tell(
            progress,
            ProgressEvent(phase=phase, done=len(answers), total=total, elapsed_s=elapsed_s),
        )
    return answers


def _points(
    finalists: Sequence[_Finalist], tested: Sequence[Measurement], objectives: Sequence[Objective]
) -> tuple[Point, ...]:
    """Return the finalists with their fronts marked."""
    on_front = undominated(tested, objectives)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, finalist in enumerate(finalists):
        row = finalist.trial.row()
        groups.setdefault((row.strategy, row.budget), []).append(index)
    on_own: dict[int, bool] = {}
    for members in groups.values():
        marks = undominated([finalists[index].search for index in members], objectives)
        on_own.update(zip(members, marks, strict=True))
    return tuple(
        Point(
            finalist.trial.strategy.label,
            finalist.trial.seed,
            finalist.trial.row().budget,
            finalist.search,
            test,
            on_strategy_front=on_own[index],
            on_front=on_front[index],
        )
        for index, (finalist, test) in enumerate(zip(finalists, tested, strict=True))
    )


def undominated(measurements: Sequence[Measurement], objectives: Sequence[Objective]) -> list[bool]:
    """Return which measurements no other dominates; of equally good ones, all."""
    costs = as_costs(measurements, objectives)
    best = {tuple(row) for row in costs[non_dominated(costs)].tolist()}
    return [tuple(row) in best for row in costs.tolist()]


def _table_agreement(
    spec: StudySpec, prepared: "Prepared", points: Sequence[Point]
) -> tuple[dict[str, float], list[str]]:
    """Return how far other tables rank the finalists alike, and notes on those that cannot."""
    agreement: dict[str, float] = {}
    notes = []
    energy = prepared.workload.energy
    candidates = list(dict.fromkeys(p.test.dynamic or p.test.allocation for p in points))
    for name in spec.energy.also if len(candidates) > 1 else ():
        try:
            tables = [energy.table, load_table(name)]
            scores = score_under(tables, energy.layers, candidates, options=energy.options)
        except EnergyTableError as error:
            notes.append(f"the finalists cannot be ranked under {name}: {error}")
            continue
        if math.isnan(tau := float(scores.tau[0, 1])):
            notes.append(f"the finalists cannot be ranked under {name}: one table prices all alike")
        else:
            agreement[scores.tables[1]] = tau
    return agreement, notes


def _versions() -> dict[str, str]:
    packages = ("numpy", "torch", "torchvision", "timm", "ray")
    found = {package: version(package) for package in packages}
    return {"bitfront": __version__, "python": platform.python_version(), **found}


def _tell(progress: ProgressCallback | None, event: ProgressEvent) -> None:
    if progress is not None:
        progress(event)
