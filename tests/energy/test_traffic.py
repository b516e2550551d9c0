import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitfront.energy import EnergyModel, EnergyOptions, Item, load_table
from bitfront.spaces import BitAllocation, EnergyTableError

shared = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TILEABLE = ("composite-45nm", "eyeriss", "zigzag-templates")


def costs(table, layers, **options):
    return EnergyModel(load_table(table), layers, options=EnergyOptions(**options)).layer_costs


@pytest.mark.parametrize("table", [*TILEABLE, "horowitz-45nm", "bitfusion"])
def test_an_unbounded_buffer_equals_one_pass(table, small_network):
    tiled = costs(table, small_network, reuse="tiled", buffer_bytes=2**60)
    np.testing.assert_array_equal(tiled, costs(table, small_network))


@shared
@given(
    table=st.sampled_from(TILEABLE),
    small=st.integers(1, 2**16),
    factor=st.integers(1, 64),
)
def test_a_larger_buffer_never_costs_more(small_network, table, small, factor):
    tight, roomy = (
        costs(table, small_network, reuse="tiled", buffer_bytes=size)
        for size in (small, small * factor)
    )
    known = ~np.isnan(tight)
    assert (tight[known] >= roomy[known] * (1 - 1e-12)).all()
    assert (roomy[known] >= costs(table, small_network)[known] * (1 - 1e-12)).all()


@shared
@given(table=st.sampled_from(TILEABLE), buffer_bytes=st.integers(1, 2**16))
def test_tiled_energy_never_falls_when_a_width_grows(small_network, table, buffer_bytes):
    tiled = costs(table, small_network, reuse="tiled", buffer_bytes=buffer_bytes)[:, 2:9, 2:9]
    assert (np.diff(tiled, axis=1) >= 0).all()
    assert (np.diff(tiled, axis=2) >= 0).all()


@pytest.mark.parametrize(
    ("buffer_bytes", "weight_passes", "input_passes"),
    [
        # 294 912 weight bits and 401 408 input bits at w4a8.
        (50176, 1, 1),  # the inputs fit exactly
        (36864, 1, 1),  # the weights fit exactly
        (36863, 2, 1),  # two parts of either: the weights are fewer bits to repeat
        (20000, 1, 2),  # repeating the inputs once beats repeating the weights twice
        (18000, 3, 1),  # three parts of either
    ],
)
def test_passes_by_hand(buffer_bytes, weight_passes, input_passes, worked_layer):
    priced = EnergyModel(
        load_table("composite-45nm"),
        [worked_layer],
        options=EnergyOptions(reuse="tiled", buffer_bytes=buffer_bytes),
    )
    report = priced.price(BitAllocation(["conv"], [4], [8]))
    values = dict(zip(report.items, report.values[0].tolist(), strict=True))
    weight_bits = values[Item("weights", "dram")] / 8
    input_bits = values[Item("inputs", "dram")] / 8
    assert (weight_bits, input_bits) == pytest.approx(
        (weight_passes * 294912, input_passes * 401408)
    )


def test_groups_and_heads_are_cut_apart_for_free(small_network):
    depthwise = next(layer for layer in small_network if layer.groups == layer.in_channels)
    # One channel's 9 weights fill the buffer, so that every input still crosses once.
    tiled = costs("composite-45nm", [depthwise], reuse="tiled", buffer_bytes=9)
    assert tiled[0, 8, 8] == costs("composite-45nm", [depthwise])[0, 8, 8]
    whole = dataclasses.replace(depthwise, groups=1)
    assert costs("composite-45nm", [whole], reuse="tiled", buffer_bytes=9)[0, 8, 8] > tiled[0, 8, 8]


def test_the_buffer_of_the_table_is_the_default(worked_layer):
    table = costs("eyeriss", [worked_layer], reuse="tiled")
    given_size = costs("eyeriss", [worked_layer], reuse="tiled", buffer_bytes=102400)
    np.testing.assert_array_equal(table, given_size)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("horowitz-45nm", {"reuse": "tiled"}, "give buffer_bytes for reuse: tiled"),
        ("mpic", {"reuse": "tiled"}, "has no DRAM"),
        ("horowitz-45nm", {"static_power": True}, "gives no static power"),
        ("eyeriss", {"dram": "HBM2"}, "has no DRAM in pJ that 'HBM2' could replace"),
        ("mpic", {"dram": "HBM2"}, "has no DRAM in pJ that 'HBM2' could replace"),
        ("horowitz-45nm", {"dram": "HMB2"}, r"no variant 'HMB2'; did you mean 'HBM2'"),
    ],
)
def test_what_the_table_does_not_have_is_refused(table, options, message, worked_layer):
    with pytest.raises(EnergyTableError, match=message):
        costs(table, [worked_layer], **options)
