import numpy as np
import pytest

from bitfront.searchers.surrogate import fit

RNG = np.random.default_rng(0)
CHOICES = RNG.integers(3, size=(300, 8))
SINGLE = RNG.normal(size=(8, 3))
PAIR = RNG.normal(size=(8, 8, 3, 3)) / 4


def additive(x):
    return SINGLE[np.arange(8), x].sum(axis=1)


def with_pairs(x):
    i, j = np.triu_indices(8, 1)
    return additive(x) + PAIR[i, j, x[:, i], x[:, j]].sum(axis=1)


def error(surrogate, x, prior, truth):
    return np.sqrt(np.mean((surrogate.predict(x, prior)[0] - truth) ** 2))


def test_a_trend_that_says_all_is_all():
    values = 2.0 * additive(CHOICES) + 1.0
    found = fit(CHOICES, additive(CHOICES), values)
    assert found.trend == pytest.approx((2.0, 1.0))
    assert found.explained == pytest.approx(1.0)
    mean, deviation = found.predict(CHOICES[:5], additive(CHOICES[:5]))
    np.testing.assert_allclose(mean, values[:5], atol=1e-6)
    assert (deviation < 1e-3).all()


def test_pairs_that_the_trend_does_not_know_are_learned():
    known, fresh = CHOICES[:240], CHOICES[240:]
    found = fit(known, additive(known), with_pairs(known))
    alone = np.std(with_pairs(fresh) - additive(fresh))
    assert error(found, fresh, additive(fresh), with_pairs(fresh)) < 0.6 * alone
    assert found.explained < 1.0


def test_single_choices_are_learned_without_any_trend():
    known, fresh, nothing = CHOICES[:240], CHOICES[240:], np.zeros(300)
    found = fit(known, nothing[:240], additive(known))
    assert found.trend[0] == 0.0
    assert error(found, fresh, nothing[240:], additive(fresh)) < 0.1 * np.std(additive(fresh))
    assert found.pair_share == 0.1


def test_it_is_less_sure_far_from_what_it_knows():
    found = fit(CHOICES[:40], np.zeros(40), with_pairs(CHOICES[:40]))
    near, far = CHOICES[:1], (CHOICES[:1] + 1) % 3
    assert found.predict(near, np.zeros(1))[1] < found.predict(far, np.zeros(1))[1]


def test_a_trend_never_falls():
    found = fit(CHOICES, -with_pairs(CHOICES), with_pairs(CHOICES))
    assert found.trend[0] == 0.0


def test_one_value_and_equal_values_can_be_fitted():
    one = fit(CHOICES[:1], np.zeros(1), np.ones(1))
    assert one.predict(CHOICES[:2], np.zeros(2))[0] == pytest.approx([1.0, 1.0])
    same = fit(CHOICES[:9], additive(CHOICES[:9]), np.ones(9))
    assert same.predict(CHOICES[9:11], np.zeros(2))[0] == pytest.approx([1.0, 1.0])
