"""What pictures of trainings have in common: an axis of epochs, and names at the ends of lines."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..searchers.trace import Trace
from .canvas import DPI
from .curves import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

EPOCH = "epoch"
"""What the steps of a training are called."""

TRAINING = "training"
"""The metric that numbers the trainings of a trial, if there are several."""

ROOM = 0.12
"""Share of an axis, behind the last epoch, for what stands at the ends of lines."""

FONT_POINTS = 8


def trainings(trace: Trace) -> list[slice]:
    """Return the steps of each training of a trial, in order; all of them if nothing tells.

    Examples:
        >>> widths = [[8]] * 3
        >>> trainings(Trace("epoch", ("fc",), {"training": [0, 0, 1]}, widths, widths))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    numbers = trace.metrics.get(TRAINING, [None] * len(trace))
    starts = [step for step in range(len(trace)) if not step or numbers[step] != numbers[step - 1]]
    return [slice(*ends) for ends in pairwise([*starts, len(trace)])]


def set_epochs(axes: "Axes", last: int, room: float = ROOM) -> None:
    """Set the axis of epochs, with room for what stands at the ends of lines."""
    from matplotlib.ticker import MaxNLocator

    span = max(last, 1)
    axes.set_xlim(-0.03 * span, (1.03 + room) * span)
    ticks = MaxNLocator(integer=True).tick_values(0, span)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= last])
    axes.set_xlabel(EPOCH)


def write_at_ends(
    axes: "Axes",
    ends: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colours: Sequence[Any],
) -> None:
    """Write a text beside the end of each line; texts that would meet move apart."""
    low, high = axes.get_ylim()
    figure: Any = axes.figure
    rows = axes.get_subplotspec().get_gridspec().nrows  # type: ignore[union-attr]
    pixels = 0.8 * figure.get_figheight() * DPI / rows
    gap = 1.3 * FONT_POINTS * DPI / 72 / pixels * (high - low)
    across = np.diff(axes.get_xlim())[0]
    places = spread(np.array([y for _, y in ends]), gap, low, high)
    for (x, y), place, text, colour in zip(ends, places, texts, colours, strict=True):
        axes.annotate(
            text,
            (x, y),
            (x + 0.03 * across, place),
            fontsize=FONT_POINTS,
            color=INK,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0},
        )


def spread(values: Floats, gap: float, low: float, high: float) -> Floats:
    """Return the positions nearest to some values that are a gap apart, in the same order.

    Least squares: neighbours that are too close become a block around their mean (isotonic
    regression of what remains without the gaps). They stay between the bounds if there is room.

    Examples:
        >>> spread(np.array([5.0, 1.0, 5.0]), 1.0, 0.0, 9.0).tolist()
        [4.5, 1.0, 5.5]
    """
    order = np.argsort(values, kind="stable")
    gaps = gap * np.arange(len(values))
    blocks: list[list[float]] = []
    for wanted in values[order] - gaps:
        blocks.append([wanted])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = np.array([np.mean(block) for block in blocks for _ in block])
    positions: Floats = np.empty(len(values))
    room = high - gap * (len(values) - 1)
    positions[order] = np.maximum(np.minimum(placed, room), low) + gaps
    return positions
