import itertools
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitfront.energy import (
    EnergyEvidenceWarning,
    EnergyModel,
    EnergyOptions,
    EnergyTable,
    Item,
    load_table,
)
from bitfront.spaces import BitAllocation, EnergyTableError, SpaceError

# The fixtures are immutable, so that one may serve all examples.
shared = settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**32 - 1)


def priced_widths(model):
    """Widths that the table supports for both operands."""
    diagonal = np.diagonal(model.layer_costs, axis1=1, axis2=2)
    return np.flatnonzero(~np.isnan(diagonal).any(axis=0)).tolist()


def model(table, layers, **options):
    return EnergyModel(load_table(table), layers, options=EnergyOptions(**options))


def names(layers):
    return [layer.name for layer in layers]


@shared
@given(seed=seeds)
def test_scalar_vectorised_and_torch_agree_for_every_table(any_model, seed):
    rng = np.random.default_rng(seed)
    w, a = rng.choice(priced_widths(any_model), size=(2, 3, len(any_model.layers)))
    many = any_model.price_many(w, a)
    for row in range(3):
        allocation = BitAllocation(names(any_model.layers), w[row].tolist(), a[row].tolist())
        assert any_model.price(allocation).total == pytest.approx(many[row], rel=1e-12)
        assert any_model.energy(allocation) == many[row]
    torched = any_model.price_torch(torch.tensor(w).double(), torch.tensor(a).double())
    np.testing.assert_allclose(torched.numpy(), many, rtol=1e-12)


@pytest.mark.parametrize("options", [{"reuse": "tiled"}, {"output_bits": 8}, {"mac_scale": 0.5}])
def test_scalar_and_torch_agree_under_options(options, small_network):
    priced = model("composite-45nm", small_network, **options)
    w, a = torch.randint(2, 9, (2, 8, len(small_network)), generator=torch.manual_seed(0)).double()
    many = priced.price_many(w.numpy().astype(int), a.numpy().astype(int))
    np.testing.assert_allclose(priced.price_torch(w, a).numpy(), many, rtol=1e-12)


def test_the_energy_never_falls_when_a_width_grows(any_model):
    widths = priced_widths(any_model)
    costs = any_model.layer_costs[:, widths][:, :, widths]
    tolerance = 1e-12 * costs.max()
    assert (np.diff(costs, axis=1) >= -tolerance).all()
    assert (np.diff(costs, axis=2) >= -tolerance).all()


@shared
@given(seed=seeds)
def test_gradients_match_finite_differences_for_every_table(any_model, seed):
    widths = [w for w in priced_widths(any_model) if w <= 8]
    if len(widths) < 2:
        pytest.skip("one width: nothing to differentiate")
    rng = np.random.default_rng(seed)
    layers = len(any_model.layers)
    # Strictly between whole widths, and no operand as wide as the other: away from every kink.
    w = rng.integers(widths[0], widths[-1], layers) + rng.uniform(0.1, 0.4, layers)
    a = rng.integers(widths[0], widths[-1], layers) + rng.uniform(0.6, 0.9, layers)
    bits = torch.tensor(np.stack([w, a]), requires_grad=True)
    any_model.price_torch(*bits).backward()
    step = 1e-4
    tolerance = 1e-5 * float(bits.grad.abs().max()) + 1e-9 * any_model.w8a8
    for operand, layer in itertools.product((0, 1), range(min(layers, 3))):
        ends = []
        for sign in (-1, 1):
            moved = bits.detach().clone()
            moved[operand, layer] += sign * step
            ends.append(float(any_model.price_torch(*moved)))
        slope = (ends[1] - ends[0]) / (2 * step)
        assert slope == pytest.approx(float(bits.grad[operand, layer]), rel=1e-5, abs=tolerance)


@shared
@given(q=st.floats(2, 8))
def test_eqat_has_its_closed_form(worked_layer, q):
    priced = model("eqat-glsvlsi25", [worked_layer], mac_scale=3, memory_scale=5)
    bits = torch.tensor([q], dtype=torch.float64, requires_grad=True)
    energy = priced.price_torch(bits, bits)
    energy.backward()
    macs, data = 3 * 57802752, 5 * 224256
    assert energy.item() == pytest.approx(macs * q**2 + data * q, rel=1e-12)
    assert bits.grad.item() == pytest.approx(2 * macs * q + data, rel=1e-12)


