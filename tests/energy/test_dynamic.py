import math

import numpy as np
import pytest

from bitfront.energy import (
    EnergyModel,
    EnergyOptions,
    decision_cost,
    input_energies,
    load_table,
    selector_costs,
    usage_costs,
    usage_energy,
)
from bitfront.spaces import (
    BitAllocation,
    DynamicAllocation,
    EnergyTableError,
    Layer,
    Selector,
    Usage,
)


def layerwise(layers, weight, activation):
    return BitAllocation([layer.name for layer in layers], weight, activation)


@pytest.fixture
def dynamic(small_network):
    """All layers but the first choose between 4 and 8 bits."""
    count = len(small_network)
    low = layerwise(small_network, [8] * count, [8] + [4] * (count - 1))
    return DynamicAllocation(
        "channels",
        (low, BitAllocation.uniform(small_network, 8)),
        tuple(Selector(x.name, "activation", x.in_channels, 16) for x in small_network[1:]),
    )


def used(dynamic, *members, **changes):
    """A usage with equal parts of the members."""
    share = 1 / len(members)
    shares = tuple(
        tuple((int(m.weights[i]), int(m.activations[i]), share) for m in members)
        for i in range(len(dynamic.layers))
    )
    return Usage(dynamic, 1, shares, **changes)


@pytest.mark.parametrize("table", ["horowitz-45nm", "composite-45nm", "eyeriss", "ptq-psu25"])
@pytest.mark.parametrize("member", [0, 1])
def test_with_all_gates_alike_it_is_the_static_energy_and_the_selectors(
    small_network, dynamic, table, member
):
    energy = EnergyModel(load_table(table), small_network)
    allocation = dynamic.members[member]
    selectors = math.fsum(selector_costs(energy, dynamic.selectors))
    assert selectors > 0
    total = usage_energy(energy, used(dynamic, allocation))
    assert total == pytest.approx(energy.energy(allocation) + selectors, rel=1e-14)
    costs, static = usage_costs(energy, used(dynamic, allocation)), energy.costs(allocation)
    assert costs.energy == total and costs.energy_vs_w8a8 == total / energy.w8a8
    macs = sum(selector.macs for selector in dynamic.selectors)
    assert costs.bops == static.bops + 64 * macs
    assert costs.mean_weight_bits == pytest.approx(static.mean_weight_bits)
    assert costs.mean_activation_bits == pytest.approx(static.mean_activation_bits)
    stored = sum(8 * s.weight_count + 32 * s.bias_count for s in dynamic.selectors)
    # Each is rounded up to whole bytes.
    assert 0 <= costs.size_bytes - static.size_bytes - stored / 8 < 1


