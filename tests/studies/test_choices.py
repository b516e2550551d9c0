import numpy as np
import pytest

from bitfront.energy import EnergyModel, decision_cost, load_table, usage_energy
from bitfront.models.profile import profile
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, DynamicAllocation, Selector
from bitfront.studies.choices import (
    cascade_usage,
    channel_usage,
    layer_choices,
    mean_shares,
    static_choices,
    wide,
)


@pytest.fixture(scope="module")
def energy():
    layers = profile(build_model("cnn5", classes=10, input_shape=(1, 28, 28)), (1, 28, 28))
    return EnergyModel(load_table("horowitz-45nm"), layers)


@pytest.fixture
def dynamic(energy):
    """Two layers choose among three widths."""
    names = [layer.name for layer in energy.layers]
    members = [
        BitAllocation(names, [8] * len(names), [8, low, low] + [8] * (len(names) - 3))
        for low in (2, 4, 8)
    ]
    selectors = tuple(Selector(x.name, "activation", x.in_channels, 16) for x in energy.layers[1:3])
    return DynamicAllocation("channels", tuple(members), selectors)


def chosen(dynamic, inputs, seed=0):
    rng = np.random.default_rng(seed)
    return {
        (s.layer, s.operand): rng.integers(0, 3, (inputs, s.channels)).astype(np.uint8)
        for s in dynamic.selectors
    }


def test_shares_are_counted(dynamic):
    first, second = dynamic.selectors
    told = {
        (first.layer, "activation"): np.zeros((2, first.channels), np.uint8),
        (second.layer, "activation"): np.full((2, second.channels), 2, np.uint8),
    }
    told[first.layer, "activation"][1, : first.channels // 2] = 1
    layers = layer_choices(dynamic, told, 2)
    np.testing.assert_array_equal(layers[1][1], [2, 4, 8])
    np.testing.assert_array_equal(layers[1][2], [[1, 0, 0], [0.5, 0.5, 0]])
    assert mean_shares(layers)[0] == ((8, 8, 1.0),)
    assert mean_shares(layers)[1] == ((8, 2, 0.75), (8, 4, 0.25), (8, 8, 0.0))
    expected = second.channels / (first.channels + second.channels)
    np.testing.assert_allclose(wide(told, dynamic), expected)


def test_heads_pair_both_operands():
    names = ["qk"]
    members = tuple(BitAllocation(names, [w], [w]) for w in (4, 8))
    selectors = (Selector("qk", "activation", 2, 8), Selector("qk", "weight", 2, 8))
    dynamic = DynamicAllocation("channels", members, selectors)
    told = {
        ("qk", "activation"): np.array([[0, 1], [1, 1]], np.uint8),
        ("qk", "weight"): np.array([[0, 1], [0, 1]], np.uint8),
    }
    ((weights, activations, shares),) = layer_choices(dynamic, told, 2)
    named = list(zip(weights.tolist(), activations.tolist(), strict=True))
    assert named == [(4, 4), (4, 8), (8, 4), (8, 8)]
    # Heads meet themselves only: 4 with 4 and 8 with 8 in the first input.
    np.testing.assert_array_equal(shares, [[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5]])


def test_mean_and_spread_of_energies(energy, dynamic):
    told, right = chosen(dynamic, 30), np.arange(30) % 3 > 0
    used = channel_usage(energy, dynamic, told, right, np.arange(30.0))
    mean = sum(group.energy * group.inputs for group in used.terciles) / 30
    assert mean == pytest.approx(usage_energy(energy, used) / energy.w8a8)
    assert used.deciding == pytest.approx(decision_cost(energy, dynamic) / energy.w8a8)
    assert [group.inputs for group in used.terciles] == [10, 10, 10]
    assert [group.entropy for group in used.terciles] == [4.5, 14.5, 24.5]
    assert used.terciles[0].accuracy == pytest.approx(right[:10].mean())
    assert 0 < used.energy_std < used.energy_quantiles[-1] - used.energy_quantiles[0]


def test_a_static_choice_has_the_shares_of_the_mean(energy, dynamic):
    told = chosen(dynamic, 200)
    constant = static_choices(told, dynamic)
    for slot, rows in told.items():
        for level in (1, 2):
            assert (constant[slot] >= level).sum() == round((rows >= level).mean(axis=0).sum())
    # Who is wide most often stays wide, whatever it is otherwise: by rows, 2 of 3 in the first.
    slot, rows = ("x", "activation"), np.zeros((5, 3), np.uint8)
    rows[:3, 0], rows[:4, 1:] = 2, 1
    assert static_choices({slot: rows}, dynamic)[slot].tolist() == [2, 1, 0]
    # A channel that gets a width in every input keeps it.
    slot = next(iter(told))
    told[slot][:, 0] = 2
    assert static_choices(told, dynamic)[slot][0] == 2


def test_a_cascade_counts_its_members(energy):
    members = tuple(BitAllocation.uniform(energy.layers, w) for w in (3, 4, 8))
    dynamic = DynamicAllocation(
        "cascade", members, thresholds=(0.9, 0.6), temperatures=(1.0, 1.0), classes=10
    )
    answered = np.array([0, 1, 2, 2])
    ran = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=bool)
    right = np.array([True, True, False, True])
    used = cascade_usage(energy, dynamic, answered, ran, right, np.array([3.0, 1.0, 2.0, 4.0]))
    assert used.ran == (1.0, 0.5, 0.5) and used.answered == (0.25, 0.25, 0.5)
    assert used.decisions == 1.5
    assert used.shares[0] == ((3, 3, 1.0), (4, 4, 0.5), (8, 8, 0.5))
    low, mid, high = map(energy.energy, members)
    assert used.member_energies == pytest.approx([e / energy.w8a8 for e in (low, mid, high)])
    cost = decision_cost(energy, dynamic)
    expected = (low + 0.5 * mid + 0.5 * high + 1.5 * cost) / energy.w8a8
    assert usage_energy(energy, used) / energy.w8a8 == pytest.approx(expected)
    mean = sum(group.energy * group.inputs for group in used.terciles) / 4
    assert mean == pytest.approx(expected)
    assert [group.wide_share for group in used.terciles] == [0.5, 0.0, 1.0]
