import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, EnergyTableError, Layer


def network_of(table):
    return [
        Layer(
            name=row.layer,
            kind="conv",
            macs=row.macs or 1,
            weight_count=1,
            bias_count=0,
            input_count=1,
            output_count=1,
            in_channels=1,
            out_channels=1,
        )
        for row in table.rows.layers
    ]


@pytest.fixture
def hawq():
    return load_table("hawqv3-t4")


def test_a_network_costs_the_sum_of_its_rows(hawq):
    layers = network_of(hawq)
    model = EnergyModel(hawq, layers)
    assert model.energy(BitAllocation.uniform(layers, 8)) == pytest.approx(5.343687, abs=1e-6)
    assert model.energy(BitAllocation.uniform(layers, 4)) == pytest.approx(3.148672, abs=1e-6)
    # A layer of 4 and 8 bits runs at 8.
    assert model.energy(BitAllocation.uniform(layers, 4, 8)) == model.w8a8
    report = model.price(BitAllocation.uniform(layers, 8))
    assert report.by_component() == {"layer": pytest.approx(5.343687, abs=1e-6)}
    assert "this is latency in ms, not energy" in report.notes


def test_layers_left_out_by_the_publication_cost_nothing(hawq):
    layers = network_of(hawq)
    stem = dataclasses.replace(layers[0], name="conv1", macs=118013952)
    whole = EnergyModel(hawq, [stem, *layers])
    assert whole.w8a8 == EnergyModel(hawq, layers).w8a8


def test_resnet18_of_the_zoo_has_the_rows_names(hawq, resnet18):
    # Same names and order as the network that the other tests count; only the size differs.
    ours = [layer.name for layer in resnet18(cifar_stem=False)]
    assert ours == ["conv1", *(row.layer for row in hawq.rows.layers), "fc"]


def test_order_decides_where_the_table_says_so():
    table = load_table("haq-cloud-latency")
    layers = [
        dataclasses.replace(layer, name=f"layer{i}") for i, layer in enumerate(network_of(table))
    ]
    costs = EnergyModel(table, layers).layer_costs
    np.testing.assert_array_equal(
        costs[10, 2:9, 2:9], np.array(table.rows.layers[10].costs)[1:, 1:]
    )
    assert np.isnan(costs[:, 16]).all()


def test_a_missing_row_is_named(hawq):
    layers = network_of(hawq)
    layers[3] = dataclasses.replace(layers[3], name="layer1.1.conv3")
    with pytest.raises(
        EnergyTableError,
        match=r"hawqv3-t4 .* has no row for layer 'layer1.1.conv3'; did you mean 'layer1.1.conv",
    ):
        EnergyModel(hawq, layers)


def test_another_network_is_recognised(hawq, small_network):
    with pytest.raises(EnergyTableError, match="has a row for none of this network's layers"):
        EnergyModel(hawq, small_network)
    with pytest.raises(EnergyTableError, match="53 layers in order; this network has 6"):
        EnergyModel(load_table("haq-cloud-latency"), small_network)
    layers = network_of(hawq)
    layers[0] = dataclasses.replace(layers[0], macs=7)
    with pytest.raises(EnergyTableError, match=r"'layer1.0.conv1' has 115605504 MACs.* network 7"):
        EnergyModel(hawq, layers)


def test_rows_of_ones_own_are_found_by_name(tmp_path, small_network):
    path = tmp_path / "measured.json"
    table = {
        "id": "measured",
        "title": "Measured",
        "quantity": "latency",
        "unit": "ms",
        "sources": {"us": {"ref": "our board"}},
        "evidence": {"level": "read"},
        "rows": {
            "network": "small",
            "match": "name",
            "weights": [4, 8],
            "activations": [8],
            "source": "us",
            "layers": [{"layer": x.name, "costs": [[1.0], [2.0]]} for x in small_network],
        },
    }
    Path(path).write_text(json.dumps(table))
    model = EnergyModel(load_table(path), small_network)
    assert model.w8a8 == 12.0
    assert model.energy(BitAllocation.uniform(small_network, 3, 8)) == 6.0
