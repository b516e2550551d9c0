"""The expected improvement of a front whose costs are known, and whose values are not."""

import math

import numpy as np
import numpy.typing as npt

from .cost_axis import CostAxis

Floats = npt.NDArray[np.float64]


def most_promising(
    costs: Floats,
    mean: Floats,
    deviation: Floats,
    staircase: tuple[Floats, Floats],
    axis: CostAxis,
    count: int,
) -> list[int]:
    """Return the numbers of ``count`` candidates, one after the other by expected improvement.

    The improvement is the area that a candidate adds under the staircase of the front, between the
    costs that count. Each choice is believed to come out as predicted before the next is made.
    """
    from scipy.special import ndtr  # the command line starts without scipy

    steps, best = staircase
    worst = float(best.max())
    chosen: list[int] = []
    open_ = costs <= axis.highest
    for _ in range(min(count, int(open_.sum()))):
        edges = np.clip(np.append(steps, axis.end), axis.lowest, axis.end)
        levels = best
        if steps[0] > axis.lowest:
            edges, levels = np.append(axis.lowest, edges), np.append(worst, best)
        lengths = np.maximum(edges[None, 1:] - np.maximum(edges[None, :-1], costs[:, None]), 0.0)
        gap = (levels[None, :] - mean[:, None]) / deviation[:, None]
        density = np.exp(-0.5 * gap**2) / math.sqrt(2 * math.pi)
        improvement = deviation[:, None] * (gap * ndtr(gap) + density)
        gain = np.where(open_, (lengths * improvement).sum(axis=1), -np.inf)
        index = int(np.argmax(gain))
        open_[index] = False
        chosen.append(index)
        place = int(np.searchsorted(steps, costs[index], side="right"))
        steps = np.insert(steps, place, costs[index])
        best = np.minimum.accumulate(np.insert(best, place, mean[index]))
    return chosen
