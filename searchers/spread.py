"""An order of candidates in which any number of the first ones spans all of them."""

from collections.abc import Sequence

import numpy as np


def farthest_first(values: Sequence[float], *, given: int = 1) -> list[int]:
    """Return an order that starts with the first values and spans their range at every length.

    Each next value is the one farthest from all before it; of equally far ones the first.

    Args:
        values: What is ordered.
        given: How many of the first values are there already, and keep their places; at least 1.

    Examples:
        >>> farthest_first([0.5, 0.4, 0.6, 1.0, 0.1])
        [0, 3, 4, 1, 2]
        >>> farthest_first([0.0, 1.0, 0.1, 0.4], given=2)
        [0, 1, 3, 2]
    """
    points = np.asarray(values, dtype=np.float64)
    order = list(range(max(given, 1)))
    gap = np.abs(points[:, None] - points[order]).min(axis=1)
    for _ in range(len(points) - len(order)):
        gap[order] = -1.0  # never again
        order.append(int(np.argmax(gap)))
        gap = np.minimum(gap, np.abs(points - points[order[-1]]))
    return order
