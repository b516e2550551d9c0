"""One colour and one marker per strategy, the same in every picture of a study.

The colours are those of Okabe and Ito, "Color Universal Design" (2008), chosen to stay apart under
the common colour deficiencies. Their yellow and black are left out: yellow fades on white paper,
and black is kept for what is not a strategy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

UNIFORM = "uniform"
"""The strategy every picture draws as the reference curve."""


@dataclass(frozen=True, slots=True)
class Style:
    """How one strategy is drawn.

    Attributes:
        colour: ``#rrggbb``.
        marker: matplotlib's name of the marker.
        symbol: plotly's name of the same marker.
    """

    colour: str
    marker: str
    symbol: str


UNIFORM_STYLE = Style("#5a5a5a", "o", "circle")

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = (
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
    ("p", "pentagon"),
)


def styles(strategies: Iterable[str]) -> dict[str, Style]:
    """Give every strategy a colour and a marker of its own, by order of first appearance.

    A strategy added at the end changes nothing for those before it. Colours repeat after six
    strategies, pairs of colour and marker only after 42.

    Args:
        strategies: Labels in the study's order; repetitions are allowed.

    Examples:
        >>> styles(["uniform", "percentile", "random"])["random"].colour
        '#d55e00'
    """
    chosen: dict[str, Style] = {}
    position = 0
    for label in dict.fromkeys(strategies):
        if label == UNIFORM:
            chosen[label] = UNIFORM_STYLE
            continue
        marker, symbol = _MARKERS[position % len(_MARKERS)]
        chosen[label] = Style(_COLOURS[position % len(_COLOURS)], marker, symbol)
        position += 1
    return chosen
