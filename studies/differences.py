"""Differences of accuracies in points, with their 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NORMAL = 1.96
"""Standard errors in half of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference, and how far it may be off.

    Attributes:
        points: The difference in points of accuracy.
        half_width: Half of its 95 % interval.
    """

    points: float
    half_width: float

    @property
    def is_tie(self) -> bool:
        """Whether the interval includes no difference."""
        return abs(self.points) <= self.half_width

    def __str__(self) -> str:
        text = f"{self.points:+.2f} ± {self.half_width:.2f}"
        return f"tie ({text})" if self.is_tie else text


def paired(accuracy: float, other: float, differs: float, inputs: int) -> Difference:
    """Return the difference between two networks that were run on the same inputs.

    Its variance is that of McNemar's test: inputs on which both are right or both are wrong say
    nothing.

    Args:
        accuracy: Share that the first got right.
        other: Share that the second got right.
        differs: Share that one of them got right and not the other.
        inputs: How many inputs.
    """
    share = accuracy - other
    variance = max(differs - share**2, 0.0) / inputs
    return Difference(100 * share, 100 * _NORMAL * math.sqrt(variance))


def over_seeds(points: Sequence[float]) -> Difference:
    """Return the mean of differences, one of each seed, with Student's interval.

    Args:
        points: Two differences at least.
    """
    from scipy.stats import t

    error = float(np.std(points, ddof=1)) / math.sqrt(len(points))
    return Difference(float(np.mean(points)), float(t.ppf(0.975, len(points) - 1)) * error)
