"""Accuracy by epoch of all that trained in a study, to print: Figure 1 of EQAT for any strategy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..searchers.trace import Trace
from .canvas import HEIGHT_PIXELS, draw_grid, new_figure, plain_text
from .curves import INK
from .epochs import EPOCH, Floats, set_epochs, trainings, write_at_ends
from .palette import Style, styles
from .result import StudyResult, TrialRecord
from .trace_figures import shades_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_PANEL_PIXELS = 700
_MARKS = 8

_START_SHARE = 0.2
"""Share of the epochs, at the beginning, whose accuracies may lie below the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyCurve:
    """The accuracy of one training of a strategy, over its seeds.

    Attributes:
        strategy: Its label.
        number: Which of the trainings of its trials.
        epochs: Where there are accuracies.
        mean: Means over the seeds, in percent.
        low: Lowest of the seeds.
        high: Highest of the seeds.
        seeds: How many there are.
        energy: Mean energy of what is deployed, relative to uniform 8 bit; NaN if unknown.
    """

    strategy: str
    number: int
    epochs: npt.NDArray[np.int64]
    mean: Floats
    low: Floats
    high: Floats
    seeds: int
    energy: float


def accuracy_curves(traced: Sequence[tuple[TrialRecord, Trace]]) -> list[AccuracyCurve]:
    """Return the accuracies of trials, together where only the seed differs.

    Args:
        traced: Trials of one budget with what they logged. What has no accuracy is left out.
    """
    groups: dict[tuple[str, int], list[tuple[Floats, float]]] = {}
    for trial, trace in traced:
        accuracy, energy = (_column(trace, name) for name in ("accuracy", "energy"))
        for number, part in enumerate(trainings(trace)):
            run = (100 * accuracy[part], float(energy[part][-1]))
            groups.setdefault((trial.strategy, number), []).append(run)
    curves = []
    for (strategy, number), runs in groups.items():
        table = np.full((len(runs), max(len(values) for values, _ in runs)), np.nan)
        for row, (values, _) in zip(table, runs, strict=True):
            row[: len(values)] = values
        known = np.flatnonzero(np.isfinite(table).any(axis=0))
        if not len(known):
            continue
        shown = table[:, known]
        curves.append(
            AccuracyCurve(
                strategy,
                number,
                known,
                np.nanmean(shown, axis=0),
                np.nanmin(shown, axis=0),
                np.nanmax(shown, axis=0),
                len(runs),
                float(np.mean([energy for _, energy in runs])),
            )
        )
    return curves


def accuracy_figure(result: StudyResult, curves: Mapping[str, Sequence[AccuracyCurve]]) -> "Figure":
    """Draw accuracy by epoch, a line for each strategy and training, with a legend.

    A line is the mean over seeds and its band reaches from the lowest to the highest. At its end
    stands the energy of the network as it is deployed. The dashed line is the float network.

    Args:
        result: The study.
        curves: What is drawn, by budget, each in a panel of its own.
    """
    drawn = styles(trial.strategy for trial in result.trials)
    every = [curve for found in curves.values() for curve in found]
    columns = min(len(curves), 2)
    rows = -(-len(curves) // columns)
    figure = new_figure(height=max(HEIGHT_PIXELS, rows * _PANEL_PIXELS))
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    reference = 100 * result.float_search.accuracy
    bottom = min(float(c.low[c.epochs >= _START_SHARE * c.epochs[-1]].min()) for c in every)
    top = max(reference, *(float(c.high.max()) for c in every))
    margin = 0.05 * (top - bottom) or 1.0
    last = max(int(curve.epochs[-1]) for curve in every)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (budget, found) in zip(grid.flat, curves.items(), strict=False):
        axes.axhline(reference, color=INK, linewidth=1, linestyle="dashed")
        axes.set_ylim(bottom - margin, top + margin)
        set_epochs(axes, last)
        _draw_accuracies(axes, found, drawn)
        draw_grid(axes)
        if len(curves) > 1:
            axes.set_title(plain_text(budget), fontsize=10, color=INK)
    for axes in grid[:, 0]:
        axes.set_ylabel("Top-1 accuracy of the quantized network (%)")
    figure.suptitle(plain_text(f"{result.name}: accuracy by {EPOCH}"), color=INK)
    handles = _accuracy_legend(every, drawn)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _draw_accuracies(
    axes: "Axes", curves: Sequence[AccuracyCurve], drawn: Mapping[str, Style]
) -> None:
    ends: list[tuple[float, float]] = []
    texts, colours = [], []
    for curve, colour in zip(curves, _colours(curves, drawn), strict=True):
        x = curve.epochs
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            x,
            curve.mean,
            color=colour,
            linewidth=1.6,
            marker=drawn[curve.strategy].marker,
            markersize=5,
            markevery=max(1, len(x) // _MARKS),
        )
        if np.isfinite(curve.energy):
            ends.append((float(x[-1]), float(curve.mean[-1])))
            texts.append(f"{curve.energy:.2f}")
            colours.append(colour)
    write_at_ends(axes, ends, texts, colours)


def _colours(curves: Iterable[AccuracyCurve], drawn: Mapping[str, Style]) -> list[str]:
    """Return a colour for each curve: the trainings of a strategy have shades of its own."""
    counts: dict[str, int] = {}
    curves = list(curves)
    for curve in curves:
        counts[curve.strategy] = max(counts.get(curve.strategy, 0), curve.number + 1)
    shaded = {name: shades_of(drawn[name].colour, count) for name, count in counts.items()}
    return [shaded[curve.strategy][curve.number] for curve in curves]


def _accuracy_legend(curves: Sequence[AccuracyCurve], drawn: Mapping[str, Style]) -> "list[Line2D]":
    from matplotlib.lines import Line2D

    def entry(label: str, colour: str, **style: Any) -> Line2D:
        return Line2D([], [], color=colour, label=plain_text(label), **style)

    entries = [
        entry(name, drawn[name].colour, marker=drawn[name].marker, linewidth=1.6)
        for name in dict.fromkeys(curve.strategy for curve in curves)
    ]
    entries.append(entry("float32", INK, linewidth=1, linestyle="dashed"))
    if any(curve.seeds > 1 for curve in curves):
        entries.append(entry("mean and range over seeds", INK, linewidth=7, alpha=0.2))
    if any(np.isfinite(curve.energy) for curve in curves):
        entries.append(entry("at the end: energy relative to uniform 8 bit", "none"))
    return entries


def _column(trace: Trace, name: str) -> Floats:
    """Return a metric by step, NaN where there is no value."""
    return np.array(trace.metrics.get(name, [None] * len(trace)), dtype=np.float64)
