"""Trainings that learn widths, to print: accuracy by epoch, and the width of each layer by epoch.

They are Figures 1 and 2 of EQAT (doi:10.1145/3716368.3735291), for any strategy whose steps are
epochs. A trial that trains several networks, one after the other, numbers them by a metric.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..searchers.trace import Trace
from .accuracy_figure import AccuracyCurve, accuracy_curves, accuracy_figure
from .canvas import draw_grid, file_name, new_figure, plain_text
from .curves import INK
from .epochs import EPOCH, FONT_POINTS, ROOM, set_epochs, trainings, write_at_ends
from .findings import trace_of
from .result import StudyResult, TrialRecord
from .trace_figures import budget_suffix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY_NAME = "learning"
"""What the figure with the accuracy of all trainings is called."""

MOST_NAMED = 12
"""More layers than these are told apart by a colour bar: their names would cover each other."""

_WIDEST = 8
"""Wider ones are float; a scale with them on it would show nothing of the others."""

_COLOURS, _LIGHTEST = "viridis", 0.88
"""Colours by depth, and where they end: what is lighter is lost on white paper."""


def epoch_figures(result: StudyResult) -> dict[str, "Figure"]:
    """Draw what trainings logged epoch by epoch.

    Returns:
        Figures by name: `ACCURACY_NAME` with all strategies, and `layers_name` for each trial in
        which widths changed.
    """
    traced = [
        (trial, trace)
        for trial in result.trials
        if (trace := trace_of(trial.findings)) and trace.step == EPOCH
    ]
    figures: dict[str, Figure] = {}
    if curves := _by_budget(traced):
        figures[ACCURACY_NAME] = accuracy_figure(result, curves)
    for trial, trace in traced:
        if any(_changes(trace, part) for part in trainings(trace)):
            title = f"{result.name}: {trial.strategy}  ·  {trial.budget}  ·  seed {trial.seed}"
            figures[layers_name(result, trial)] = layers_figure(trace, plain_text(title))
    return figures


def layers_name(result: StudyResult, trial: TrialRecord) -> str:
    """Return what the figure with a trial's widths as lines is called."""
    return f"layers-{file_name(trial.strategy)}-s{trial.seed}{budget_suffix(result, trial)}"


def layers_figure(trace: Trace, title: str) -> "Figure":
    """Draw the widths of each layer over the epochs as lines, coloured by depth.

    Up to `MOST_NAMED` layers are named at the ends of their lines, more of them by a colour bar.
    Layers that are always wider than 8 bits are left out.

    Args:
        trace: What a trial logged; not empty.
        title: What stands above, as matplotlib reads it.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    figure = new_figure()
    panels: Any = figure.subplots(1, 2, sharey=True)
    depth = len(trace.layers)
    colours = colormaps[_COLOURS](np.linspace(0, _LIGHTEST, depth))
    for axes, operand, widths in (
        (panels[0], "Weights", trace.weight_bits),
        (panels[1], "Activations", trace.activation_bits),
    ):
        lines = np.array(widths, dtype=np.float64).T
        drawn = [layer for layer in range(depth) if lines[layer].min() <= _WIDEST]
        axes.set_ylim(min([2.0, *lines[drawn].ravel()]) - 0.25, _WIDEST + 0.25)
        set_epochs(axes, len(trace) - 1, room=ROOM if depth <= MOST_NAMED else 0.0)
        for layer in drawn:
            for part in trainings(trace):
                x = np.arange(len(trace))[part]
                marker = "." if len(x) == 1 else None
                axes.plot(x, lines[layer][part], color=colours[layer], marker=marker, linewidth=1.5)
        if depth <= MOST_NAMED:
            names = [plain_text(trace.layers[layer]) for layer in drawn]
            ends = [(len(trace) - 1, lines[layer][-1]) for layer in drawn]
            write_at_ends(axes, ends, names, list(colours[drawn]))
        if left_out := depth - len(drawn):
            operand += f" (without {left_out} of more than {_WIDEST} bits)"
        axes.set_title(operand, fontsize=11, color=INK)
        axes.set_yticks(range(2, _WIDEST + 1))
        draw_grid(axes)
    panels[0].set_ylabel("bits")
    if depth > MOST_NAMED:
        scale = ScalarMappable(cmap=ListedColormap(colours))
        scale.set_clim(-0.5, depth - 0.5)
        bar = figure.colorbar(scale, ax=panels, shrink=0.9)
        shown = range(0, depth, -(-depth // MOST_NAMED))
        bar.set_ticks(shown, labels=[plain_text(trace.layers[layer]) for layer in shown])
        bar.ax.tick_params(labelsize=FONT_POINTS)
        bar.ax.invert_yaxis()  # the first layer on top, as in the map
    figure.suptitle(title, color=INK)
    return figure


def _by_budget(traced: Sequence[tuple[TrialRecord, Trace]]) -> dict[str, list[AccuracyCurve]]:
    """Return what is drawn in each panel, by the budget it is for.

    Strategies that have a budget of their own are what others are compared with: they are in every
    panel.
    """
    budgets: dict[str, set[str]] = {}
    for trial, _ in traced:
        budgets.setdefault(trial.strategy, set()).add(trial.budget)
    own = {strategy for strategy, found in budgets.items() if len(found) == 1}
    shared = [trial.budget for trial, _ in traced if trial.strategy not in own]
    panels = {
        budget: accuracy_curves(
            [(trial, t) for trial, t in traced if trial.strategy in own or trial.budget == budget]
        )
        for budget in dict.fromkeys(shared or [trial.budget for trial, _ in traced][:1])
    }
    return {budget: curves for budget, curves in panels.items() if curves}


def _changes(trace: Trace, part: slice) -> bool:
    return any(
        row != rows[part][0]
        for rows in (trace.weight_bits, trace.activation_bits)
        for row in rows[part]
    )
