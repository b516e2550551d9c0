"""Logging a finished study to MLflow: flat runs, one per finalist, and one for the study.

A trial whose strategy logged how its search went has a run, too, with its curves.

The runs of one logging belong together by the tag ``bitfront.study_run``. The experiment's preset
page shows those of the last logging only; it is switched over once they are complete, so that a
study that was run again, or a logging that broke off, never shows half of one and half of another.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from ..spaces import METRICS, Measurement, Usage
from .chosen import named_terciles, wide_share
from .epoch_figures import layers_name
from .epochs import EPOCH
from .figures import write_figures
from .findings import agreement, trace_of, without_trace
from .mlflow_runs import Runs, metric_key, text_of
from .mlflow_store import (
    artifact_root,
    connect,
    reported,
    resolve_uri,
)
from .mlflow_views import (
    LEARNING_TAG,
    RUN_COLOUR_TAG,
    STUDY_RUN_TAG,
    VIEW_TAG,
    learning_view,
    pareto_view,
    view_fragment,
)
from .palette import styles
from .result import Point, StudyResult, TrialRecord
from .trace_figures import NOISY_STEPS, learning_name, widths_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATIONS_FILE = "evaluations.json"
FINDINGS_FILE = "findings.json"
TRACE_FILE = "trace.json"
DYNAMIC_FILE = "dynamic.json"
FIGURE_FOLDER = "figures"
_REFERENCE_COLOUR = "#000000"


@dataclass(frozen=True, slots=True)
class TrackedStudy:
    """Where a study was logged.

    Attributes:
        uri: The tracking URI.
        experiment: The experiment's name.
        experiment_id: Its identifier in the store.
        study_run_id: The run that holds figures, evaluations and the study itself.
    """

    uri: str
    experiment: str
    experiment_id: str
    study_run_id: str

    @property
    def fragment(self) -> str:
        """What follows the server's address to open the preset page."""
        return view_fragment(self.experiment_id)


def log_study(
    result: StudyResult,
    *,
    uri: str | None,
    experiment: str | None,
    folder: Path,
    evaluations: Sequence[Mapping[str, object]] = (),
) -> TrackedStudy:
    """Log a finished study, and make its preset page show this logging.

    Figures are also left in ``<folder>/figures``. Logging a study again adds runs beside the
    earlier ones, which stay in the experiment but leave the preset page.

    Args:
        result: The study.
        uri: Tracking URI; see `resolve_uri` for what None means.
        experiment: Name of the experiment; the study's name if None.
        folder: The study's folder; the default store lies beside it.
        evaluations: One row of plain values per evaluation, the columns those of the first row.

    Raises:
        StudyError: If the store cannot be used.
    """
    figures = write_figures(result, folder / FIGURE_FOLDER)
    resolved = resolve_uri(uri, folder.parent)
    client = connect(resolved, create=True)
    with reported(resolved):
        name = experiment or result.name
        runs = Runs(client, _experiment(client, resolved, name), result.name)
        study_run_id = _log_study_run(runs, result, figures, evaluations)
        _log_references(runs, result, study_run_id)
        _log_trials(runs, result, figures, study_run_id)
        colours = _colours(result)
        for point in result.points:
            _log_finalist(runs, point, colours[point.strategy], study_run_id)
        client.set_experiment_tag(
            runs.experiment_id,
            VIEW_TAG,
            pareto_view(study_run_id, finalists=len(result.points), cost=result.cost.attribute),
        )
    return TrackedStudy(resolved, name, runs.experiment_id, study_run_id)