def test_torch_prices_keep_their_type_and_leading_shape(small_network):
    priced = model("horowitz-45nm", small_network)
    bits = torch.full((2, 3, len(small_network)), 4.5)
    price = priced.price_torch(bits, bits)
    assert price.shape == (2, 3)
    assert price.dtype == torch.float32


def test_a_lone_supported_width_has_a_price_in_torch_too(worked_layer):
    data = load_table("bitfusion:fixed8").model_dump()
    data["points"]["between"] = "interpolate"
    priced = EnergyModel(EnergyTable.model_validate(data), [worked_layer])
    eight = torch.tensor([8.0], dtype=torch.float64)
    assert priced.price_torch(eight, eight).item() == pytest.approx(priced.w8a8, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "bits", "message"),
    [
        ("bitfusion", 9.0, "from 2 to 8 bits, got 9 to 9"),
        ("bitfusion", 1.5, "from 2 to 8 bits"),
        ("bit-serial", 17.0, "from 0 to 16 bits"),
        ("horowitz-45nm", -1.0, "from 0 to 32 bits"),
    ],
)
def test_torch_widths_outside_the_table_are_refused(table, bits, message, small_network):
    tensor = torch.full((len(small_network),), bits)
    with pytest.raises(EnergyTableError, match=message):
        model(table, small_network).price_torch(tensor, tensor)


def test_torch_widths_of_another_shape_are_refused(small_network):
    with pytest.raises(EnergyTableError, match=r"\.\.\. x 6, got \(5,\)"):
        model("horowitz-45nm", small_network).price_torch(torch.ones(5), torch.ones(5))


