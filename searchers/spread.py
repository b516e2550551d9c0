"""An order of candidates in which any number of the first ones spans all of them."""

from collections.abc import Sequence

import numpy as np


def farthest_first(values: Sequence[float]) -> list[int]:
    """Return an order that starts with the first value and spans their range at every length.

    Each next value is the one farthest from all before it; of equally far ones the first.

    Examples:
        >>> farthest_first([0.5, 0.4, 0.6, 1.0, 0.1])
        [0, 3, 4, 1, 2]
    """
    points = np.asarray(values, dtype=np.float64)
    order = [0]
    gap = np.abs(points - points[0])
    for _ in range(len(points) - 1):
        gap[order[-1]] = -1.0  # never again
        order.append(int(np.argmax(gap)))
        gap = np.minimum(gap, np.abs(points - points[order[-1]]))
    return order
