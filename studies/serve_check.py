"""A study's test split served through a precision controller, with a shift in the middle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..energy.dynamic import decision_cost
from ..models.engine import Engine
from ..models.runtime.audit import AuditLog, check_writable, read_audit
from ..models.runtime.controller import PrecisionController
from ..models.runtime.levels import prepare_levels
from ..models.runtime.policy import THRESHOLDS, ConfidencePolicy, FixedPolicy, Policy
from ..models.threads import fixed_threads
from ..searchers.widths import check_offered, offered_widths
from ..spaces import BitAllocation, DynamicAllocation, StudyError
from ..spaces.dynamic import check_thresholds
from .progress import ProgressCallback
from .serve_report import Served, ServeReport, report_on
from .serve_settings import DEFAULT_MEMBERS, ServeSettings
from .serve_stream import Stream, check_stream, fitted_guard, stream_of
from .spec import StudySpec
from .workload import Prepared, Workload, prepare


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
    if settings.audit is not None:
        check_writable(settings.audit)
    prepared = prepare(spec, progress)
    stream = stream_of(prepared.workload.images["test"], settings)
    guard = fitted_guard(stream, settings.guard) if settings.fit_window else settings.guard
    fitted = guard != settings.guard
    settings = replace(settings, guard=guard)
    check_stream(stream, settings)
    members = settings.members or _default_members(prepared)
    check_offered(prepared.space, members, "--members")
    with fixed_threads(spec.execution.threads_per_worker), TemporaryDirectory() as folder:
        path = settings.audit or Path(folder) / "audit.jsonl"
        controller = _controller(spec, prepared, settings, members, path)
        try:
            controller.calibrate(stream.set_up.batches(settings.batch_size))
            served = _serve(controller, stream, settings.batch_size)
        finally:
            controller.close()
        trail = read_audit(path)
    return report_on(
        spec.study, controller, members, stream, served, trail.events, window_fitted=fitted
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
    audit: Path,
) -> PrecisionController:
    workload = prepared.workload
    allocations = [prepared.space.uniform(width) for width in members]
    policy = _policy(settings, workload, allocations)
    example = workload.images["calibration"].batch(slice(0, 4))[0]
    engine = Engine(workload.quantized_model(), example)
    levels = prepare_levels(engine, workload.energy, allocations, example)
    log = AuditLog(audit)  # last, so that what is refused leaves no empty file
    try:
        return PrecisionController(
            levels,
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
    thresholds = THRESHOLDS[count] if settings.thresholds is None else settings.thresholds
    check_thresholds(thresholds, count)
    cascade = DynamicAllocation(  # a decision costs as much between two as between any others
        "cascade",
        (allocations[0], allocations[-1]),
        thresholds=thresholds[:1],
        temperatures=(1.0,),
        classes=workload.architecture.classes,
    )
    deciding = decision_cost(workload.energy, cascade) / workload.energy.w8a8
    return ConfidencePolicy(count, thresholds, decision_energy=deciding)


def _serve(controller: PrecisionController, stream: Stream, batch_size: int) -> Served:
    answers, right = [], []
    for x, labels in stream.batches(batch_size):
        answers.append(controller(x, labels))
        right.append((answers[-1].logits.argmax(dim=1) == labels).numpy())
    return Served(
        np.concatenate([answer.level for answer in answers]),
        np.concatenate([answer.floor for answer in answers]),
        np.concatenate([answer.energy for answer in answers]),
        np.concatenate([answer.shadow_energy for answer in answers]),
        np.concatenate(right),
    )
