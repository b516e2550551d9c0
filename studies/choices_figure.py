"""Dynamic networks to print: shares of widths by layer, and what simple and complex inputs got."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import Operand, Usage
from .canvas import MOST_NAMES, draw_grid, file_name, new_figure, plain_text
from .chosen import computed_shares, named_terciles
from .curves import INK
from .palette import styles
from .result import Point, StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_OPERANDS: dict[Operand, str] = {
    "activation": "Inputs of layers",
    "weight": "Weights, and right operands of products",
}
_SCALE = (2, 8)
"""Widths between which colours tell apart, as in the other maps of widths."""

_DARK_BELOW = 5.5
"""Widths on whose colour white is read better than black."""

_MOST_WRITTEN, _LEAST_WRITTEN = 30, 8
"""Most layers, and smallest shares in percent, that have room for their width."""

_CAPTION_POINTS = 9
_PAD_INCHES = 0.1
_LEFT, _RIGHT = 2.2, 1.0
"""How wide the two sides are."""


def choices_figures(result: StudyResult) -> dict[str, "Figure"]:
    """Draw what dynamic networks chose.

    Returns:
        One figure for each strategy that found any, by name: of the finalist in the middle of its
        front.
    """
    figures: dict[str, Figure] = {}
    for strategy, style in styles(point.strategy for point in result.points).items():
        own = [point for point in result.points if point.strategy == strategy]
        if front := dynamic_front(result, own):
            figures[f"choices-{file_name(strategy)}"] = choices_figure(
                result, front, len(front) // 2, style.colour
            )
    return figures


def dynamic_front(result: StudyResult, points: Sequence[Point]) -> list[Point]:
    """Return the dynamic ones on their strategy's front, cheapest first; each network once."""
    distinct = {
        (point.test.dynamic.allocation.key, point.test.network): point
        for point in reversed(points)  # of equal ones the first stays
        if point.on_strategy_front and point.test.dynamic is not None and not point.test.failed
    }
    return sorted(distinct.values(), key=lambda point: result.cost.of(point.test))


def choices_figure(
    result: StudyResult, front: Sequence[Point], number: int, colour: str
) -> "Figure":
    """Draw one finalist: shares of widths by layer, and accuracy and energy by input entropy.

    Operands with one width everywhere are left out.

    Args:
        result: The study.
        front: Dynamic finalists of one strategy, cheapest first.
        number: Which of them.
        colour: The strategy's.
    """
    point = front[number]
    usage = point.test.dynamic
    assert usage is not None
    figure = new_figure()
    figure.get_layout_engine().set(w_pad=_PAD_INCHES)  # type: ignore[union-attr,call-arg]
    sides: Any = figure.subfigures(1, 2, width_ratios=[_LEFT, _RIGHT])
    left, right = sides
    _draw_shares(left, usage)
    _draw_groups(right, point, usage, colour)
    figure.suptitle(
        plain_text(
            f"{result.name}: {point.strategy}, seed {point.seed}, number {number + 1} of "
            f"{len(front)} dynamic ones on its front, cheapest first\n"
            f"{100 * point.test.accuracy:.2f} % at {point.test.energy_vs_w8a8:.3f} of uniform 8 "
            f"bit  ·  energy table {point.test.energy_table}"
        ),
        color=INK,
    )
    return figure


def _draw_shares(figure: "SubFigure", usage: Usage) -> None:
    """Draw a bar for each layer, from the widest width at the bottom to the narrowest."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    by_operand = {operand: computed_shares(usage, operand) for operand in _OPERANDS}
    shown = {
        operand: shares
        for operand, shares in by_operand.items()
        if len({width for mine in shares for width in mine}) > 1
    }
    widths = sorted({w for shares in shown.values() for mine in shares for w in mine}, reverse=True)
    low, high = _SCALE
    scale = colormaps["cividis"]
    colours = {width: scale((min(width, high) - low) / (high - low)) for width in widths}
    panels: Any = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
    names = usage.allocation.layers
    for axes, (operand, shares) in zip(panels[:, 0], shown.items(), strict=True):
        _draw_bars(axes, shares, colours)
        axes.set_title(_OPERANDS[operand], fontsize=10, color=INK)
        axes.set_ylabel("share of what is computed (%)", fontsize=_CAPTION_POINTS)
    step = max(1, -(-len(names) // MOST_NAMES))
    axes.set_xticks(
        range(0, len(names), step), map(plain_text, names[::step]), rotation=90, fontsize=8
    )
    axes.set_xlabel("layers, from input to output", fontsize=_CAPTION_POINTS)
    figure.legend(
        handles=[
            Patch(facecolor=colours[w], edgecolor=INK, linewidth=0.4, label=f"{w} bit")
            for w in widths
        ],
        loc="outside upper center",
        ncols=8,
        fontsize=_CAPTION_POINTS,
        frameon=False,
    )


def _draw_bars(
    axes: "Axes", shares: Sequence[Mapping[int, float]], colours: Mapping[int, Any]
) -> None:
    """Draw stacked bars, with the width in every part that has room for it."""
    bottom = np.zeros(len(shares))
    for width, colour in colours.items():
        heights = np.array([100 * mine.get(width, 0.0) for mine in shares])
        bars = axes.bar(
            range(len(shares)),
            heights,
            bottom=bottom,
            color=colour,
            edgecolor="white",
            linewidth=0.4,
            width=0.9,
        )
        if len(shares) <= _MOST_WRITTEN:
            written = [str(width) if height >= _LEAST_WRITTEN else "" for height in heights]
            ink = "white" if width < _DARK_BELOW else INK
            axes.bar_label(bars, written, label_type="center", color=ink, fontsize=8)
        bottom += heights
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    draw_grid(axes)


def _draw_groups(figure: "SubFigure", point: Point, usage: Usage, colour: str) -> None:
    """Draw accuracy with its standard errors, and mean energy, by third of the inputs."""
    groups = named_terciles(usage)
    accuracy: Axes
    accuracy, energy = figure.subplots(2, 1, sharex=True)
    shares = np.array([group.accuracy for group in groups.values()])
    counts = np.array([group.inputs for group in groups.values()])
    errors = np.sqrt(shares * (1 - shares) / counts)
    places = range(len(groups))
    accuracy.errorbar(
        places, 100 * shares, 100 * errors, fmt="o", color=colour, capsize=4, markersize=7
    )
    accuracy.set_ylabel("top-1 accuracy (%), ± standard error", fontsize=_CAPTION_POINTS)
    energy.bar(places, [group.energy for group in groups.values()], color=colour, width=0.6)
    energy.set_ylabel("energy, relative to uniform 8 bit", fontsize=_CAPTION_POINTS)
    for axes, mean in ((accuracy, 100 * point.test.accuracy), (energy, point.test.energy_vs_w8a8)):
        axes.axhline(mean, color=INK, linewidth=1, linestyle="dashed", label="all images")
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.tick_params(labelsize=8)
        draw_grid(axes)
    labels = [f"{name}\n{group.entropy:.2f} bits" for name, group in groups.items()]
    energy.set_xticks(places, labels)
    energy.set_xlabel("images, a third each by entropy", fontsize=_CAPTION_POINTS)
    figure.legend(
        handles=accuracy.get_legend_handles_labels()[0][-1:],
        loc="outside upper center",
        fontsize=_CAPTION_POINTS,
        frameon=False,
    )
