import pytest
import torch
from torch import nn

from bitfront.models.engine.graph import TraceError, compute, trace


def values_of(graph, x):
    values = [x.clone()]
    for operation in graph.operations[1:]:
        values.append(compute(operation, [values[place] for place in operation.operands]))
    return values[graph.output]


def test_the_operations_give_what_the_network_gives(model, networks):
    images = networks.images
    graph = trace(model.network, images(2))
    x = images(3, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(values_of(graph, x), model(x), rtol=1e-5, atol=1e-6)


def traced(networks, network):
    return trace(networks.quantized(network).network, networks.images(2))


def kinds(networks, network):
    graph = traced(networks, network)
    return [operation.kind for operation in graph.operations]


def test_layers_activations_and_additions_are_known(networks):
    found = kinds(networks, networks.Residual())
    assert {kind: found.count(kind) for kind in set(found)} == {
        "input": 1,
        "layer": 6,
        "activation": 4,
        "add": 2,
        "call": 1,
    }


def test_an_addition_of_unlike_shapes_is_a_call(networks):
    assert (
        kinds(networks, networks.Broadcast()).count("add") == 2
    )  # the third adds an offset to every image


def test_dropout_and_identity_leave_no_operation(networks):
    graph = traced(networks, networks.TwoReaders())
    assert not any("drop" in operation.name for operation in graph.operations)


def test_what_reads_a_value_after_an_operation_in_place_reads_the_result(networks):
    graph = traced(networks, networks.InPlaceSum())
    (added,) = (p for p, op in enumerate(graph.operations) if op.kind == "add")
    (relu,) = (r for r in graph.readers[added] if graph.operations[r].kind == "activation")
    assert graph.readers[added] == (relu,)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        return self.fc(x.mean((1, 2))), x


def test_a_network_that_is_no_list_of_operations_is_refused(networks):
    with pytest.raises(TraceError, match="control flow"):
        traced(networks, networks.Branch())
    with pytest.raises(TraceError, match="more than one tensor"):
        traced(networks, Pair())


class Counter(nn.Module):
    """Gives something else at every call, which a list of operations does not show."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x.mean((1, 2))) * self.calls


def test_operations_that_give_other_logits_are_refused(networks):
    with pytest.raises(TraceError, match="other logits"):
        traced(networks, Counter())