@shared
@given(seed=seeds, table=st.sampled_from(["composite-45nm", "bitfusion", "qkeras"]))
def test_arithmetic_of_mixed_channels_is_that_of_the_pairs_that_meet(small_network, table, seed):
    priced = model(table, small_network)
    rng = np.random.default_rng(seed)
    w = [rng.integers(2, 9, layer.out_channels) for layer in small_network]
    a = [rng.integers(2, 9, layer.in_channels) for layer in small_network]
    report = priced.price(BitAllocation(names(small_network), w, a))
    arithmetic = {i: report.items.index(i) for i in report.items if i.level is None}
    for index, layer in enumerate(small_network):
        outs, ins = layer.out_channels // layer.groups, layer.in_channels // layer.groups
        pairs = [
            (int(w[index][o]), int(a[index][i]))
            for o in range(layer.out_channels)
            for i in range(o // outs * ins, (o // outs + 1) * ins)
        ]
        for item, column in arithmetic.items():
            costs = [single(priced, index, item, w_, a_) for w_, a_ in pairs]
            assert report.values[index, column] == pytest.approx(np.mean(costs), rel=1e-9)


def single(priced, index, item, w, a):
    """What an item costs in one layer if the whole layer has these widths."""
    return priced._terms.arithmetic[item][index, w, a]


def test_memory_of_mixed_channels_counts_the_values_of_each_width(worked_layer):
    weights = [4] * 32 + [8] * 96
    inputs = [2] * 16 + [6] * 48
    allocation = BitAllocation(["conv"], [weights], [inputs])
    parts = model("eqat-glsvlsi25", [worked_layer]).price(allocation).by_component()
    assert parts["weights"] == 73728 * 7  # (32 * 4 + 96 * 8) / 128
    assert parts["inputs"] == 50176 * 5
    assert parts["outputs"] == 100352 * 5
    stored = model("bitfusion", [worked_layer]).price(allocation)
    dram = dict(zip(stored.items, stored.values[0].tolist(), strict=True))
    assert dram[Item("inputs", "dram")] == pytest.approx(15 * 50176 * (2 / 4 + 8 * 3 / 4))


def test_equal_channel_widths_cost_what_the_layer_width_costs(any_model):
    layers = any_model.layers
    per_channel = BitAllocation(
        names(layers), [[8] * x.out_channels for x in layers], [[8] * x.in_channels for x in layers]
    )
    assert any_model.energy(per_channel) == any_model.w8a8


def test_a_layer_split_by_output_channels_costs_the_same_arithmetic(worked_layer):
    mixed = BitAllocation(["conv"], [[4] * 64 + [8] * 64], [8])
    report = model("horowitz-45nm", [worked_layer]).price(mixed)
    halves = [
        model("horowitz-45nm", [worked_layer]).price(BitAllocation(["conv"], [w], [8]))
        for w in (4, 8)
    ]
    for part in ("multiply", "accumulate", "weights"):
        expected = sum(half.by_component()[part] for half in halves) / 2
        assert report.by_component()[part] == pytest.approx(expected, rel=1e-12)


def test_six_bits_cost_as_eight_on_bitfusion_everywhere(small_network):
    costs = model("bitfusion", small_network).layer_costs
    for narrow, wide in ((3, 4), (5, 8), (6, 8), (7, 8)):
        np.testing.assert_array_equal(costs[:, narrow], costs[:, wide])
        np.testing.assert_array_equal(costs[:, :, narrow], costs[:, :, wide])


def test_the_report_adds_up(small_network):
    report = model("composite-45nm", small_network).price(BitAllocation.uniform(small_network, 4))
    sums = (report.by_layer(), report.by_component(), report.by_level())
    assert [sum(x.values()) for x in sums] == pytest.approx([report.total] * 3)
    plain = report.to_dict()
    assert plain["total"] == report.total
    assert [layer["name"] for layer in plain["layers"]] == names(small_network)
    assert sum(i["value"] for x in plain["layers"] for i in x["items"]) == pytest.approx(
        report.total
    )
    assert set(plain["components"]) == {
        "multiply",
        "accumulate",
        "weights",
        "inputs",
        "outputs",
        "accumulator",
    }
    assert set(plain["levels"]) == {"arithmetic", "register_file", "buffer", "dram"}
    assert "dynamic energy only: static power is not included" in report.notes


def test_the_breakdown_of_the_composite_by_hand(worked_layer):
    priced = model("composite-45nm", [worked_layer], output_bits=8)
    report = priced.price(BitAllocation(["conv"], [4], [8]))
    values = dict(zip(report.items, report.values[0].tolist(), strict=True))
    macs = 57802752
    assert values[Item("weights", "register_file")] == pytest.approx(macs * 4 * 0.02136565625)
    assert values[Item("inputs", "register_file")] == pytest.approx(macs * 8 * 0.02136565625)
    assert values[Item("accumulator", "register_file")] == pytest.approx(
        macs * 32 * (0.02136565625 + 0.02891615625)
    )
    assert values[Item("outputs", "buffer")] == pytest.approx(100352 * 8 * 0.3125)
    assert values[Item("weights", "dram")] == pytest.approx(73728 * 4 * 8)


def test_baselines_and_costs(worked_layer):
    priced = model("horowitz-45nm", [worked_layer])
    macs, values = 57802752, 224256
    assert priced.fp32 == pytest.approx(macs * (3.7 + 0.9) + values * 32 * 20.3125)
    costs = priced.costs(BitAllocation(["conv"], [4], [8]))
    assert costs.energy_pj == costs.energy
    assert costs.energy_vs_fp32 == costs.energy / priced.fp32
    assert costs.energy_vs_w8a8 == costs.energy / priced.w8a8
    assert priced.costs(BitAllocation(["conv"], [8], [8])).energy_vs_w8a8 == 1.0


def test_a_table_without_an_absolute_scale_gives_no_picojoule(worked_layer):
    priced = model("ptq-psu25", [worked_layer])
    assert not priced.unit_is_pj
    assert priced.costs(BitAllocation(["conv"], [4], [8])).energy_pj is None


def test_a_table_without_float_gives_no_ratio_to_it(worked_layer):
    priced = model("mpic", [worked_layer])
    assert np.isnan(priced.fp32)
    assert np.isnan(priced.costs(BitAllocation(["conv"], [4], [8])).energy_vs_fp32)


def test_nothing_priced_has_no_ratio(worked_layer):
    priced = model("mpic", [worked_layer], mac_scale=0)
    costs = priced.costs(BitAllocation(["conv"], [4], [8]))
    assert costs.energy == 0
    assert np.isnan(costs.energy_vs_w8a8)


def test_one_float_operand_makes_the_multiply_accumulate_float(worked_layer):
    parts = model("horowitz-45nm", [worked_layer]).price(BitAllocation(["conv"], [32], [8]))
    assert parts.by_component()["multiply"] == pytest.approx(3.7 * 57802752)
    assert parts.by_component()["inputs"] == pytest.approx(20.3125 * 8 * 50176)


def test_the_exact_accumulator_counts_the_bias_and_the_width_of_the_reduction(small_network):
    # 27 products and a bias: 28 terms, 5 bits; 9 products: 4 bits; 4 x 9 products: 6 bits;
    # 32 and 48 features with a bias: 6 bits each; 8 features of a head: 3 bits.
    growth = [5, 4, 6, 6, 3, 6]
    report = model("qkeras", small_network).price(BitAllocation.uniform(small_network, 4, 8))
    column = report.items.index(Item("accumulate"))
    expected = [
        layer.macs * 0.003125 * (4 + 8 - 1 + bits)
        for layer, bits in zip(small_network, growth, strict=True)
    ]
    assert report.values[:, column] == pytest.approx(expected)


def test_the_table_may_be_asked_for_another_accumulator(worked_layer):
    exact = model("horowitz-45nm", [worked_layer], accumulator_bits="exact")
    qkeras = model("qkeras", [worked_layer])
    np.testing.assert_array_equal(exact.layer_costs, qkeras.layer_costs)
    narrow = model("horowitz-45nm", [worked_layer], accumulator_bits=16)
    parts = narrow.price(BitAllocation(["conv"], [4], [8])).by_component()
    assert parts["accumulate"] == pytest.approx(57802752 * 0.05)


def test_static_power_on_request(worked_layer):
    priced = model("bitfusion", [worked_layer], static_power=True)
    report = priced.price(BitAllocation(["conv"], [8], [8]))
    parts = report.by_component()
    # 20.5 % of array power is leakage.
    share = parts["static"] / (parts["static"] + parts["multiply"])
    assert share == pytest.approx(0.2053, abs=5e-5)
    assert not any("static" in note for note in report.notes)


def test_the_dram_can_be_replaced_and_the_report_says_so(worked_layer):
    allocation = BitAllocation(["conv"], [4], [8])
    priced = model("horowitz-45nm", [worked_layer], dram="HBM2", output_bits=8)
    report = priced.price(allocation)
    assert report.by_level()["dram"] == pytest.approx(1499136 * 3.48)
    assert any("HBM2" in note for note in report.notes)


def test_writes_may_cost_differently_from_reads(worked_layer):
    report = model("dram-interfaces:zigzag-tpu", [worked_layer]).price(
        BitAllocation(["conv"], [8], [8])
    )
    assert report.by_component()["outputs"] == pytest.approx(100352 * 8 * 11.71875)
    assert report.by_component()["inputs"] == pytest.approx(50176 * 8 * 10.9375)


def test_loom_prices_linear_layers_by_their_weights_alone(small_network):
    costs = model("bit-serial", small_network).layer_costs
    macs = np.array([layer.macs for layer in small_network])
    is_conv = np.array([layer.kind == "conv" for layer in small_network])
    expected = np.where(is_conv, macs * 4 * 8 / 256, macs * 4 / 16)
    np.testing.assert_allclose(costs[:, 4, 8], expected)


def test_unpu_meets_its_published_ends(worked_layer):
    per_mac = model("bit-serial:unpu", [worked_layer]).layer_costs[0, 16, 16] / 57802752
    assert per_mac == pytest.approx(2 * 0.3246753, rel=1e-6)


@pytest.mark.parametrize(
    ("table", "w8a8_to_w4a4", "w8a8_to_w4a8"),
    [
        ("ptq-psu25", 0.25, 0.50),  # the product law
        ("horowitz-45nm", 0.50, 0.67),
        ("pann", 0.50, 0.92),
        ("qkeras-mac-gates", 0.575, 0.70),
        ("mpic", 0.60, 0.91),
        ("gpu-peak", 0.50, 1.0),
        ("zigzag-templates", 1.0, 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore::bitfront.energy.EnergyEvidenceWarning")
def test_the_tables_disagree_as_known(table, w8a8_to_w4a4, w8a8_to_w4a8, worked_layer):
    priced = model(table, [worked_layer])
    mac = {
        (w, a): priced.price(BitAllocation(["conv"], [w], [a])).by_level()["arithmetic"]
        for w, a in ((8, 8), (4, 4), (4, 8))
    }
    assert mac[4, 4] / mac[8, 8] == pytest.approx(w8a8_to_w4a4, abs=0.0075)
    assert mac[4, 8] / mac[8, 8] == pytest.approx(w8a8_to_w4a8, abs=0.0075)


def test_one_multiplication_costs_four_times_as_much_in_another_table(worked_layer):
    allocation = BitAllocation(["conv"], [8], [8])
    per_mac = [
        model(table, [worked_layer]).price(allocation).by_component()["multiply"] / 57802752
        for table in ("horowitz-45nm", "accelergy-aladdin-40nm")
    ]
    assert per_mac == pytest.approx([0.2, 0.79], abs=0.005)


def test_int4_latency_over_int8_on_a_t4():
    for table, ratio in (("hawqv3-t4", 0.589232), ("hawqv3-t4:resnet50", 0.645571)):
        rows = load_table(table).rows.layers
        four, eight = (sum(row.costs[i][i] for row in rows) for i in (0, 1))
        assert four / eight == pytest.approx(ratio, abs=1e-6)


def test_published_uniform_latencies_of_haq():
    table = load_table("haq-cloud-latency")
    costs = np.array([row.costs for row in table.rows.layers]).sum(axis=0)
    assert costs[7, 7] == 39624933
    relative = {7: 0.8300, 6: 0.6726, 5: 0.5279, 4: 0.3966, 3: 0.2802, 2: 0.1783}
    for width, expected in relative.items():
        assert costs[width - 1, width - 1] / costs[7, 7] == pytest.approx(expected, abs=5e-5)
    assert costs[3, 7] / costs[7, 7] == pytest.approx(0.7882, abs=5e-5)
    assert costs[7, 3] / costs[7, 7] == pytest.approx(0.5059, abs=5e-5)


def test_the_layer_costs_cannot_be_overwritten(small_network):
    with pytest.raises(ValueError, match="read-only"):
        model("horowitz-45nm", small_network).layer_costs[0, 8, 8] = 0.0


def test_a_model_survives_pickling_without_warning_again(worked_layer):
    with pytest.warns(EnergyEvidenceWarning, match=r"pann .* multiply \(recalled\)"):
        priced = model("pann", [worked_layer])
    copy = pickle.loads(pickle.dumps(priced))
    allocation = BitAllocation(["conv"], [4], [8])
    assert copy.price(allocation).to_dict() == priced.price(allocation).to_dict()
    assert copy.energy(allocation) == priced.energy(allocation)


def test_recalled_numbers_are_named_in_the_report(worked_layer):
    with pytest.warns(EnergyEvidenceWarning):
        priced = model("pann", [worked_layer])
    assert (
        "multiply is recalled, not confirmed"
        in priced.price(BitAllocation(["conv"], [4], [8])).notes
    )


@pytest.mark.parametrize(
    ("table", "weight", "activation", "message"),
    [
        (
            "bitfusion",
            16,
            8,
            "table bitfusion cannot price layer 'conv' with weights of 16 and activations of 8 "
            "bits; it supports weights of 2, 3, 4, 5, 6, 7, 8 and activations of 2, 3, 4, 5, 6, "
            "7, 8 bits",
        ),
        ("bit-serial", 32, 8, "weights of 32"),
        ("qkeras-mac-gates", 8, 32, "activations of 32"),
    ],
)
def test_an_unsupported_width_names_layer_width_and_what_is_supported(
    table, weight, activation, message, worked_layer
):
    priced = model(table, [worked_layer])
    allocation = BitAllocation(["conv"], [weight], [activation])
    for ask in (priced.energy, priced.price, priced.costs):
        with pytest.raises(EnergyTableError, match=re.escape(message)):
            ask(allocation)


def test_an_unsupported_width_of_one_channel_is_named(worked_layer):
    mixed = BitAllocation(["conv"], [[16] + [8] * 127], [8])
    with pytest.raises(EnergyTableError, match="weights of 16"):
        model("bitfusion", [worked_layer]).energy(mixed)


def test_an_allocation_of_other_layers_is_refused(worked_layer):
    priced = model("horowitz-45nm", [worked_layer])
    for ask in (priced.energy, priced.price):
        with pytest.raises(SpaceError, match="the network has"):
            ask(BitAllocation(["fc"], [8], [8]))
    with pytest.raises(SpaceError, match="2 weight widths for 128 channels"):
        priced.energy(BitAllocation(["conv"], [[4, 8]], [8]))


@pytest.mark.parametrize(
    ("weights", "activations", "message"),
    [
        (np.full((2, 5), 8), np.full((2, 5), 8), "weight widths must be n x 6 integers"),
        (np.full((2, 6), 8), np.full((2, 6), 8.0), "activation widths must be n x 6 integers"),
        (np.full((2, 6), 33), np.full((2, 6), 8), "weight widths must lie in 0 to 32"),
        (np.full((2, 6), 8), np.full((3, 6), 8), "2 allocations of weights, 3 of activations"),
        (np.full((2, 6), 9), np.full((2, 6), 8), "weights of 9"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(weights, activations, message, small_network):
    with pytest.raises(EnergyTableError, match=message):
        model("horowitz-45nm", small_network).price_many(weights, activations)