def test_energy_is_linear_in_what_was_chosen(small_network, dynamic):
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    low, high = dynamic.members
    both = usage_energy(energy, used(dynamic, low, high))
    alone = [usage_energy(energy, used(dynamic, member)) for member in dynamic.members]
    assert both == pytest.approx(np.mean(alone))
    # Half of the channels of every layer at 4 bits, as a static allocation by channel.
    halves = BitAllocation(
        low.layers,
        low.weights,
        [8]
        + [
            [4] * (x.in_channels // 2) + [8] * (x.in_channels - x.in_channels // 2)
            for x in small_network[1:]
        ],
    )
    if all(x.in_channels % 2 == 0 for x in small_network[1:]):
        assert energy.price(halves).total == pytest.approx(both - decision_cost(energy, dynamic))


def test_energies_of_inputs(small_network, dynamic):
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    choices = [(np.array([8]), np.array([8]), np.ones((2, 1)))] + [
        (np.array([8, 8]), np.array([4, 8]), np.array([[1.0, 0.0], [0.25, 0.75]]))
    ] * (len(small_network) - 1)
    low, mixed = input_energies(energy, dynamic, choices) * energy.w8a8
    assert low == pytest.approx(usage_energy(energy, used(dynamic, dynamic.members[0])))
    ends = [usage_energy(energy, used(dynamic, member)) for member in dynamic.members]
    assert mixed == pytest.approx(0.25 * ends[0] + 0.75 * ends[1])
    free = input_energies(energy, dynamic, choices, 0.0) * energy.w8a8
    assert free[0] == pytest.approx(energy.energy(dynamic.members[0]))


def test_selectors_leave_values_on_the_chip(small_network):
    """In a table of DRAM only, looking at more values costs arithmetic and nothing else."""
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    few, many = selector_costs(
        energy, [Selector("x", "activation", 10, 1), Selector("x", "activation", 10, 101)]
    )
    per_mac = 0.2 + 0.1  # pJ: an 8-bit multiplication, and a 32-bit addition
    assert many - few == pytest.approx(10 * 4 * 100 * per_mac)


def test_own_networks_of_channels_cost_more_than_a_shared_one(small_network):
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    shared, own = selector_costs(
        energy,
        [Selector("x", "activation", 64, 16, shared=shared) for shared in (True, False)],
    )
    assert own > 5 * shared


def cascade_of(layers, *widths, classes=10):
    members = tuple(BitAllocation.uniform(layers, width) for width in widths)
    return DynamicAllocation(
        "cascade",
        members,
        thresholds=(0.9, 0.6)[: len(members) - 1],
        temperatures=(1.0,) * (len(members) - 1),
        classes=classes,
    )


def test_a_cascade_costs_what_was_run(small_network):
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    dynamic = cascade_of(small_network, 4, 8)
    usage = Usage(
        dynamic,
        100,
        tuple(((4, 4, 1.0), (8, 8, 0.3)) for _ in small_network),
        ran=(1.0, 0.3),
        answered=(0.7, 0.3),
    )
    low, high = map(energy.energy, dynamic.members)
    cost = decision_cost(energy, dynamic)
    assert cost == pytest.approx(2 * 10 * (0.2 + 0.1))
    assert usage_energy(energy, usage) == pytest.approx(low + 0.3 * high + cost)
    costs = usage_costs(energy, usage)
    assert costs.mean_weight_bits == pytest.approx((4 + 0.3 * 8) / 1.3)
    sizes = [energy.costs(member).size_bytes for member in dynamic.members]
    assert max(sizes) < costs.size_bytes < sum(sizes)  # biases once


def test_a_cascade_stores_each_width_once(small_network):
    energy = EnergyModel(load_table("horowitz-45nm"), small_network)
    two = cascade_of(small_network, 4, 6)
    uniform4, uniform6 = two.members
    first = small_network[0].name
    three = DynamicAllocation(
        "cascade",
        (uniform4, uniform6, uniform6.replace(first, activation=8)),
        thresholds=(0.9, 0.6),
        temperatures=(1.0, 1.0),
        classes=10,
    )
    back = DynamicAllocation(
        "cascade",
        (uniform4, uniform6, uniform4.replace(first, activation=8)),
        thresholds=(0.9, 0.6),
        temperatures=(1.0, 1.0),
        classes=10,
    )
    sizes = {usage_costs(energy, used(d, d.members[0])).size_bytes for d in (two, three, back)}
    assert len(sizes) == 1


def test_a_table_of_whole_layers_prices_no_selectors():
    table = load_table("hawqv3-t4")
    layers = [
        Layer(row.layer, "conv", row.macs or 1, 1, 0, 1, 1, 1, 1) for row in table.rows.layers
    ]
    energy = EnergyModel(table, layers)
    with pytest.raises(EnergyTableError, match="prices whole layers of one network, and so no sel"):
        selector_costs(energy, [Selector("x", "activation", 64, 16)])
    assert decision_cost(energy, cascade_of(layers, 4, 8)) == 0.0


def test_tiled_traffic_is_linear_between_ends(small_network, dynamic):
    energy = EnergyModel(load_table("eyeriss"), small_network, options=EnergyOptions(reuse="tiled"))
    ends = [usage_energy(energy, used(dynamic, member)) for member in dynamic.members]
    assert usage_energy(energy, used(dynamic, *dynamic.members)) == pytest.approx(np.mean(ends))


def test_a_width_without_a_price_is_named(small_network):
    energy = EnergyModel(load_table("mpic"), small_network)
    dynamic = cascade_of(small_network, 16, 8)
    with pytest.raises(EnergyTableError, match="cannot price layer"):
        usage_energy(energy, used(dynamic, *dynamic.members, ran=(1.0, 0.5)))
