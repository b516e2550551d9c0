"""How many bad answers chance explains: against scipy's distribution, and how often it is wrong."""

import pytest
from scipy.stats import betabinom, norm

from bitfront.models.runtime.chance import most_expected


@pytest.mark.parametrize("bad", [0, 7, 120, 999])
@pytest.mark.parametrize("n", [8, 32, 128])
def test_the_limit_is_a_quantile_of_the_beta_binomial_distribution(bad, n):
    limit = most_expected(bad, 1000, 0.007, [n], 4.0)[n]
    share = min((bad + 0.5) / 1001 + 0.007, 1 - 0.5 / 1001)
    chance = betabinom(n, 1001 * share, 1001 * (1 - share))
    assert chance.sf(limit) < norm.sf(4.0)
    assert limit == 0 or chance.sf(limit - 1) >= norm.sf(4.0)


def test_who_looks_more_rarely_may_be_as_much_surer():
    limit = most_expected(20, 1000, 0.007, [1024], 5.0, 128)[1024]
    share = 20.5 / 1001 + 0.007
    chance = betabinom(1024, 1001 * share, 1001 * (1 - share))
    assert chance.sf(limit) < 128 * norm.sf(5.0) <= chance.sf(limit - 1)
    assert most_expected(20, 1000, 0.0, [64], 0.0, 9) == most_expected(20, 1000, 0.0, [64], 0.0)


def test_a_small_sample_explains_more():
    limits = [most_expected(n // 20, n, 0.0, [64], 3.0)[64] for n in (40, 400, 40_000)]
    assert limits == sorted(limits, reverse=True) and limits[0] > limits[-1]


def test_what_always_fails_is_never_evidence():
    assert most_expected(100, 100, 0.5, [16], 5.0) == {16: 16}


def test_more_certainty_and_more_tolerance_need_more():
    base = most_expected(50, 1000, 0.0, [128], 2.0)[128]
    assert most_expected(50, 1000, 0.0, [128], 5.0)[128] > base
    assert most_expected(50, 1000, 0.1, [128], 2.0)[128] > base
