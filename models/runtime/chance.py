"""How many bad answers chance explains."""

import math
from collections.abc import Iterable


def most_expected(
    bad: int,
    inputs: int,
    tolerance: float,
    lengths: Iterable[int],
    sigmas: float,
    rarely: float = 1,
) -> dict[int, int]:
    """Return how many bad ones among some inputs are still no evidence of too many.

    The share of bad ones is known from a sample only, so that their number among ``n`` further
    inputs has a beta-binomial distribution (with Jeffreys' prior). Its mean is moved up by the
    tolerance: what is within that is no drop.

    Args:
        bad: Bad ones in the sample.
        inputs: Its size.
        tolerance: Added to their share.
        lengths: Numbers ``n`` of further inputs.
        sigmas: More than the result has the probability that a normal variable exceeds its mean by
            so many standard deviations.
        rarely: Times that probability, but no more than a half: who looks so much more rarely is
            misled as often.

    Returns:
        By ``n``, the largest such number.
    """
    tail = min(rarely * math.erfc(sigmas / math.sqrt(2)) / 2, 0.5)
    share = min((bad + 0.5) / (inputs + 1) + tolerance, 1 - 0.5 / (inputs + 1))
    a, b = share * (inputs + 1), (1 - share) * (inputs + 1)
    return {n: _largest_within(n, a, b, tail) for n in lengths}


def _largest_within(n: int, a: float, b: float, tail: float) -> int:
    """Return the smallest ``k`` with less than ``tail`` probability above it."""
    above = 0.0
    for k in range(n, 0, -1):
        above += math.exp(_log_choose(n, k) + _log_beta(a + k, b + n - k) - _log_beta(a, b))
        if above >= tail:
            return k
    return 0


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
