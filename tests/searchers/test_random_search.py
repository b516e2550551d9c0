import numpy as np
import pytest

from bitfront.searchers import RandomSearch
from bitfront.searchers.testing import SearcherConformance, synthetic_layers, tabular_problem
from bitfront.spaces import InfeasibleError


class TestRandom(SearcherConformance):
    make = RandomSearch


class TestRandomWithoutSpread(SearcherConformance):
    @staticmethod
    def make():
        return RandomSearch(spread=False)


@pytest.mark.parametrize("spread", [True, False])
def test_a_small_space_is_asked_for_whole_and_nothing_twice(spread):
    problem = tabular_problem(widths=(2, 4, 8), evaluations=200)
    RandomSearch(spread=spread).run(problem)
    asked = [m.allocation for m in problem.history]
    assert len(asked) == len(set(asked)) == problem.space.size == 81


def test_every_measurement_is_within_the_limits():
    problem = tabular_problem(limits={"energy": 0.8}, evaluations=50)
    RandomSearch().run(problem)
    assert len(problem.history) > 10
    assert all(m.energy_vs_w8a8 <= 0.8 for m in problem.history)


def test_the_one_allocation_within_the_limits_is_found():
    cheapest = tabular_problem()
    limit = cheapest.price(cheapest.space.uniform(2))
    problem = tabular_problem(limits={"energy": limit})
    RandomSearch(spread=False).run(problem)
    assert [m.allocation for m in problem.history] == [cheapest.space.uniform(2)]


def test_two_limits_that_exclude_each_other_end_with_both_named():
    # Of one free layer either the weights or the activations may be narrow, never both.
    space = {"layers": synthetic_layers(3), "widths": (2, 8), "forbid": [(2, 2)]}
    free = tabular_problem(**space)
    light, quick = (free.pricing.smallest(free.space, name) for name in ("size", "energy"))
    narrow_weights = free.space.uniform(8).replace("conv1", weight=2)
    narrow_activations = free.space.uniform(8).replace("conv1", activation=2)
    assert light == free.price(narrow_weights, "size") < free.price(narrow_activations, "size")
    assert quick == free.price(narrow_activations) < free.price(narrow_weights)
    problem = tabular_problem(**space, limits={"size": light, "energy": quick})
    with pytest.raises(InfeasibleError, match=r"together: size <= .* energy <= "):
        RandomSearch().run(problem)


def test_spread_keeps_each_width_uniform_and_widens_the_mean():
    layers = synthetic_layers(12)
    widths = (2, 4, 6, 8)
    means = {}
    for spread in (True, False):
        problem = tabular_problem(layers=layers, widths=widths, evaluations=500)
        RandomSearch(spread=spread).run(problem)
        drawn = np.array([m.allocation.weights[1:-1] for m in problem.history])
        shares = np.array([(drawn == width).mean(axis=0) for width in widths])
        assert np.abs(shares - 0.25).max() < 0.08
        means[spread] = drawn.mean(axis=1)
    # Beta-binomial against independent uniform over 10 layers: the deviation of the mean width
    # is sqrt((4 * 5 / 12 / 10 + 9 / 10 * 9 / 12)) * 2 = 1.88 against 2 * sqrt(15 / 12 / 10) = 0.71.
    assert means[False].std() == pytest.approx(0.71, rel=0.1)
    assert means[True].std() > 2 * means[False].std()
