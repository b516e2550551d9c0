"""Learned widths to allocations: against formulas, enumeration and the true optimum."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import rounding
from bitfront.searchers.additive import AdditiveModel
from bitfront.searchers.pricing import Pricing, is_within
from bitfront.searchers.rounding import implied_losses, nearest, within
from bitfront.searchers.synthetic import synthetic_layers
from bitfront.spaces import (
    BitAllocation,
    BitSpace,
    EnergyTableError,
    InfeasibleError,
    Layer,
    StudyError,
)

TIES = ([], ["weights=activations"], [["conv1.weight", "conv2.weight"], ["conv0", "conv3"]])


def space_of(layers, **options):
    return BitSpace.build(layers, **{"first_last": None, **options})


def pricing_of(layers, table="eqat-glsvlsi25"):
    return Pricing(EnergyModel(load_table(table), layers))


LAYERS = synthetic_layers(4)
PRICING = pricing_of(LAYERS)


@st.composite
def networks(draw, most=8):
    """Linear layers of very different sizes."""
    sizes = draw(st.lists(st.integers(2, 200), min_size=3, max_size=most))
    return tuple(
        Layer(
            name=f"fc{i}",
            kind="linear",
            macs=size * 10,
            weight_count=size * 10,
            bias_count=0,
            input_count=size,
            output_count=10,
            in_channels=size,
            out_channels=10,
        )
        for i, size in enumerate(sizes)
    )


def learned(rng, space):
    """Return real widths that tied operands share."""
    bits = np.empty((2, len(space.layers)))
    for variable in space.variables:
        value = rng.uniform(variable.choices[0], variable.choices[-1])
        for slot in variable.slots:
            bits[int(slot.operand == "activation"), slot.layer] = value
    return bits


def of_allocation(allocation):
    return np.array([allocation.weights, allocation.activations], dtype=float)


def closed_form(layer, w, a):
    """Slopes of the energy ``MACs w a + weights w + data a`` by the two widths."""
    data = layer.input_count + layer.output_count
    own = layer.weight_count + layer.bias_count
    return layer.macs * a + own, layer.macs * w + data


def price_of_real(costs, bits):
    """Return the price of real widths from 2 to 8, interpolated."""
    at = np.arange(2, 9)
    return sum(
        float(np.interp(w, at, [np.interp(a, at, row[2:9]) for row in table[2:9]]))
        for table, w, a in zip(costs, *bits, strict=True)
    )


# What widths imply


def test_the_implied_loss_is_that_at_which_the_gradients_cancel():
    costs = PRICING.energy.layer_costs
    w, a = np.array([3.3, 4.0, 5.5, 6.2]), np.array([6.1, 4.5, 3.0, 5.9])
    losses = implied_losses(space_of(LAYERS), costs, w, a)
    for i, layer in enumerate(LAYERS):
        by_w, by_a = closed_form(layer, w[i], a[i])
        for pair in [(2, 8), (5, 3), (7, 7)]:
            expected = by_w * 4 ** (w[i] - pair[0]) + by_a * 4 ** (a[i] - pair[1])
            assert losses[i][pair] == pytest.approx(expected / math.log(4), rel=1e-9)


def test_tied_operands_imply_the_loss_of_both_together():
    space = space_of(LAYERS, ties=["weights=activations"])
    q = np.array([3.25, 4.0, 5.5, 6.0])
    losses = implied_losses(space, PRICING.energy.layer_costs, q, q)
    for i, layer in enumerate(LAYERS):
        for bits in (2, 5, 8):
            expected = sum(closed_form(layer, q[i], q[i])) * 4 ** (q[i] - bits) / math.log(4)
            assert losses[i, bits, bits] == pytest.approx(expected, rel=1e-9)


def test_pinned_operands_imply_nothing():
    space = space_of(LAYERS, pins={"conv1": {"weight": 32, "activation": 8}})
    bits = np.full(4, 5.0)
    bits[1] = 32
    losses = implied_losses(space, PRICING.energy.layer_costs, bits, np.array([5.0, 8.0, 5.0, 5.0]))
    assert losses[1, 32, 8] < 1e-6 * losses[0, 5, 5]


def test_a_width_held_by_an_end_of_its_range_is_taken_for_one_beyond():
    costs = PRICING.energy.layer_costs

    def ratio(at, pair=(4, 4)):
        """Loss over the closed form at the width itself, of the weights of the first layer."""
        w = np.array([at, 4.0, 4.0, 4.0])
        losses = implied_losses(space_of(LAYERS), costs, w, np.full(4, 5.0))
        by_w, by_a = closed_form(LAYERS[0], at, 5.0)
        plain = by_w * 4 ** (at - pair[0]) / math.log(4)
        return (losses[0][pair] - by_a * 4 ** (5.0 - pair[1]) / math.log(4)) / plain

    assert ratio(7.5) == pytest.approx(1)
    assert ratio(2.5) == pytest.approx(1)
    assert ratio(7.75) == pytest.approx(2)
    assert ratio(8.0) == pytest.approx(4)
    assert ratio(2.25) == pytest.approx(1 / 2, rel=1e-6)
    assert ratio(2.0) == pytest.approx(1 / 4, rel=1e-6)


def test_bits_that_cost_nothing_are_still_worth_having():
    costs = np.zeros((4, 33, 33))
    costs += np.arange(33)[:, None]  # activations are free
    losses = implied_losses(space_of(LAYERS), costs, np.full(4, 5.0), np.full(4, 5.0))
    assert (np.diff(losses[:, 5, 2:9], axis=1) < 0).all()


def test_slopes_are_interpolated_where_a_table_has_few_widths():
    costs = np.full((4, 33, 33), np.nan)
    for w in (2, 4, 8):
        for a in (2, 8):
            costs[:, w, a] = w * a
    space = space_of(LAYERS, weights=[2, 4, 8], activations=[2, 8])
    losses = implied_losses(space, costs, np.full(4, 5.0), np.full(4, 5.0))
    assert losses[0, 4, 2] == pytest.approx(5 * (4**1 + 4**3) / math.log(4))
    costs[:, :, 2] = np.nan
    with pytest.raises(EnergyTableError, match=r"what a bit of conv0.weight costs at 5.00 bits"):
        implied_losses(space, costs, np.full(4, 5.0), np.full(4, 5.0))


# Within limits


@given(networks(), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=25)
def test_the_budget_is_kept_and_nothing_more_fits_in(layers, seed, tied):
    rng = np.random.default_rng(seed)
    space = space_of(layers, ties=["weights=activations"] if tied else [])
    pricing = pricing_of(layers)
    lowest = pricing.smallest(space, "energy")
    budget = lowest + (1 - lowest) * rng.uniform(0.05, 0.95)
    found = within(space, pricing, {"energy": budget}, *learned(rng, space))
    assert space.contains(found.allocation)
    assert found.costs["energy"] == pricing.price(found.allocation)
    assert is_within(found.costs["energy"], budget)
    assert found.shares["energy"] == found.costs["energy"] / budget
    state = of_allocation(found.allocation).astype(int)
    for variable in space.variables:
        raised = state.copy()
        for slot in variable.slots:
            raised[int(slot.operand == "activation"), slot.layer] += 1
        if raised.max() <= 8:
            more = BitAllocation(found.allocation.layers, *raised.tolist())
            assert not is_within(pricing.price(more), budget)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.9))
@settings(deadline=None, max_examples=25)
def test_a_fine_space_leaves_next_to_nothing_of_the_budget(seed, budget):
    layers = synthetic_layers(12)
    space, rng = space_of(layers), np.random.default_rng(seed)
    found = within(space, pricing_of(layers), {"energy": budget}, *learned(rng, space))
    assert 0.97 <= found.shares["energy"] <= 1 + 1e-12


@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(["eqat-glsvlsi25", "horowitz-45nm"]))
@settings(deadline=None, max_examples=25)
def test_whole_widths_that_meet_the_budget_stay(layers, seed, table):
    space, pricing = space_of(layers), pricing_of(layers, table)
    target = space.sample(np.random.default_rng(seed))
    limits = {"energy": pricing.price(target)}
    assert within(space, pricing, limits, *of_allocation(target)).allocation == target


@pytest.mark.parametrize("ties", TIES)
def test_whole_widths_that_meet_the_budget_stay_where_operands_are_tied(ties):
    space = space_of(LAYERS, ties=ties)
    for seed in range(5):
        target = space.sample(np.random.default_rng(seed))
        limits = {"energy": PRICING.price(target)}
        assert within(space, PRICING, limits, *of_allocation(target)).allocation == target


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0.2, 1.0), min_size=2, max_size=2))
@settings(deadline=None, max_examples=20)
def test_a_larger_budget_never_loses_more(seed, budgets):
    space, rng = space_of(LAYERS), np.random.default_rng(seed)
    bits = learned(rng, space)
    tight, loose = (
        within(space, PRICING, {"energy": budget}, *bits).solution.score
        for budget in sorted(budgets)
    )
    assert loose <= tight * (1 + 1e-9)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_a_loss_that_is_as_assumed_is_rounded_to_nearly_its_optimum(seed):
    """Widths at which the gradients cancel, some of them held by an end of their range."""
    layers = synthetic_layers(6)
    space, pricing = space_of(layers), pricing_of(layers)
    sensitivity = 10 ** np.random.default_rng(seed).uniform(-3, 3, (2, 6))
    at = np.arange(33)
    true = sensitivity[0][:, None, None] * 4.0 ** -at[:, None]
    true = true + sensitivity[1][:, None, None] * 4.0 ** -at[None, :]
    costs = pricing.layer_costs()
    uniform = sum(np.array(closed_form(x, 0, 0)).sum() * 8 + x.macs * 64 for x in layers)
    for beta in (0.01, 0.1, 1.0):
        bits = np.full((2, 6), 5.0)
        for _ in range(200):  # a_i 4^-q_i ln 4 = beta dE/dq_i, to its fixed point
            slopes = (
                np.array([closed_form(x, *bits[:, i]) for i, x in enumerate(layers)]).T / uniform
            )
            bits = np.clip(np.log(sensitivity * math.log(4) / beta / slopes) / math.log(4), 2, 8)
        budget = price_of_real(costs, bits)
        found = within(space, pricing, {"energy": budget}, *bits)
        model = AdditiveModel(space, true)
        best = model.solve({"energy": (costs, budget)})
        assert model.predict(found.allocation) <= 1.03 * best.score


def test_all_limits_hold_at_once():
    space = space_of(LAYERS)
    limits = {"energy": 0.6, "size": PRICING.price(space.uniform(4), "size")}
    found = within(space, PRICING, limits, [8.0] * 4, [3.0] * 4)
    assert PRICING.allows(found.allocation, limits)
    assert set(found.shares) == set(limits)
    assert found.solution.status == "optimal"


def test_forbidden_pairs_and_pins_hold():
    space = space_of(LAYERS, forbid=[(5, 5), (4, 5)], pins={"conv2": {"weight": 8}})
    found = within(space, PRICING, {"energy": 0.5}, [5.0, 5.0, 8.0, 5.0], [5.0] * 4)
    assert space.contains(found.allocation)


def test_measured_scores_take_the_place_of_implied_ones():
    space = space_of(LAYERS)
    scores = np.fromfunction(lambda i, w, a: 100.0 * (i == 2) * -(w + a) - w - a, (4, 33, 33))
    found = within(space, PRICING, {"energy": 0.5}, [2.0] * 4, [2.0] * 4, scores=scores)
    assert (found.allocation.weights[2], found.allocation.activations[2]) == (8, 8)
    best = AdditiveModel(space, scores).solve({"energy": (PRICING.layer_costs(), 0.5)})
    assert found.solution.score == best.score


def test_a_budget_below_everything_and_none_at_all_are_refused():
    with pytest.raises(InfeasibleError, match="smallest achievable"):
        within(space_of(LAYERS), PRICING, {"energy": 0.001}, [5.0] * 4, [5.0] * 4)
    with pytest.raises(StudyError, match="within limits, got none"):
        within(space_of(LAYERS), PRICING, {}, [5.0] * 4, [5.0] * 4)


def test_the_nearest_allocation_is_that_of_the_space():
    assert nearest is rounding.nearest
    space = space_of(LAYERS, weights=[2, 4, 8])
    near = nearest(space, [2.9, 3.1, 5.9, 6.1], [2.2, 3.6, 7.5, 7.4])
    assert (near.weights, near.activations) == ((2, 4, 4, 8), (2, 4, 8, 7))
