"""The pages of MLflow's UI that open on a study's Pareto front and on how its searches went.

MLflow keeps a shared view of an experiment's runs in an experiment tag,
``mlflow.sharedViewState.<key>``, and shows it when the page is opened with that key. The tag holds
the state of the page as JSON; unknown fields are ignored, so that a version that knows fewer of
them still shows the charts it does know.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from .trace_figures import BEST

VIEW_KEY, LEARNING_KEY = "pareto", "learning"
"""Names of the preset views: the part of the tag's key and of the page's address."""

VIEW_TAG, LEARNING_TAG = (f"mlflow.sharedViewState.{key}" for key in (VIEW_KEY, LEARNING_KEY))

RUN_COLOUR_TAG = "mlflow.runColor"
ROLE_TAG = "bitfront.role"
"""What a run stands for: ``finalist``, ``trial``, ``reference`` or ``study``."""

STUDY_RUN_TAG = "bitfront.study_run"
"""The identifier of the study run that a finalist, trial or reference belongs to."""

_SECTION = "fronts"
_SCATTERS = {"energy_vs_w8a8": "accuracy-energy", "size_bytes": "accuracy-size"}
"""The costs every page shows accuracy against, and what their charts are called."""

_CARD_HEIGHT_PX = 420
_SMOOTHNESS = 80
"""How much noise MLflow takes out of curves, of 100; it draws what it was given, too, in pale."""

_MOST_CURVES = 12
"""More charts than these would make the page longer than a tag may be."""

_ALWAYS_SHOWN = ("accuracy", "energy", "kl", "mean_weight_bits", "mean_activation_bits")
"""Metrics that are shown even where there are more than those."""

_COLUMNS = (
    "params.`strategy`",
    "params.`seed`",
    "params.`budget`",
    "params.`pareto`",
    "metrics.`accuracy`",
    "metrics.`accuracy_se`",
    "metrics.`energy_vs_w8a8`",
    "metrics.`size_bytes`",
)


def view_fragment(experiment_id: str, key: str = VIEW_KEY) -> str:
    """Return the part of a page's address that follows the server's.

    Examples:
        >>> view_fragment("1")
        '#/experiments/1/runs?viewStateShareKey=pareto&compareRunsMode=CHART'
    """
    return (
        f"#/experiments/{quote(experiment_id, safe='')}/runs"
        f"?viewStateShareKey={key}&compareRunsMode=CHART"
    )


def finalists_filter(study_run_id: str) -> str:
    """Return the search expression for the finalists of one run of a study."""
    return _filter("finalist", study_run_id)


def pareto_view(study_run_id: str, *, finalists: int, cost: str = "energy_vs_w8a8") -> str:
    """Return the preset page as the JSON that MLflow expects in `VIEW_TAG`.

    The page opens on the scatter of accuracy against the study's cost, followed by accuracy against
    energy and size and by parallel coordinates, and shows the finalists of one run of the study
    only.

    Args:
        study_run_id: The run whose finalists are shown.
        finalists: How many there are; a chart shows only as many runs as it is told to.
        cost: The metric that the study trades accuracy for.
    """
    cards = [
        *(
            _scatter(_SCATTERS.get(metric, "accuracy-cost"), metric, finalists)
            for metric in dict.fromkeys((cost, *_SCATTERS))
        ),
        _card(
            "parallel",
            "PARALLEL",
            finalists,
            selectedParams=["strategy"],
            selectedMetrics=[
                "mean_weight_bits",
                "mean_activation_bits",
                "energy_vs_w8a8",
                "accuracy",
            ],
            showAllRuns=True,
        ),
    ]
    view = {
        "searchFilter": finalists_filter(study_run_id),
        "orderByKey": f"metrics.`{cost}`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": list(dict.fromkeys((*_COLUMNS, f"metrics.`{cost}`"))),
        "compareRunCharts": cards,
        "compareRunSections": [
            _section(_SECTION, "Pareto fronts", columns=1, cardHeight=_CARD_HEIGHT_PX),
            # MLflow adds a bar chart per metric to a section of this name; keep it folded.
            _section("metrics", "Model metrics", display=False),
        ],
        "isAccordionReordered": True,
    }
    return json.dumps(view, separators=(",", ":"))


def learning_view(
    study_run_id: str, *, trials: int, metrics: Sequence[str], smooth: bool = False
) -> str:
    """Return the page with the curves of all trials that logged how their search went.

    Args:
        study_run_id: The run whose trials are shown.
        trials: How many there are.
        metrics: What to show over the steps, a chart each; of more than twelve, the first, and
            in any case those of `_ALWAYS_SHOWN`.
        smooth: Whether to take the noise out of the curves, but for those of a best so far.
    """
    view = {
        "searchFilter": _filter("trial", study_run_id),
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": ["params.`strategy`", "params.`seed`", "params.`budget`"],
        "compareRunCharts": [
            _card(
                metric,
                "LINE",
                trials,
                metricKey=metric,
                selectedMetricKeys=[metric],
                xAxisKey="step",
                lineSmoothness=_SMOOTHNESS if smooth and f".{BEST}" not in metric else 0,
                useGlobalLineSmoothing=False,
            )
            for metric in _shown(metrics)
        ],
        "compareRunSections": [
            _section(_SECTION, "How the searches went", columns=2, cardHeight=_CARD_HEIGHT_PX),
            _section("metrics", "Model metrics", display=False),
        ],
        "isAccordionReordered": True,
    }
    return json.dumps(view, separators=(",", ":"))


def _shown(metrics: Sequence[str]) -> list[str]:
    """Return the metrics that have a chart, in their order."""
    first = sorted(metrics, key=lambda metric: metric.partition(".")[2] not in _ALWAYS_SHOWN)
    return [metric for metric in metrics if metric in first[:_MOST_CURVES]]


def _filter(role: str, study_run_id: str) -> str:
    return f"tags.`{ROLE_TAG}` = '{role}' AND tags.`{STUDY_RUN_TAG}` = '{study_run_id}'"


def _section(uuid: str, name: str, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        **fields,
    }


def _scatter(uuid: str, metric: str, runs: int) -> dict[str, Any]:
    return _card(
        uuid,
        "SCATTER",
        runs,
        xaxis={"key": metric, "type": "METRIC"},
        yaxis={"key": "accuracy", "type": "METRIC"},
    )


def _card(uuid: str, kind: str, runs: int, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "runsCountToCompare": max(runs, 100),
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
        **fields,
    }
