"""Learned widths against closed forms and finite differences, under every table shipped."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.energy import (
    EnergyEvidenceWarning,
    EnergyModel,
    EnergyOptions,
    load_table,
    table_names,
    variant_names,
)
from bitfront.models.qat.widths import SigmoidWidths, SoftmaxWidths
from bitfront.searchers.synthetic import synthetic_layers
from bitfront.spaces import BitAllocation, BitSpace, EnergyTableError, Layer, SpaceError

LAYERS = synthetic_layers(4)
NAMES = [layer.name for layer in LAYERS]
TIES = ([], ["weights=activations"], [["conv1.weight", "conv2.weight"], ["conv1", "conv3"]])
TABLES = [
    table
    for name in table_names()
    for table in (name, *(f"{name}:{variant}" for variant in variant_names(name)))
]


def free(**options):
    return BitSpace.build(LAYERS, **{"first_last": None, **options})


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def model(table, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyEvidenceWarning)
        loaded = load_table(table)
        return EnergyModel(loaded, layers_for(loaded), options=EnergyOptions(**options))


def layers_for(table):
    """The synthetic network, or for a table of rows the network it is of."""
    if table.rows is None:
        return LAYERS
    return tuple(
        Layer(
            name=row.layer,
            kind="conv",
            macs=row.macs or 1000,
            weight_count=10,
            bias_count=0,
            input_count=10,
            output_count=10,
            in_channels=1,
            out_channels=1,
        )
        for row in table.rows.layers
    )


def learnable(priced):
    """Return a space of what a table prices, of at most 8 bits."""
    known = ~np.isnan(priced.layer_costs[:, :9, :9]).any(axis=0)
    weights, activations = (np.flatnonzero(known.any(axis=axis)).tolist() for axis in (1, 0))
    return BitSpace.build(priced.layers, weights=weights, activations=activations, first_last=None)


# One real width per operand


def test_widths_start_at_the_initial_bits():
    widths = SigmoidWidths(free(), 7.5)
    for bits in widths():
        np.testing.assert_allclose(bits.detach(), 7.5, rtol=1e-6)
    assert widths.theta.shape == (8,)
    assert [*widths.state_dict()] == ["theta"]
    assert widths.theta[0].item() == pytest.approx(math.log(11), rel=1e-5)  # s = 11 / 12


def test_a_start_outside_of_the_range_is_within_it():
    widths = SigmoidWidths(free(weights=[2, 3, 4], activations=[2, 8]), 7.5)
    weight, activation = widths.bits()
    np.testing.assert_allclose(weight, 3.9, rtol=1e-6)
    np.testing.assert_allclose(activation, 7.5, rtol=1e-6)
    weight, _ = SigmoidWidths(free(), 2.0).bits()
    np.testing.assert_allclose(weight, 2.3, rtol=1e-6)
    with pytest.raises(SpaceError, match="initial_bits must be a number of bits, got nan"):
        SigmoidWidths(free(), math.nan)


@given(theta=st.floats(-8, 8), choices=st.sampled_from([(2, 8), (3, 5, 6), (4, 8)]))
@settings(deadline=None, max_examples=30)
def test_the_gradient_of_a_width_has_its_closed_form(theta, choices):
    widths = SigmoidWidths(free(weights=choices)).double()
    widths.theta.data.fill_(theta)
    weight, _ = widths()
    weight.sum().backward()
    low, high = choices[0], choices[-1]
    s = sigmoid(theta)
    np.testing.assert_allclose(weight.detach(), low + (high - low) * s, rtol=1e-12)
    is_weight = [v.slots[0].operand == "weight" for v in widths.learned]
    np.testing.assert_allclose(
        widths.theta.grad, np.where(is_weight, (high - low) * s * (1 - s), 0.0), rtol=1e-9
    )


@pytest.mark.parametrize("ties", TIES)
def test_widths_are_differentiable_through_ties_and_pins(ties):
    space = free(ties=ties, pins={"conv0": {"weight": 8, "activation": 8}})
    widths = SigmoidWidths(space).double()
    start = torch.linspace(-2, 2, len(widths.theta), dtype=torch.float64, requires_grad=True)

    def of(theta):
        return torch.func.functional_call(widths, {"theta": theta}, ())

    assert torch.autograd.gradcheck(of, (start,))


def test_pins_are_constants_and_float_ones_too():
    pins = {"conv1": {"weight": 32}, "conv2": {"activation": 4}}
    widths = SigmoidWidths(BitSpace.build(LAYERS, pins=pins))
    weight, activation = widths()
    assert len(widths.theta) == 2
    assert weight.tolist() == pytest.approx([8, 32, 7.5, 8])
    assert activation.tolist() == pytest.approx([8, 7.5, 4, 8])
    assert widths.rounded() == BitAllocation(NAMES, [8, 32, 8, 8], [8, 8, 4, 8])
    assert widths.straight_through()[0].tolist() == [8, 32, 8, 8]


def test_a_space_without_a_choice_has_constant_widths():
    space = free(weights=[4], activations=[8])
    for widths in (SigmoidWidths(space), SoftmaxWidths(space)):
        weight, activation = widths()
        assert (weight.tolist(), activation.tolist()) == ([4.0] * 4, [8.0] * 4)
        assert widths.rounded() == space.uniform(4, 8)
    assert SigmoidWidths(space).straight_through()[0].tolist() == [4.0] * 4


def test_tied_operands_share_their_width_and_its_gradient():
    widths = SigmoidWidths(free(ties=["weights=activations"])).double()
    assert len(widths.theta) == 4
    widths.theta.data = torch.tensor([-1.0, 0.0, 1.0, 2.0]).double()
    weight, activation = widths()
    assert torch.equal(weight, activation)
    (weight.sum() + 2 * activation.sum()).backward()
    s = torch.sigmoid(widths.theta.detach())
    np.testing.assert_allclose(widths.theta.grad, 3 * 6 * s * (1 - s), rtol=1e-12)


@pytest.mark.parametrize("kind", [SigmoidWidths, SoftmaxWidths])
def test_only_widths_of_at_most_8_bits_are_learned(kind):
    with pytest.raises(SpaceError, match=r"at most 8 bits: conv0.activation may be 4, 8, 16 bits"):
        kind(free(activations=[4, 8, 16]))
    kind(free(pins={"*": {"weight": 32, "activation": 16}}))
    with pytest.raises(SpaceError, match="granularity 'layer', got 'channel'"):
        kind(free(granularity="channel"))


# Rounding


@given(st.lists(st.floats(-6, 6), min_size=8, max_size=8), st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_rounded_widths_pass_the_gradient_straight_through(theta, forbids):
    space = free(weights=[2, 3, 5, 8], activations=[4, 8], forbid=[(3, 8)] if forbids else [])
    widths = SigmoidWidths(space)
    widths.theta.data = torch.tensor(theta)
    real, whole = widths(), widths.straight_through()
    rounded = widths.rounded()
    assert space.contains(rounded)
    assert whole[0].tolist() == list(rounded.weights)
    assert whole[1].tolist() == list(rounded.activations)
    (through,) = torch.autograd.grad(whole[0].sum() + whole[1].square().sum(), widths.theta)
    factor = 2 * whole[1].detach()
    (plain,) = torch.autograd.grad(real[0].sum() + (factor * real[1]).sum(), widths.theta)
    assert torch.equal(through, plain)


def test_frozen_widths_are_constant():
    space = free()
    target = space.uniform(3, 5)
    for widths in (SigmoidWidths(space), SoftmaxWidths(space)):
        widths.freeze(target)
        weight, activation = widths()
        assert (weight.tolist(), activation.tolist()) == ([3.0] * 4, [5.0] * 4)
        assert not weight.requires_grad
        assert not any(p.requires_grad for p in widths.parameters())
        assert widths.rounded() == target
    sigmoid_widths = SigmoidWidths(space)
    sigmoid_widths.freeze(target)
    assert sigmoid_widths.straight_through()[1].tolist() == [5.0] * 4
    with pytest.raises(SpaceError):
        SigmoidWidths(space).freeze(BitAllocation(NAMES, [16] * 4, [8] * 4))


def test_the_parameters_survive_a_state_dict():
    space = free()
    widths, other = SigmoidWidths(space), SigmoidWidths(space)
    widths.theta.data = torch.randn(8, generator=torch.manual_seed(0))
    other.load_state_dict(widths.state_dict())
    assert torch.equal(other()[0], widths()[0])


# Energy


def test_the_energy_gradient_is_equation_20():
    priced = model("eqat-glsvlsi25", mac_scale=3, memory_scale=5)
    widths = SigmoidWidths(free(ties=["weights=activations"])).double()
    theta = torch.tensor([-2.0, -0.5, 0.5, 2.0]).double()
    widths.theta.data = theta
    energy = widths.energy(priced.price_torch, priced.w8a8)
    energy.backward()
    macs = np.array([3.0 * layer.macs for layer in LAYERS])
    data = np.array(
        [5.0 * (x.weight_count + x.bias_count + x.input_count + x.output_count) for x in LAYERS]
    )
    s = torch.sigmoid(theta).numpy()
    q = 2 + 6 * s
    uniform = (macs * 64 + data * 8).sum()
    assert energy.item() == pytest.approx((macs * q**2 + data * q).sum() / uniform, rel=1e-12)
    by_width = (2 * macs * q + data) / uniform
    np.testing.assert_allclose(widths.theta.grad, by_width * 6 * s * (1 - s), rtol=1e-12)


def test_the_energy_gradient_of_both_widths_has_its_closed_form():
    priced = model("eqat-glsvlsi25")
    widths = SigmoidWidths(free()).double()
    widths.theta.data = torch.linspace(-2, 2, 8, dtype=torch.float64)
    weight, activation = widths()
    by_weight, by_activation = (
        torch.autograd.grad(
            widths.energy(lambda *bits: priced.price_torch(*bits)), widths.theta, retain_graph=True
        )[0]
        .reshape(4, 2)
        .T
    )
    macs = np.array([float(layer.macs) for layer in LAYERS])
    own = np.array([float(x.weight_count + x.bias_count) for x in LAYERS])
    moved = np.array([float(x.input_count + x.output_count) for x in LAYERS])
    w, a = weight.detach().numpy(), activation.detach().numpy()
    np.testing.assert_allclose(by_weight, (macs * a + own) * (w - 2) * (8 - w) / 6, rtol=1e-9)
    np.testing.assert_allclose(by_activation, (macs * w + moved) * (a - 2) * (8 - a) / 6, rtol=1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_the_energy_gradient_is_the_finite_difference_under_every_table(table):
    priced = model(table)
    space = learnable(priced)
    assert space.genes == 2 * len(priced.layers)
    widths = SigmoidWidths(space).double()
    rng = np.random.default_rng(0)
    # Between whole widths, and no operand as wide as the other: away from every kink.
    for row, variable in enumerate(widths.learned):
        choices, offset = variable.choices, 0.2 if variable.slots[0].operand == "weight" else 0.7
        at = rng.integers(choices[0], choices[-1]) + offset + rng.uniform(0, 0.1)
        widths.theta.data[row] = math.log((at - choices[0]) / (choices[-1] - at))
    start = widths.theta.detach().clone()
    energy = widths.energy(priced.price_torch, divisor := float(np.nanmax(priced.layer_costs)))
    energy.backward()
    slopes = widths.theta.grad
    assert (slopes >= -1e-12).all()
    step = 1e-5
    for row in range(min(len(start), 8)):
        ends = []
        for sign in (-1, 1):
            widths.theta.data = start.clone()
            widths.theta.data[row] += sign * step
            ends.append(widths.energy(priced.price_torch, divisor).item())
        slope = (ends[1] - ends[0]) / (2 * step)
        scale = float(slopes.abs().max())
        assert slope == pytest.approx(slopes[row].item(), rel=1e-5, abs=1e-6 * scale + 1e-9)


def test_the_energy_at_whole_widths_is_the_price():
    priced = model("horowitz-45nm")
    widths = SigmoidWidths(free())
    target = BitAllocation(NAMES, [2, 4, 8, 5], [8, 3, 2, 6])
    widths.freeze(target)
    energy = widths.energy(priced.price_torch, priced.w8a8)
    assert energy.item() == pytest.approx(priced.energy(target) / priced.w8a8, rel=1e-6)
    assert energy.dtype == torch.float32


# Distributions


@pytest.mark.parametrize("ties", TIES)
def test_the_expected_energy_is_that_of_drawing_every_variable(ties):
    space = free(weights=[2, 4, 8], activations=[2, 4, 8], ties=ties, pins={"conv0": {"weight": 4}})
    if ties:
        space = free(weights=[2, 4, 8], activations=[2, 4, 8], ties=ties)
    widths = SoftmaxWidths(space).double()
    widths.logits.data = torch.randn(
        widths.logits.shape, generator=torch.manual_seed(1), dtype=torch.float64
    )
    rng = np.random.default_rng(0)
    costs = rng.random((4, 33, 33))
    expected = widths.energy(costs, 2.0).item()

    weight, activation = (p.detach().numpy() for p in widths.probabilities())
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    np.testing.assert_allclose(activation.sum(axis=1), 1)
    total = 0.0
    for layer in range(4):
        for w in space.weight_choices(layer):
            for a in space.activation_choices(layer):
                if ties == ["weights=activations"]:
                    chance = weight[layer, w] * (w == a)
                else:
                    chance = weight[layer, w] * activation[layer, a]
                total += chance * costs[layer, w, a]
    assert expected == pytest.approx(total / 2, rel=1e-9)


def test_the_expected_energy_is_differentiable():
    widths = SoftmaxWidths(free(weights=[2, 5], activations=[4, 6, 8])).double()
    costs = np.random.default_rng(0).random((4, 33, 33))
    start = torch.randn(
        widths.logits.shape,
        generator=torch.manual_seed(0),
        dtype=torch.float64,
        requires_grad=True,
    )

    class Priced(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.widths = widths

        def forward(self):
            return self.widths.energy(costs)

    def of(logits):
        return torch.func.functional_call(Priced(), {"widths.logits": logits}, ())

    assert torch.autograd.gradcheck(of, (start,))


def test_all_choices_are_as_probable_at_first():
    widths = SoftmaxWidths(free(weights=[2, 4], activations=[8], pins={"conv1": {"weight": 32}}))
    weight, activation = widths.probabilities()
    assert weight.shape == activation.shape == (4, 33)
    assert weight[0].nonzero()[:, 0].tolist() == [2, 4]
    assert weight[0, 2].item() == 0.5
    assert weight[1, 32].item() == activation[2, 8].item() == 1
    assert widths()[0].tolist() == [3, 32, 3, 3]


def test_the_most_probable_widths_are_taken_and_the_wider_of_two_as_probable():
    space = free(weights=[2, 4, 8], activations=[2, 4, 8])
    widths = SoftmaxWidths(space)
    assert widths.rounded() == space.uniform(8)
    widths.logits.data[:, 4] = 1.0
    assert widths.rounded() == space.uniform(4)


def test_forbidden_pairs_leave_the_most_probable_allowed_one():
    space = free(weights=[2, 8], activations=[2, 8], forbid=[(2, 2)])
    widths = SoftmaxWidths(space)
    widths.logits.data[:, 2] = 1.0
    for row, variable in enumerate(widths.learned):  # of the two, the weights insist
        if variable.slots[0].operand == "weight":
            widths.logits.data[row, 2] = 3.0
    assert widths.rounded() == space.uniform(2, 8)


def test_a_pair_without_a_price_is_named():
    widths = SoftmaxWidths(free(weights=[4, 8], activations=[4, 8]))
    costs = np.ones((4, 33, 33))
    costs[2, 4, 8] = np.nan
    with pytest.raises(EnergyTableError, match="'conv2' with weights of 4 and activations of 8"):
        widths.energy(costs)
    costs[2, 4, 8], costs[2, 5, 5] = 1, np.nan  # not offered
    assert widths.energy(costs).item() == pytest.approx(4)
