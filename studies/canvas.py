"""What every printed picture has in common: its size, its lines, and names written as they are."""

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDTH_PIXELS, HEIGHT_PIXELS = 1500, 950
GRID_COLOUR = "#e3e3e3"
MOST_NAMES = 40
"""More layer names than these would overlap on an axis."""


def new_figure(width: float = WIDTH_PIXELS, height: float = HEIGHT_PIXELS) -> "Figure":
    """Return an empty figure of its own, outside pyplot's global list.

    Args:
        width: In pixels.
        height: In pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure


def draw_grid(axes: "Axes") -> None:
    """Draw thin lines behind the data, and a frame on two sides only."""
    axes.grid(color=GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_text(text: str) -> str:
    """Return text that matplotlib shows as it is: no formula, no hidden legend entry."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def file_name(label: str) -> str:
    """Return a label as part of a file name; a changed one is told apart by its digest."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", label)
    digest = hashlib.sha256(label.encode()).hexdigest()[:6]
    return label if safe == label else f"{safe}-{digest}"
