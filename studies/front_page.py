"""The interactive Pareto figure: one HTML page that needs no network."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ..spaces import Measurement
from .curves import ACCURACY_AXIS, COST_AXES, INK, Curve, accuracy_range, curves, left_out
from .page import page_html
from .palette import UNIFORM
from .result import Point, StudyResult


def front_html(result: StudyResult) -> str:
    """Return the interactive fronts as one HTML page that needs no network.

    Buttons choose between all strategies and one of them beside the uniform curve.
    """
    import plotly.graph_objects as go

    drawn = curves(result)
    figure = go.Figure()
    for curve in drawn:
        figure.add_traces([_line(curve), _markers(curve)])
    figure.add_trace(_common_front(result))
    lowest, highest = accuracy_range(result, drawn)
    if note := left_out(drawn, lowest):
        figure.add_annotation(
            text=f"{note}: double-click to see them",
            x=0.01,
            y=0.01,
            xref="paper",
            yref="paper",
            showarrow=False,
            bgcolor="white",
        )
    float_accuracy = 100 * result.float_test.accuracy
    figure.add_hline(
        float_accuracy,
        line={"color": INK, "width": 1, "dash": "dot"},
        annotation_text=f"float32 {float_accuracy:.1f} %",
        annotation_position="top left",
    )
    figure.update_layout(
        template="plotly_white",
        title=f"{escape(result.name)}  ·  energy table {escape(result.float_test.energy_table)}",
        xaxis={"title": COST_AXES[result.cost.name]},
        yaxis={"title": ACCURACY_AXIS, "range": [lowest, highest]},
        font={"size": 14, "color": INK},
        legend={"itemsizing": "trace"},
        updatemenus=[_menu([curve.strategy for curve in drawn])],
        margin={"t": 110},
    )
    return page_html(result.name, figure)


def _line(curve: Curve) -> Any:
    import plotly.graph_objects as go

    dash = "dash" if curve.is_reference else "solid"
    return go.Scatter(
        x=curve.cost,
        y=curve.best,
        mode="lines",
        line={"color": curve.style.colour, "width": 2, "shape": "hv", "dash": dash},
        hoverinfo="skip",
        legendgroup=escape(curve.strategy),
        showlegend=False,
    )


def _markers(curve: Curve) -> Any:
    import plotly.graph_objects as go

    hover = [
        f"{escape(p.strategy)}, seed {p.seed}, {escape(p.budget)}<br>"
        f"{100 * p.test.accuracy:.2f} ± {100 * p.test.accuracy_se:.2f} % "
        f"(search {100 * p.search.accuracy:.2f} %)<br>"
        f"{p.test.energy_vs_w8a8:.3f} of uniform 8 bit{_microjoules(p)}<br>"
        f"{p.test.size_bytes:,} bytes, weights {p.test.mean_weight_bits:.2f} bits, "
        f"activations {p.test.mean_activation_bits:.2f} bits<br>"
        f"{_identity(p.test)}"
        for p in curve.points
    ]
    return go.Scatter(
        x=curve.cost,
        y=curve.accuracy,
        error_y={"type": "data", "array": curve.error, "thickness": 1, "width": 3},
        mode="markers",
        marker={"color": curve.style.colour, "symbol": curve.style.symbol, "size": 10},
        hovertext=hover,
        hoverinfo="text",
        name=escape(curve.strategy),
        legendgroup=escape(curve.strategy),
    )


def _common_front(result: StudyResult) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[result.cost.of(point.test) for point in result.front],
        y=[100 * point.test.accuracy for point in result.front],
        mode="markers",
        marker={"symbol": "circle-open", "size": 19, "color": INK, "line": {"width": 1.4}},
        hoverinfo="skip",
        name="on the common front",
    )


def _identity(measurement: Measurement) -> str:
    """Return what was measured, by the beginning of its name."""
    if (usage := measurement.dynamic) is None:
        return f"allocation {measurement.allocation.key[:8]}"
    named = measurement.network or usage.allocation.key
    return f"chosen by input ({usage.allocation.kind}), network {named[:8]}"


def _microjoules(point: Point) -> str:
    energy_pj = point.test.energy_pj
    return "" if energy_pj is None else f", {energy_pj * 1e-6:.4g} µJ"


def _menu(strategies: Sequence[str]) -> dict[str, Any]:
    """Return the buttons; every strategy has two traces, and the common front is the last."""
    visible: dict[str, list[bool]] = {"all strategies": [True] * (2 * len(strategies) + 1)}
    for chosen in strategies:
        shown = [name in (chosen, UNIFORM) for name in strategies for _ in range(2)]
        visible[chosen] = [*shown, False]
    return {
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "buttons": [
            {"label": escape(label), "method": "restyle", "args": [{"visible": flags}]}
            for label, flags in visible.items()
        ],
    }
