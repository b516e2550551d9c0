"""The figure of predictions: what strategies expected, against the loss that was measured."""

from html import escape

from .curves import INK
from .findings import Pair, agreement
from .page import page_html
from .palette import styles
from .result import StudyResult, TrialRecord

_COLUMNS = 3
_MEASURED_AXIS = "Measured loss on the search split (nats)"


def prediction_html(result: StudyResult) -> str | None:
    """Return predicted values against measured losses as an HTML page that needs no network.

    Every strategy that predicts has a panel of its own, for predictions differ in their units,
    with the points of all its seeds and budgets.

    Returns:
        The page; None if no strategy predicted what it measured.
    """
    groups = _predicting(result)
    if not groups:
        return None
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = min(_COLUMNS, len(groups))
    figure = make_subplots(
        rows=-(-len(groups) // columns),
        cols=columns,
        shared_yaxes="all",
        subplot_titles=[_title(label, trials) for label, trials in groups.items()],
    )
    by_strategy = styles(trial.strategy for trial in result.trials)
    for index, (label, trials) in enumerate(groups.items()):
        style = by_strategy[label]
        pairs = _pairs(trials)
        cell = {"row": index // columns + 1, "col": index % columns + 1}
        markers = go.Scatter(
            x=[predicted for predicted, _ in pairs],
            y=[measured for _, measured in pairs],
            mode="markers",
            marker={"color": style.colour, "symbol": style.symbol, "size": 9},
            hovertemplate="predicted %{x:.4g}<br>measured %{y:.4g} nats<extra></extra>",
            name=escape(label),
            showlegend=False,
        )
        figure.add_trace(markers, **cell)
        figure.update_xaxes(title=_predicted_axis(trials), **cell)
        if cell["col"] == 1:
            figure.update_yaxes(title=_MEASURED_AXIS, **cell)
    figure.update_layout(
        template="plotly_white",
        title=f"{escape(result.name)}  ·  predicted against measured",
        font={"size": 14, "color": INK},
        margin={"t": 110},
    )
    return page_html(f"{result.name}: predicted against measured", figure)


def _predicting(result: StudyResult) -> dict[str, list[TrialRecord]]:
    """Return the trials that predicted something, by strategy, in the study's order."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in result.trials:
        if trial.predictions:
            groups.setdefault(trial.strategy, []).append(trial)
    return groups


def _pairs(trials: list[TrialRecord]) -> list[Pair]:
    """Return what trials predicted and measured, equal pairs of several trials once."""
    return list(dict.fromkeys(pair for trial in trials for pair in trial.predictions))


def _title(label: str, trials: list[TrialRecord]) -> str:
    pairs = _pairs(trials)
    found = agreement(pairs)
    said = f"{len(pairs)} allocation{'s' * (len(pairs) > 1)}"
    return f"{escape(label)}<br>{said}{'' if found is None else f', {found}'}"


def _predicted_axis(trials: list[TrialRecord]) -> str:
    names = dict.fromkeys(str(trial.findings.get("predicts", "unnamed")) for trial in trials)
    return escape(f"Predicted ({', '.join(names)})")