def _experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the identifier of the experiment, made or brought back if it has to be."""
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=artifact_root(uri)))
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def _log_finalist(runs: Runs, point: Point, colour: str, study_run_id: str) -> None:
    usage = point.test.dynamic
    group = {
        "strategy": point.strategy,
        "budget": point.budget,
        "seed": str(point.seed),
        "pareto": text_of(point.on_front),
        "kind": "static" if usage is None else usage.allocation.kind,
    }
    run_id = runs.log(
        f"{point.strategy} s{point.seed} {_name(point.test)[:6]}",
        role="finalist",
        params={
            **group,
            "strategy_front": point.on_strategy_front,
            **_description(point.test),
        },
        metrics={**_metrics(point.test), "accuracy_search": point.search.accuracy},
        tags={**group, RUN_COLOUR_TAG: colour, STUDY_RUN_TAG: study_run_id},
    )
    runs.client.log_dict(run_id, point.test.allocation.to_dict(), "allocation.json")
    if usage is not None:
        runs.client.log_dict(run_id, point.test.to_dict()["dynamic"], DYNAMIC_FILE)
    runs.finish(run_id)


def _log_trials(
    runs: Runs, result: StudyResult, figures: Sequence[Path], study_run_id: str
) -> None:
    """Log the trials whose strategies logged their searches, and the page that shows them."""
    traced = [(trial, t) for trial in result.trials if (t := trace_of(trial.findings))]
    for trial, trace in traced:
        group = {"strategy": trial.strategy, "budget": trial.budget, "seed": str(trial.seed)}
        budget = f", {trial.budget}" if result.has_several_budgets else ""
        run_id = runs.log(
            f"{trial.strategy} s{trial.seed}{budget}",
            role="trial",
            params=group,
            metrics={
                "steps": len(trace),
                "evaluations": trial.evaluations,
                "images_forward": trial.images_forward,
                "images_backward": trial.images_backward,
                "wall_s": trial.wall_s,
            },
            tags={
                **group,
                RUN_COLOUR_TAG: _colours(result)[trial.strategy],
                STUDY_RUN_TAG: study_run_id,
            },
        )
        runs.log_steps(run_id, trace)
        runs.client.log_text(run_id, json.dumps(trace.to_dict()), TRACE_FILE)
        names = (learning_name, widths_name, layers_name)
        pictures = [name(result, trial) for name in names]
        for path in figures:
            if path.stem in pictures:
                runs.client.log_artifact(run_id, str(path), FIGURE_FOLDER)
        runs.finish(run_id)
    keys = dict.fromkeys(metric_key(trace.step, m) for _, trace in traced for m in trace.metrics)
    view = learning_view(
        study_run_id,
        trials=len(traced),
        metrics=list(keys),
        smooth=any(len(t) >= NOISY_STEPS and t.step != EPOCH for _, t in traced),
    )
    runs.client.set_experiment_tag(runs.experiment_id, LEARNING_TAG, view)


def _log_references(runs: Runs, result: StudyResult, study_run_id: str) -> None:
    for name, measurement in (
        ("float32", result.float_test),
        ("uniform 8 bit", result.uniform_w8a8),
    ):
        run_id = runs.log(
            name,
            role="reference",
            params={"strategy": name, **_description(measurement)},
            metrics=_metrics(measurement),
            tags={RUN_COLOUR_TAG: _REFERENCE_COLOUR, STUDY_RUN_TAG: study_run_id},
        )
        runs.finish(run_id)


def _log_study_run(
    runs: Runs,
    result: StudyResult,
    figures: Sequence[Path],
    evaluations: Sequence[Mapping[str, object]],
) -> str:
    import yaml

    trials = result.trials
    run_id = runs.log(
        f"study {result.name}",
        role="study",
        params={
            "energy_table": result.float_test.energy_table,
            "space_size": _count(result.space_size),
            "workload": result.workload,
            **{f"version.{package}": text for package, text in result.versions.items()},
        },
        metrics={
            "evaluations": sum(trial.evaluations for trial in trials),
            "images_forward": sum(trial.images_forward for trial in trials),
            "images_backward": sum(trial.images_backward for trial in trials),
            "finalists": len(result.points),
            "front_points": len(result.front),
            "trials_failed": len(result.failed_trials),
        },
        tags={"mlflow.note.content": _note(result)},
    )
    log_text = runs.client.log_text
    log_text(run_id, yaml.safe_dump(dict(result.spec), sort_keys=False), "study.yaml")
    log_text(run_id, json.dumps(result.to_dict(), indent=1), "result.json")
    if findings := findings_rows(result.trials):
        log_text(run_id, json.dumps(findings, indent=1), FINDINGS_FILE)
    for path in figures:
        runs.client.log_artifact(run_id, str(path), FIGURE_FOLDER)
    if evaluations:
        table = {name: [row.get(name) for row in evaluations] for name in evaluations[0]}
        runs.client.log_table(run_id, table, EVALUATIONS_FILE)
    runs.finish(run_id)
    return run_id


def findings_rows(trials: Iterable[TrialRecord]) -> list[dict[str, object]]:
    """Return what the strategies reported, a row of plain values for each trial that did.

    What they logged step by step is left out: it is in the run of the trial.
    ``predictions`` has pairs of a predicted value and the loss measured on the search split, and
    ``agreement`` how far they agree; null where nothing can be said.
    """
    rows: list[dict[str, object]] = []
    for trial in trials:
        if told := without_trace(trial.findings):
            found = agreement(trial.predictions)
            rows.append(
                {
                    "strategy": trial.strategy,
                    "seed": trial.seed,
                    "budget": trial.budget,
                    "findings": told,
                    "predictions": [list(pair) for pair in trial.predictions],
                    "agreement": None if found is None else asdict(found),
                }
            )
    return rows


def _colours(result: StudyResult) -> dict[str, str]:
    """Return the colour of every strategy, the same as in the figures."""
    drawn = styles(trial.strategy for trial in result.trials)
    return {strategy: style.colour for strategy, style in drawn.items()}


def _description(measurement: Measurement) -> dict[str, object]:
    return {
        "allocation": measurement.allocation.key,
        "energy_table": measurement.energy_table,
        "split": measurement.split,
        "samples": measurement.samples,
        **({} if measurement.network is None else {"network": measurement.network}),
    }


def _name(measurement: Measurement) -> str:
    """Return what tells a measurement's network from others, as hexadecimal digits.

    Dynamic networks that may come to the same widths have one allocation and differ all the same.
    """
    if (usage := measurement.dynamic) is None:
        return measurement.allocation.key
    return measurement.network or usage.allocation.key


def _metrics(measurement: Measurement) -> dict[str, float]:
    values = {name: getattr(measurement, name) for name in METRICS}
    static = {name: value for name, value in values.items() if value is not None}
    usage = measurement.dynamic
    return static if usage is None else static | _dynamic_metrics(usage)


def _dynamic_metrics(usage: Usage) -> dict[str, float]:
    """Return what is reported of choices, by names that stay."""
    metrics = {
        "energy_std": usage.energy_std,
        "deciding_vs_w8a8": usage.deciding,
        "wide_share": wide_share(usage),
    }
    for name, group in named_terciles(usage).items():
        metrics[f"entropy_{name}.accuracy"] = group.accuracy
        metrics[f"entropy_{name}.energy_vs_w8a8"] = group.energy
        metrics[f"entropy_{name}.wide_share"] = group.wide_share
    for ablation in usage.ablations:
        metrics[f"{ablation.name}_choices.accuracy"] = ablation.accuracy
        metrics[f"{ablation.name}_choices.energy_vs_w8a8"] = ablation.energy
    return metrics


def _count(number: int) -> str:
    """Return a count that may have thousands of digits, exact while it is readable."""
    return str(number) if number < 10**15 else f"{Decimal(number):.3e}"


def _note(result: StudyResult) -> str:
    description = str(result.spec.get("description") or "")
    return "\n\n".join(filter(None, (description, *result.notes)))
