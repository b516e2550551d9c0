"""The figure of predictions: what strategies expected, against the loss that was measured."""

from html import escape

from .curves import INK
from .findings import Pair, agreement
from .page import page_html
from .palette import styles
from .result import StudyResult, TrialRecord

_COLUMNS = 3
_ROW_HEIGHT_PX = 420
_BETWEEN_ROWS_PX = 150
_SMALL = {"size": 12}
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
    rows = -(-len(groups) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes="all",
        vertical_spacing=_BETWEEN_ROWS_PX / (rows * _ROW_HEIGHT_PX),
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
        axis = {"text": _predicted_axis(trials), "font": _SMALL}
        figure.update_xaxes(title=axis, nticks=3, tickangle=0, tickfont=_SMALL, **cell)
        if cell["col"] == 1:
            figure.update_yaxes(title={"text": _MEASURED_AXIS, "font": _SMALL}, **cell)
    figure.update_annotations(font=_SMALL)
    figure.update_layout(
        template="plotly_white",
        title=f"{escape(result.name)}  ·  predicted against measured",
        font={"size": 14, "color": INK},
        margin={"t": 150},
        height=None if rows == 1 else rows * _ROW_HEIGHT_PX + _BETWEEN_ROWS_PX,
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
    """Return the lines above a panel; short ones, for panels are narrow in MLflow's pages."""
    pairs = _pairs(trials)
    found = agreement(pairs)
    said = [] if found is None else str(found).split(", ")
    lines = (escape(label), *said, f"{len(pairs)} allocation{'s' * (len(pairs) > 1)}")
    return "<br>".join(lines)


def _predicted_axis(trials: list[TrialRecord]) -> str:
    names = dict.fromkeys(str(trial.findings.get("predicts", "unnamed")) for trial in trials)
    return escape(f"Predicted {', '.join(names)}")
