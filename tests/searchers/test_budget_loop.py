import numpy as np
import pytest

from bitfront.energy import load_table
from bitfront.searchers import BudgetLoop, build
from bitfront.searchers.budget_loop import budget_loop, way_down
from bitfront.searchers.steps import cost_of, widths_of
from bitfront.searchers.testing import SearcherConformance, synthetic_layers, tabular_problem
from bitfront.spaces import (
    OBJECTIVES,
    BitAllocation,
    BitSpace,
    InfeasibleError,
    Layer,
    SpaceError,
)


class TestBudgetLoop(SearcherConformance):
    make = BudgetLoop


def space_of(count, **options):
    options = {"weights": (2, 4), "activations": (2, 4), "first_last": None, **options}
    return BitSpace.build(synthetic_layers(count), **options)


def product_costs(count):
    """Every layer costs its weight bits times its activation bits."""
    return np.tile(np.outer(np.arange(33.0), np.arange(33.0)), (count, 1, 1))


def walked(space, start=None):
    return [widths.tolist() for widths in way_down(space, start)]


# HAQ's numbers

MOBILENET_8BIT = 39_624_933


@pytest.fixture(scope="module")
def mobilenet():
    """Latency of the 53 layers of MobileNetV2 by both widths, HAQ's table."""
    rows = load_table("haq-cloud-latency").rows.layers
    costs = np.full((len(rows), 33, 33), np.nan)
    costs[:, 1:9, 1:9] = [row.costs for row in rows]
    return costs


def mobilenet_space(**options):
    names = [row.layer for row in load_table("haq-cloud-latency").rows.layers]
    one = {"macs": 1, "weight_count": 1, "bias_count": 0, "input_count": 1, "output_count": 1}
    layers = [Layer(name, "conv", **one, in_channels=1, out_channels=1) for name in names]
    return BitSpace.build(layers, **options)


@pytest.mark.parametrize(
    ("ratio", "published"),
    [
        (0.8, 31_646_565),
        (0.6, 23_456_373),
        (0.556, 21_947_381),
        (0.5, 19_803_141),
        (0.4, 15_788_789),
        (0.3, 11_882_085),
    ],
)
def test_ends_where_haq_does(ratio, published, mobilenet):
    # HAQ marks the activation of the first layer with -1 and then looks that up: the 7-bit column.
    space = mobilenet_space(pins={"conv_stem": {"activation": 7}})
    found = budget_loop(space, {"latency": (mobilenet, ratio * MOBILENET_8BIT)})
    assert cost_of(mobilenet, widths_of(found)) == published
    assert (found.weights[0], found.weights[-1], found.activations[-1]) == (8, 8, 8)


@pytest.mark.parametrize(
    ("ratio", "honest"), [(0.8, 31_694_741), (0.6, 23_657_797), (0.3, 11_877_013)]
)
def test_ends_elsewhere_with_the_8_bits_the_first_activation_has(ratio, honest, mobilenet):
    found = budget_loop(mobilenet_space(), {"latency": (mobilenet, ratio * MOBILENET_8BIT)})
    assert cost_of(mobilenet, widths_of(found)) == honest <= ratio * MOBILENET_8BIT


@pytest.mark.parametrize(
    ("weight", "activation", "ratio"),
    [
        (8, 8, 1.0),
        *((7, 7, 0.83), (6, 6, 0.6726), (5, 5, 0.5279), (4, 4, 0.3966), (3, 3, 0.2802)),
        *((2, 2, 0.1783), (4, 8, 0.7882), (8, 4, 0.5059)),
    ],
)
def test_uniform_widths_cost_what_haq_publishes(weight, activation, ratio, mobilenet):
    state = np.tile([weight, activation], (53, 1))
    assert cost_of(mobilenet, state) / MOBILENET_8BIT == pytest.approx(ratio, abs=5e-5)


# One path by hand


def test_the_way_down_by_hand():
    assert walked(space_of(2, weights=(2, 4, 8), activations=(4, 8))) == [
        [[8, 8], [8, 8]],
        [[8, 8], [8, 4]],
        [[8, 8], [4, 4]],
        [[8, 4], [4, 4]],
        [[4, 4], [4, 4]],
        [[4, 4], [2, 4]],
        [[2, 4], [2, 4]],
    ]


def test_pins_are_kept():
    for _, first, last in ((s, s[0], s[-1]) for s in walked(space_of(4, first_last=8))):
        assert first == last == [8, 8]


def test_tied_operands_go_together_at_the_turn_of_the_last():
    space = space_of(3, ties=[["conv0", "conv2"]])
    assert walked(space) == [
        [[4, 4], [4, 4], [4, 4]],
        [[4, 2], [4, 4], [4, 2]],
        [[2, 2], [4, 4], [2, 2]],
        [[2, 2], [4, 2], [2, 2]],
        [[2, 2], [2, 2], [2, 2]],
    ]


def test_a_forbidden_step_is_left_out_until_its_next_turn():
    # 4-bit weights never meet 8-bit activations, and those go first: no step is left out.
    first = space_of(1, weights=(2, 4, 8), activations=(4, 8), forbid=[(4, 8)])
    assert walked(first) == [[[8, 8]], [[8, 4]], [[4, 4]], [[2, 4]]]
    # 8-bit weights never meet 4-bit activations: weights have to go first.
    second = space_of(1, weights=(4, 8), activations=(4, 8), forbid=[(8, 4)])
    assert walked(second) == [[[8, 8]], [[4, 8]], [[4, 4]]]


