"""How a search went, to print: metrics as curves over its steps, and widths as a map by layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..searchers.trace import Trace
from .canvas import HEIGHT_PIXELS, draw_grid, file_name, new_figure, plain_text
from .curves import INK
from .findings import trace_of
from .palette import styles
from .result import StudyResult, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.float64]

BEST = "best_"
"""What the name of a metric begins with that is drawn with the one it is the best of."""

_COLUMNS = (3, 4)
_PANEL_PIXELS = 310
_MARGIN_PIXELS = 150
_NAME_PIXELS = 17
_MOST_NAMES = 120

NOISY_STEPS = 40
"""From so many steps on, single ones are drawn thin behind their moving mean."""

_WINDOW_SHARE = 1 / 15
"""Share of the steps that a moving mean covers."""

_SCALE = (2, 8)
"""Widths from which to which colours tell apart; wider ones, 16 and 32, are all white."""

_SHADES = (-0.4, 0.5)
"""How far the colours of the first and the last seed go, below 0 to black and above to white."""


def trace_figures(result: StudyResult) -> dict[str, "Figure"]:
    """Draw what strategies logged step by step.

    Returns:
        Figures by name: `learning_name`, with a line for each seed, and `widths_name`.
    """
    colours = styles(trial.strategy for trial in result.trials)
    groups: dict[str, list[tuple[TrialRecord, Trace]]] = {}
    for trial in result.trials:
        if trace := trace_of(trial.findings):
            groups.setdefault(learning_name(result, trial), []).append((trial, trace))
    figures: dict[str, Figure] = {}
    for name, members in groups.items():
        first, _ = members[0]
        title = plain_text(f"{result.name}: {first.strategy}  ·  {first.budget}")
        traces = {trial.seed: trace for trial, trace in members}
        if _panels(traces):
            figures[name] = learning_figure(traces, title, colours[first.strategy].colour)
        for trial, trace in members:
            whose = f"{title}  ·  seed {trial.seed}"
            figures[widths_name(result, trial)] = widths_figure(trace, whose)
    return figures


def learning_name(result: StudyResult, trial: TrialRecord) -> str:
    """Return what the figure with a trial's metrics is called; with the budget, of several."""
    return f"learning-{file_name(trial.strategy)}{budget_suffix(result, trial)}"


def widths_name(result: StudyResult, trial: TrialRecord) -> str:
    """Return what the figure of a trial's widths is called; with the budget, of several."""
    return f"widths-{file_name(trial.strategy)}-s{trial.seed}{budget_suffix(result, trial)}"


