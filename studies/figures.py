"""The pictures of a study: Pareto fronts to print, and the widths of the finalists."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..spaces import Operand
from .canvas import DPI, GRID_COLOUR, MOST_NAMES, draw_grid, file_name, new_figure, plain_text
from .choices_figure import choices_figures
from .chosen import mean_widths
from .curves import ACCURACY_AXIS, COST_AXES, INK, Curve, accuracy_range, curves, left_out
from .epoch_figures import epoch_figures
from .front_page import front_html
from .prediction_page import prediction_html
from .result import StudyResult
from .trace_figures import trace_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANNOTATED_CELLS = 400


def write_figures(result: StudyResult, folder: Path) -> list[Path]:
    """Write every picture of a study into a folder, and return their paths.

    ``fronts.html`` is interactive, needs no network and holds the common front and that of every
    strategy; ``front.png`` and one ``front-<strategy>.png`` each show the same; ``bits.png`` the
    widths of the common front's members. ``predicted.html`` is there if a strategy predicts what
    it measures; the pictures of `trace_figures` if it logs how its search goes, those of
    `epoch_figures` if it trains, and those of `choices_figures` if its networks choose widths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "fronts.html"
    page.write_text(front_html(result), encoding="utf-8")
    paths = [page]
    if (predicted := prediction_html(result)) is not None:
        paths.append(folder / "predicted.html")
        paths[-1].write_text(predicted, encoding="utf-8")
    pictures = {"front": front_figure(result)}
    if result.front:
        pictures["bits"] = bits_figure(result)
    for curve in curves(result):
        pictures[f"front-{file_name(curve.strategy)}"] = front_figure(result, curve.strategy)
    pictures |= trace_figures(result) | epoch_figures(result) | choices_figures(result)
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def front_figure(result: StudyResult, strategy: str | None = None) -> "Figure":
    """Draw accuracy against the study's cost, mostly energy, with matplotlib.

    Args:
        result: The study.
        strategy: Draw this strategy and the uniform curve only; None draws all of them, and marks
            the members of the common front.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    _draw_references(axes, result)
    drawn = [c for c in curves(result) if strategy in (None, c.strategy) or c.is_reference]
    shown = [_draw_curve(axes, curve) for curve in drawn]
    if strategy is None and result.front:
        shown += axes.plot(
            [result.cost.of(point.test) for point in result.front],
            [100 * point.test.accuracy for point in result.front],
            "o",
            markersize=15,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.2,
            label="on the common front",
        )
    title = result.name if strategy is None else f"{result.name}: {strategy}"
    axes.set_title(
        f"{plain_text(title)}  ·  energy table {plain_text(result.float_test.energy_table)}",
        color=INK,
        pad=12,
    )
    axes.set_xlabel(COST_AXES[result.cost.name])
    axes.set_ylabel(ACCURACY_AXIS)
    axes.set_ylim(accuracy_range(result, drawn))
    axes.annotate(
        left_out(drawn, axes.get_ylim()[0]), (0.01, 0.015), xycoords="axes fraction", fontsize=9
    )
    draw_grid(axes)
    axes.legend(handles=shown, loc="lower right", framealpha=0.95, edgecolor=GRID_COLOUR)
    if result.cost.name == "energy":
        _add_absolute_axis(axes, result)
    return figure


def bits_figure(result: StudyResult) -> "Figure":
    """Draw the widths of the common front's members: a row each, a column per layer.

    Widths that differ between channels are shown by their mean, and what was chosen for inputs by
    the mean of what was used.
    """
    front = result.front
    figure = new_figure()
    panels: Any = figure.subplots(1, 2, sharey=True)
    operands: dict[Operand, str] = {"weight": "Weights", "activation": "Activations"}
    for axes, (operand, title) in zip(panels, operands.items(), strict=True):
        widths = [mean_widths(point.test, operand) for point in front]
        image = _draw_widths(axes, np.array(widths))
        axes.set_title(title, fontsize=11, color=INK)
        _name_layers(axes, front[0].test.allocation.layers)
    rows = [
        f"{plain_text(p.strategy)}  {100 * p.test.accuracy:.1f} %  at {result.cost.of(p.test):.3g}"
        for p in front
    ]
    panels[0].set_yticks(np.arange(len(front)) + 0.5, rows, fontsize=8)
    panels[0].invert_yaxis()  # the cheapest on top; the second panel shares the axis
    figure.suptitle(f"{plain_text(result.name)}  ·  bits by layer on the common front", color=INK)
    panels[0].set_ylabel(f"strategy, accuracy, {_uncapitalized(COST_AXES[result.cost.name])}")
    figure.colorbar(image, ax=panels, label="bits", ticks=range(2, 9), shrink=0.7)
    return figure


def _draw_curve(axes: "Axes", curve: Curve) -> Any:
    """Draw points, error bars and front of one strategy; return what the legend names."""
    colour = curve.style.colour
    linestyle = "dashed" if curve.is_reference else "solid"
    axes.step(
        curve.cost, curve.best, where="post", color=colour, linestyle=linestyle, linewidth=1.8
    )
    return axes.errorbar(
        curve.cost,
        curve.accuracy,
        yerr=curve.error,
        fmt=curve.style.marker,
        color=colour,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.6,
        ecolor=(colour, 0.45),
        elinewidth=1.2,
        zorder=3,
        label=plain_text(curve.strategy),
    )


def _draw_references(axes: "Axes", result: StudyResult) -> None:
    accuracy = 100 * result.float_test.accuracy
    axes.axhline(accuracy, color=INK, linewidth=1, linestyle="dotted")
    axes.annotate(
        f"float32 {accuracy:.1f} %",
        (0.01, accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color=INK,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _add_absolute_axis(axes: "Axes", result: StudyResult) -> None:
    """Add energies in microjoules at the top, where the table has an absolute scale."""
    w8a8_pj = result.uniform_w8a8.energy_pj
    if w8a8_pj is None:
        return
    scale = w8a8_pj * 1e-6

    def to_uj(relative: Any) -> Any:
        return relative * scale

    def from_uj(energy_uj: Any) -> Any:
        return energy_uj / scale

    top = axes.secondary_xaxis("top", functions=(to_uj, from_uj))
    top.set_xlabel("µJ per inference", fontsize=9)
    top.tick_params(labelsize=8)


def _draw_widths(axes: "Axes", widths: npt.NDArray[np.float64]) -> Any:
    readable = widths.size <= _ANNOTATED_CELLS
    image = axes.pcolormesh(
        widths,
        cmap="cividis",
        vmin=2,
        vmax=8,
        edgecolors="white",
        linewidth=1 if readable else 0.2,
    )
    if readable:
        for (row, column), width in np.ndenumerate(widths):
            colour = "white" if width < 5.5 else INK
            axes.text(
                column + 0.5, row + 0.5, f"{width:.3g}", ha="center", va="center", color=colour
            )
    return image


def _name_layers(axes: "Axes", names: Sequence[str]) -> None:
    step = max(1, -(-len(names) // MOST_NAMES))
    shown = range(0, len(names), step)
    axes.set_xticks(
        [i + 0.5 for i in shown], [plain_text(names[i]) for i in shown], rotation=90, fontsize=8
    )


def _uncapitalized(text: str) -> str:
    return text[0].lower() + text[1:]
