import dataclasses

import numpy as np
import pytest

from bitfront.models.dynamic.network import DynamicNetwork, load_network
from bitfront.models.trained import TrainedNetwork
from bitfront.spaces import BitAllocation, DynamicAllocation, ModelError, Selector

NAMES = ["conv1", "fc"]
LOW, HIGH = BitAllocation(NAMES, [8, 8], [8, 4]), BitAllocation(NAMES, [8, 8], [8, 8])
OPERAND = ("fc", "activation")
CASCADE = DynamicAllocation(
    "cascade", (LOW, HIGH), thresholds=(0.9,), temperatures=(1.0,), classes=10
)


def network(**changes):
    dynamic = DynamicAllocation("channels", (LOW, HIGH), (Selector(*OPERAND, 3, 16),))
    parts = {"weights": np.arange(6, dtype=np.int8).reshape(2, 3), "scale": np.float32([0.5])}
    return DynamicNetwork(**{"dynamic": dynamic, "selectors": {OPERAND: parts}} | changes)


def backbone(allocation=HIGH):
    return TrainedNetwork(allocation, {"state/fc.weight": np.ones((2, 2), np.float32)})


@pytest.mark.parametrize(
    "value",
    [network(), network(per="batch"), network(backbone=backbone()), DynamicNetwork(CASCADE)],
)
def test_bytes_both_ways(value):
    again = load_network(value.to_bytes())
    assert isinstance(again, DynamicNetwork)
    assert (again.digest, again.dynamic, again.per) == (value.digest, value.dynamic, value.per)
    for operand, parts in value.selectors.items():
        for name, array in parts.items():
            np.testing.assert_array_equal(again.selectors[operand][name], array)
    assert (again.backbone is None) == (value.backbone is None)
    assert again.allocation == HIGH


def test_the_digest_is_of_all_there_is():
    other = network().selectors[OPERAND] | {"scale": np.float32([0.25])}
    values = [
        network(),
        network(per="batch"),
        network(backbone=backbone()),
        network(selectors={OPERAND: other}),
        DynamicNetwork(CASCADE),
        DynamicNetwork(dataclasses.replace(CASCADE, thresholds=(0.8,))),
    ]
    assert len({value.digest for value in values}) == len(values)


def test_a_trained_network_is_loaded_as_one():
    assert isinstance(load_network(backbone().to_bytes()), TrainedNetwork)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ModelError, match="selectors for other operands"):
        network(selectors={})
    with pytest.raises(ModelError, match="must be at its widest member"):
        network(backbone=backbone(LOW))
    with pytest.raises(ModelError, match="a cascade runs on the study's own"):
        DynamicNetwork(CASCADE, backbone=backbone())


def test_damaged_bytes_are_refused():
    data = network().to_bytes()
    for damaged in (b"", data[:20], data[:-3], data.replace(b"channels", b"chanmels")):
        with pytest.raises(ModelError):
            load_network(damaged)
    for version in (b"dynamic-1", b'"dynamic'):
        with pytest.raises(ModelError):
            load_network(data.replace(version, version[:-1] + b"9"))
