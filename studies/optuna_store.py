"""The trials of a finished study as Optuna studies, in one file that Optuna's dashboard opens.

A journal file, because it is written many times as fast as Optuna's SQLite tables, and the
dashboard opens either by its path.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..searchers import Budget
from ..searchers.optuna_studies import quiet_optuna
from ..spaces import METRICS, OBJECTIVES, BitAllocation, Measurement, Objective, StudyError
from .ledger import Ledger, TrialRow
from .record import LEDGER_FILE
from .result import StudyResult
from .trials import budget_label

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

OPTUNA_FILE = "optuna.journal"

Distributions = Mapping[str, "BaseDistribution"]


def write_optuna(folder: Path) -> tuple[Path, int]:
    """Write every trial of a finished study, of whatever strategy, as an Optuna study.

    An Optuna study has the name of its trial: strategy, budget and seed. Its trials are what the
    strategy asked for, in order, as measured on the search split: a parameter per operand, its
    width, or the mean over its channels; the study's objectives; the budget's limits as
    constraints, by what share of the limit they are exceeded; and all that was measured as user
    attributes. A measurement that failed is a failed trial, one of a part of the images a pruned
    trial.

    Args:
        folder: The study's folder.

    Returns:
        The file's path, which is written whole or not at all, and how many Optuna studies it has.

    Raises:
        StudyError: If the study has no result, or its ledger cannot be used or is of another run.
    """
    result = StudyResult.load(folder)
    histories = _histories(folder)
    _require_one_run(folder, result, histories)
    objectives = [OBJECTIVES[name] for name in result.spec["objectives"]]
    widths = _distributions([m.allocation for _, asked in histories for m in asked])
    limits = _limits(result)
    finalists = {(p.strategy, p.budget, p.seed, *_found(p.search)) for p in result.points}
    path = folder / OPTUNA_FILE
    with _replacing(path) as partial, quiet_optuna():
        import optuna
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(str(partial)))
        for trial, history in histories:
            study = optuna.create_study(
                storage=storage,
                study_name=trial.id,
                directions=["maximize" if o.maximize else "minimize" for o in objectives],
            )
            study.set_metric_names([o.name for o in objectives])
            for name, value in _facts(result, trial).items():
                study.set_user_attr(name, value)
            place = (trial.strategy, trial.budget, trial.seed)
            for measurement in history:
                attributes = {"finalist": (*place, *_found(measurement)) in finalists}
                study.add_trial(
                    _frozen(measurement, objectives, widths, limits[trial.budget], attributes)
                )
    return path, len(histories)


def _histories(folder: Path) -> list[tuple[TrialRow, list[Measurement]]]:
    """Return what every trial of a study was answered, in order."""
    path = folder / LEDGER_FILE
    if not path.is_file():
        raise StudyError(f"the study's ledger {path} is missing: run the study again")
    ledger = Ledger(path)
    try:
        return [(trial, ledger.history(trial.id)) for trial in ledger.trials()]
    finally:
        ledger.close()


def _require_one_run(
    folder: Path, result: StudyResult, histories: Sequence[tuple[TrialRow, list[Measurement]]]
) -> None:
    """Check that the ledger holds what the result is of; a run that was stopped leaves less."""
    asked = {(t.strategy, t.budget, t.seed): len(history) for t, history in histories}
    reported = {(t.strategy, t.budget, t.seed): t.evaluations for t in result.trials}
    if asked != reported:
        raise StudyError(
            f"the ledger in {folder} is of a later run that did not end, and not of the result "
            f"there: run the study to its end"
        )


def _limits(result: StudyResult) -> dict[str, dict[str, float]]:
    """Return the limits of every budget by its label, those that a measurement can be held to."""
    strategies = result.spec.get("strategies") or ()
    own = [given for strategy in strategies for given in strategy.get("budgets") or ()]
    budgets = [
        Budget(given["evaluations"], given.get("limits") or {})
        for given in (*result.spec["budgets"], *own)
    ]
    return {
        budget_label(budget): {n: v for n, v in budget.limits.items() if n in OBJECTIVES}
        for budget in budgets
    }


def _facts(result: StudyResult, trial: TrialRow) -> dict[str, Any]:
    facts = {
        "study": result.name,
        "strategy": trial.strategy,
        "budget": trial.budget,
        "seed": trial.seed,
        "wall_s": trial.wall_s,
        "workload": result.workload,
    }
    return facts if trial.error is None else {**facts, "error": trial.error}


def _operands(allocation: BitAllocation) -> dict[str, int | float]:
    """Return the width of each operand by its name; the mean of its channels' where they differ."""
    found: dict[str, int | float] = {}
    layers = zip(allocation.layers, allocation.weights, allocation.activations, strict=True)
    for layer, weight, activation in layers:
        for operand, bits in (("weight", weight), ("activation", activation)):
            found[f"{layer}.{operand}"] = bits if isinstance(bits, int) else float(np.mean(bits))
    return found


def _distributions(allocations: Sequence[BitAllocation]) -> Distributions:
    """Return the range of every operand over all trials, so that they can be compared."""
    from optuna.distributions import FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    rows = [_operands(allocation) for allocation in dict.fromkeys(allocations)]
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        low, high = min(values), max(values)
        if all(isinstance(value, int) for value in values):
            found[name] = IntDistribution(int(low), int(high))
        else:
            found[name] = FloatDistribution(low, high)
    return found


def _found(measurement: Measurement) -> tuple[str, str | None]:
    """Return what tells a finalist from others: its allocation, and its trained network."""
    return measurement.allocation.key, measurement.network


def _frozen(
    measurement: Measurement,
    objectives: Sequence[Objective],
    distributions: Distributions,
    limits: Mapping[str, float],
    attributes: Mapping[str, Any],
) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    values = [objective.of(measurement) for objective in objectives]
    excess = {
        name: OBJECTIVES[name].of(measurement) / limit - 1.0 for name, limit in limits.items()
    }
    state = TrialState.COMPLETE
    if measurement.failed or not all(map(math.isfinite, [*values, *excess.values()])):
        state = TrialState.FAIL
    elif measurement.fidelity < 1.0:
        state = TrialState.PRUNED
    known = {name: getattr(measurement, name) for name in (*METRICS, "samples", "fidelity")}
    known |= {"allocation": measurement.allocation.key, "error": measurement.error}
    return create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=_operands(measurement.allocation),
        distributions=dict(distributions),
        constraints=excess if state == TrialState.COMPLETE else None,
        user_attrs={**{n: v for n, v in known.items() if _has_value(v)}, **attributes},
    )


def _has_value(value: Any) -> bool:
    """Return whether there is something that JSON can say."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside a path, which takes its place when all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