def test_every_state_is_in_the_space():
    space = space_of(4, weights=(2, 4, 8), activations=(2, 4, 8), forbid=[(2, 8), (8, 2), (8, 8)])
    names = [layer.name for layer in space.layers]
    states = walked(space)
    assert len(states) > 4
    assert all(space.contains(BitAllocation(names, *zip(*state, strict=True))) for state in states)


def test_it_starts_where_it_is_told():
    space = space_of(2)
    start = space.uniform(4).replace("conv0", weight=2)
    assert walked(space, start) == [
        [[2, 4], [4, 4]],
        [[2, 4], [4, 2]],
        [[2, 4], [2, 2]],
        [[2, 2], [2, 2]],
    ]


# Where it ends


def test_a_start_within_the_limits_stays():
    space = space_of(2)
    start = space.uniform(2, 4)
    assert budget_loop(space, {"bops": (product_costs(2), 16.0)}, start) == start


def test_it_goes_on_until_every_limit_is_met():
    space, bops = space_of(2), product_costs(2)
    weights = np.tile(np.arange(33.0)[:, None] * np.ones(33), (2, 1, 1))
    by_bops = budget_loop(space, {"bops": (bops, 24.0)})
    assert widths_of(by_bops).tolist() == [[4, 4], [4, 2]]
    both = budget_loop(space, {"bops": (bops, 24.0), "weights": (weights, 4.0)})
    assert widths_of(both).tolist() == [[2, 2], [2, 2]]


def test_an_impossible_limit_says_the_smallest_cost():
    with pytest.raises(InfeasibleError, match=r"ends at bops 8.* \(limit 7, smallest achievable 8"):
        budget_loop(space_of(2), {"bops": (product_costs(2), 7.0)})


# As a strategy


def test_with_one_evaluation_the_limits_decide():
    problem = tabular_problem(evaluations=1, limits={"energy": 0.7})
    BudgetLoop().run(problem)
    (only,) = problem.history
    energy = problem.layer_costs("energy")
    assert only.allocation == budget_loop(problem.space, {"energy": (energy, 0.7)})


def test_all_limits_hold_at_once():
    free = tabular_problem()
    limits = {"energy": 0.8, "size": free.price(free.space.uniform(4), "size")}
    problem = tabular_problem(evaluations=100, limits=limits)
    BudgetLoop().run(problem)
    assert problem.history
    assert all(problem.within(m) for m in problem.history)
    named = {name: (problem.layer_costs(name), limit) for name, limit in limits.items()}
    assert problem.history[0].allocation == budget_loop(problem.space, named)


def test_the_targets_span_the_costs_and_are_reported():
    whole, few = (tabular_problem(evaluations=n) for n in (100, 3))
    for problem in (whole, few):
        BudgetLoop().run(problem)
    assert whole.history[:3] == few.history
    assert [m.allocation for m in few.history[:2]] == [few.space.uniform(b) for b in (8, 2)]
    middle = few.history[2].energy_vs_w8a8
    assert (
        0.4 < (middle - few.history[1].energy_vs_w8a8) / (1 - few.history[1].energy_vs_w8a8) < 0.6
    )
    asked = [m.allocation for m in whole.history]
    assert len(set(asked)) == len(asked) == len(walked(whole.space))
    targets = few.findings["targets"]
    assert targets["cost"] == "energy"
    for m in few.history:
        target = targets["values"][m.allocation.key]
        assert target == pytest.approx(m.energy_vs_w8a8)
        energy = few.layer_costs("energy")
        assert budget_loop(few.space, {"energy": (energy, target)}) == m.allocation


def test_a_state_that_is_no_cheaper_is_the_end_of_no_target():
    problem = tabular_problem(evaluations=100)
    problem.objectives = (OBJECTIVES["accuracy"], OBJECTIVES["size"])
    BudgetLoop().run(problem)
    # Activations are no part of the size: of the 13 states only lower weights count.
    sizes = [m.size_bytes for m in problem.history]
    assert len(sizes) == len(set(sizes)) == 1 + 2 * 3
    assert problem.findings["targets"]["cost"] == "size"


def test_a_limit_that_only_the_way_down_cannot_meet_says_so():
    # The loop lowers the activations first and cannot have narrow weights with wide activations.
    space = {"layers": synthetic_layers(3), "widths": (2, 8), "forbid": [(2, 2)]}
    free = tabular_problem(**space)
    light = free.price(free.space.uniform(8).replace("conv1", weight=2), "size")
    problem = tabular_problem(**space, limits={"size": light})
    with pytest.raises(InfeasibleError, match=r"ends at size .* \(limit .*, smallest achievable "):
        BudgetLoop().run(problem)
    assert not problem.history


def test_it_has_no_settings_and_no_channels():
    assert build("budget_loop").settings() == {}
    with pytest.raises(SpaceError, match="granularity 'layer'"):
        BudgetLoop().run(tabular_problem(granularity="channel"))