def learning_figure(traces: Mapping[int, Trace], title: str, colour: str) -> "Figure":
    """Draw metrics over steps: a panel for each metric, and in it a line for each seed.

    Args:
        traces: What the trials of one strategy logged, by seed, with a value at least.
        title: What stands above, as matplotlib reads it.
        colour: The strategy's; seeds have shades of it.
    """
    panels = _panels(traces)
    fullest = min(_COLUMNS, key=lambda columns: -len(panels) % columns)
    columns = min(fullest, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(height=_MARGIN_PIXELS + rows * _PANEL_PIXELS)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    shades = dict(zip(traces, shades_of(colour, len(traces)), strict=True))
    longest = max(traces.values(), key=len)
    for axes, name in zip(grid.flat, panels, strict=False):
        for seed, trace in traces.items():
            _draw_metric(axes, trace, name, shades[seed])
        axes.set_title(plain_text(_words(name)), fontsize=10, color=INK)
        axes.set_xlabel(plain_text(longest.step), fontsize=8)
        axes.set_xlim(-0.03 * len(longest), 1.03 * len(longest))
        axes.tick_params(labelsize=8)
        draw_grid(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title, color=INK)
    best = any(f"{BEST}{name}" in trace.metrics for trace in traces.values() for name in panels)
    handles = _legend(shades, longest, best=best)
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    return figure


def widths_figure(trace: Trace, title: str) -> "Figure":
    """Draw the widths of all layers, from top to bottom, over the steps, from left to right.

    Widths that differ between channels are shown by their mean. What is wider than 8 bits is white,
    and the colour bar then says so.

    Args:
        trace: What a trial logged; not empty.
        title: What stands above, as matplotlib reads it.
    """
    from matplotlib import colormaps

    narrowest, widest = _SCALE
    shown = range(0, len(trace.layers), -(-len(trace.layers) // _MOST_NAMES))
    figure = new_figure(height=max(HEIGHT_PIXELS, _MARGIN_PIXELS + _NAME_PIXELS * len(shown)))
    panels: Any = figure.subplots(1, 2, sharey=True)
    operands = {"Weights": trace.weight_bits, "Activations": trace.activation_bits}
    for axes, (operand, widths) in zip(panels, operands.items(), strict=True):
        image = axes.imshow(
            np.array(widths).T,
            cmap=colormaps["cividis"].with_extremes(over="white"),
            vmin=narrowest,
            vmax=widest,
            aspect="auto",
            interpolation="nearest",  # others blur one layer into the next
        )
        axes.set_title(operand, fontsize=11, color=INK)
        axes.set_xlabel(plain_text(trace.step))
    panels[0].set_yticks(shown, [plain_text(trace.layers[i]) for i in shown], fontsize=8)
    figure.suptitle(title, color=INK)
    largest = max(map(np.max, operands.values()))
    figure.colorbar(
        image,
        ax=panels,
        label="bits" if largest <= widest else f"bits (white: above {widest}, up to {largest:g})",
        ticks=range(narrowest, widest + 1),
        extend="neither" if largest <= widest else "max",
        shrink=0.7,
    )
    return figure


def moving_mean(values: Floats, window: int) -> Floats:
    """Return the mean over a window around each value, cut off at both ends.

    NaN counts as no value; before the first and behind the last value there is no mean.

    Examples:
        >>> moving_mean(np.array([np.nan, 1.0, 2.0, np.nan, 6.0]), 3).tolist()
        [nan, 1.5, 1.5, 4.0, 6.0]
    """
    known = np.isfinite(values)
    counts = np.convolve(known, np.ones(window), mode="same")
    sums = np.convolve(np.where(known, values, 0.0), np.ones(window), mode="same")
    inside = np.logical_or.accumulate(known) & np.logical_or.accumulate(known[::-1])[::-1]
    mean: Floats = np.full(len(values), np.nan)
    np.divide(sums, counts, out=mean, where=inside & (counts > 0))
    return mean


def budget_suffix(result: StudyResult, trial: TrialRecord) -> str:
    """Return what the names of a trial's figures end in: its budget, if there are several."""
    return f"-{file_name(trial.budget)}" if result.has_several_budgets else ""


def _panels(traces: Mapping[int, Trace]) -> list[str]:
    """Return the metrics that have a value, but for those that are drawn with what they top."""
    valued = dict.fromkeys(
        name
        for trace in traces.values()
        for name, column in trace.metrics.items()
        if any(value is not None for value in column)
    )
    return [n for n in valued if not (n.startswith(BEST) and n.removeprefix(BEST) in valued)]


def _draw_metric(axes: "Axes", trace: Trace, name: str, colour: str) -> None:
    """Draw one metric of one trial: every step, thin where they are many; their mean; the best."""
    values, best = (_column(trace, shown) for shown in (name, f"{BEST}{name}"))
    if (window := _window(trace)) > 1:
        axes.plot(values, color=colour, linewidth=0.5, alpha=0.35)
        axes.plot(moving_mean(values, window), color=colour, linewidth=1.6)
    else:
        axes.plot(values, color=colour, marker=".", linewidth=1.3)
    axes.plot(best, color=colour, linestyle="dotted", drawstyle="steps-post", linewidth=1.3)


def _column(trace: Trace, name: str) -> Floats:
    """Return a metric by step, NaN where there is no value."""
    return np.array(trace.metrics.get(name, [None] * len(trace)), dtype=np.float64)


def _window(trace: Trace) -> int:
    """Return over how many steps metrics are averaged, an odd number; 1 if they are not."""
    return 1 if len(trace) < NOISY_STEPS else 2 * round(len(trace) * _WINDOW_SHARE / 2) + 1


def _legend(shades: Mapping[int, str], trace: Trace, *, best: bool) -> list["Line2D"]:
    from matplotlib.lines import Line2D

    def entry(label: str, colour: str, **style: Any) -> Line2D:
        return Line2D([], [], color=colour, label=plain_text(label), **style)

    entries = [entry(f"seed {seed}", colour, linewidth=2) for seed, colour in shades.items()]
    if (window := _window(trace)) > 1:
        entries.append(entry(f"each {trace.step}", INK, linewidth=0.5, alpha=0.6))
        entries.append(entry(f"mean over {window} {trace.step}s", INK, linewidth=1.6))
    if best:
        entries.append(entry("best so far", INK, linestyle="dotted"))
    return entries


def shades_of(colour: str, count: int) -> list[str]:
    """Return shades of a colour from dark to light; of one, the colour itself."""
    from matplotlib.colors import to_hex, to_rgb

    base = np.array(to_rgb(colour))
    shifts: Sequence[float] = np.linspace(*_SHADES, count).tolist() if count > 1 else [0.0]
    return [to_hex((base + abs(shift) * ((shift > 0) - base)).tolist()) for shift in shifts]


def _words(name: str) -> str:
    return name.replace("_", " ")
