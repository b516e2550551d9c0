"""Means over seeds, with what is uncertain about them."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean by Student's t; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1) * spread)


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """Return a mean and, of several values, half of its 95 % interval.

    Examples:
        >>> mean_text([91.0, 92.0, 93.0]), mean_text([90.5])
        ('92.00 ± 2.48', '90.50')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {half_width(values):.{digits}f}"
