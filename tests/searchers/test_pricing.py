import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Pricing
from bitfront.searchers.pricing import shown_cost
from bitfront.searchers.synthetic import synthetic_layers, tabular_problem
from bitfront.spaces import FLOAT_BITS, BitAllocation, InfeasibleError, StudyError

LAYERS = synthetic_layers()
PRICING = Pricing(
    EnergyModel(load_table("horowitz-45nm"), LAYERS),
    {"jouppi-7nm": EnergyModel(load_table("jouppi-7nm"), LAYERS)},
)
NAMES = ["energy", "energy:jouppi-7nm", "size", "bops", "mean_weight_bits", "mean_activation_bits"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [(8, 8), (2, 4), (6, 3)])
def test_layer_costs_add_up_to_the_price(name, bits):
    allocation = BitAllocation.uniform(LAYERS, *bits).replace("conv1", weight=4)
    costs = PRICING.layer_costs(name)
    total = sum(
        costs[i, w, a]
        for i, (w, a) in enumerate(zip(allocation.weights, allocation.activations, strict=True))
    )
    assert PRICING.price(allocation, name) == pytest.approx(
        total, rel=1e-12, abs=1.0 * (name == "size")
    )


def test_the_size_of_float_weights_has_no_scales():
    costs = PRICING.layer_costs("size")
    assert costs[1, FLOAT_BITS, 8] == 4 * (LAYERS[1].weight_count + LAYERS[1].bias_count)


def test_another_table_gives_another_cost_relative_to_its_own_8_bits():
    assert PRICING.price(BitAllocation.uniform(LAYERS, 8), "energy:jouppi-7nm") == 1.0
    four = BitAllocation.uniform(LAYERS, 4)
    assert PRICING.price(four, "energy:jouppi-7nm") != PRICING.price(four, "energy")


def test_limits_under_two_tables_hold_together():
    four = BitAllocation.uniform(LAYERS, 4)
    costs = {name: PRICING.price(four, name) for name in NAMES}
    assert PRICING.allows(four, costs)
    for name, cost in costs.items():
        assert not PRICING.allows(four, {**costs, name: 0.99 * cost})


@pytest.mark.parametrize("name", ["energy:nowhere", "accuracy", "enrgy"])
def test_an_unknown_cost_is_refused_with_the_known_ones(name):
    with pytest.raises(StudyError, match=r"known|did you mean"):
        PRICING.price(BitAllocation.uniform(LAYERS, 8), name)
    with pytest.raises(StudyError, match=r"known|did you mean"):
        PRICING.layer_costs(name)


@pytest.mark.parametrize("name", NAMES[:1] + NAMES[2:])
def test_the_smallest_cost_is_that_of_the_cheapest_member(name):
    problem = tabular_problem(widths=(3, 5, 8), forbid=[(3, 3)])
    every = [problem.price(a, name) for a in problem.space.enumerate()]
    assert problem.pricing.smallest(problem.space, name) == min(every)


def test_numbers_in_a_refusal_are_written_out():
    problem = tabular_problem()
    with pytest.raises(InfeasibleError, match=r"bops <= 1 \(.*achievable is \d+: raise"):
        problem.pricing.check_feasible(problem.space, {"bops": 1.0})


def test_the_smallest_cost_is_a_limit_that_can_be_asked_for():
    problem = tabular_problem()
    with pytest.raises(InfeasibleError, match=r"energy <= 0.001") as refused:
        problem.pricing.check_feasible(problem.space, {"energy": 0.001})
    shown = float(str(refused.value).split("achievable is ")[1].split(":")[0])
    problem.pricing.check_feasible(problem.space, {"energy": shown})
    assert shown == pytest.approx(problem.pricing.smallest(problem.space, "energy"), rel=1e-3)


def test_a_shown_cost_is_never_below_the_cost():
    for cost in np.random.default_rng(0).uniform(1e-3, 1e7, 50):
        assert float(shown_cost(cost)) >= cost


@pytest.mark.parametrize("name", NAMES[:1] + NAMES[2:])
def test_what_meets_a_limit_exactly_is_within_it_however_it_was_added_up(name):
    problem = tabular_problem(widths=(3, 5, 8))
    costs = problem.layer_costs(name)
    for allocation in problem.space.enumerate():
        pairs = zip(allocation.weights, allocation.activations, strict=True)
        terms = [float(costs[i, w, a]) for i, (w, a) in enumerate(pairs)]
        for limit in (sum(terms), sum(reversed(terms)), problem.price(allocation, name)):
            if name != "size" or limit == problem.price(allocation, name):
                assert problem.pricing.allows(allocation, {name: limit})
        assert not problem.pricing.allows(
            allocation, {name: problem.price(allocation, name) * 0.999}
        )
