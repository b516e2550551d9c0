import pytest
import torch

from bitfront.models.engine.graph import trace
from bitfront.models.engine.plan import costs, make_plan, shared_steps
from bitfront.models.engine.steps import Activate, Float, Kernel, Quantize, Reference
from bitfront.models.engine.weights import PackedWeights
from bitfront.spaces import BitAllocation


@pytest.fixture(scope="module")
def residual(networks):
    return networks.quantized(networks.Residual())


def planned(model, allocation, integer=None):
    graph = trace(model.network, torch.zeros(2, 3, 12, 12))
    names = frozenset(layer.name for layer in model.layers) if integer is None else integer
    return make_plan(graph, allocation, names, PackedWeights(2**20))


def changed(model, layer, weight=None, activation=None):
    """Uniform 8 bits but for one layer."""
    names = [other.name for other in model.layers]
    weights, activations = [8] * len(names), [8] * len(names)
    place = names.index(layer)
    weights[place] = weight or 8
    activations[place] = activation or 8
    return BitAllocation(names, weights, activations)


def name(step):
    if isinstance(step, Float):
        return step.operation.kind
    return "" if isinstance(step, Activate) else step.layer.layer.name


def summary(plan):
    return [
        (
            type(step).__name__,
            name(step),
            "float" if step.writes[1] is None else "codes",
        )
        for step in plan.steps
    ]


def test_a_residual_block_is_two_kernels_with_codes_between(residual):
    plan = planned(residual, BitAllocation.uniform(residual.layers, 8))
    assert summary(plan) == [
        ("Quantize", "stem.0", "codes"),
        ("Kernel", "stem.0", "float"),  # the residual reads it, too
        ("Quantize", "conv1", "codes"),
        ("Kernel", "conv1", "codes"),
        ("Kernel", "conv2", "float"),
        ("Quantize", "conv3", "codes"),
        ("Kernel", "conv3", "float"),
        ("Kernel", "down", "float"),  # the later of two addends does the addition
        ("Float", "call", "float"),
        ("Quantize", "fc", "codes"),
        ("Kernel", "fc", "float"),
    ]
    kernels = [step for step in plan.steps if isinstance(step, Kernel)]
    assert [len(step.reads) for step in kernels] == [1, 1, 2, 1, 2, 1]
    assert [step.clip for step in kernels] == ["relu", "relu", "relu", "none", "relu", "none"]


def test_a_curve_is_left_to_torch(networks):
    model = networks.quantized(networks.Residual(torch.nn.Hardswish))
    plan = planned(model, BitAllocation.uniform(model.layers, 8))
    assert summary(plan)[1:3] == [("Kernel", "stem.0", "float"), ("Activate", "", "float")]
    assert all(step.clip == "none" for step in plan.steps if isinstance(step, Kernel))


def test_codes_with_a_zero_point_are_made_from_floats(networks):
    model = networks.quantized(networks.Residual(torch.nn.Identity))
    plan = planned(model, BitAllocation.uniform(model.layers, 8))
    assert summary(plan)[3:6] == [
        ("Kernel", "conv1", "float"),
        ("Quantize", "conv2", "codes"),
        ("Kernel", "conv2", "float"),
    ]


def test_two_readers_of_one_width_share_codes_and_of_two_do_not(networks):
    model = networks.quantized(networks.TwoReaders())
    same = planned(model, BitAllocation.uniform(model.layers, 4))
    other = planned(model, changed(model, "left", activation=4))
    assert sum(isinstance(step, Quantize) for step in same.steps) == 3
    assert sum(isinstance(step, Quantize) for step in other.steps) == 4


def test_widths_above_8_bits_and_refused_layers_run_by_reference(residual):
    wide = planned(residual, changed(residual, "conv2", weight=16))
    assert ("Reference", "conv2", "float") in summary(wide)
    assert ("Float", "add", "float") in summary(wide)
    refused = planned(residual, BitAllocation.uniform(residual.layers, 8), frozenset({"conv1"}))
    kernels = [step.layer.layer.name for step in refused.steps if isinstance(step, Kernel)]
    assert kernels == ["conv1"]
    assert sum(isinstance(step, Reference) for step in refused.steps) == 5


def test_a_value_whose_memory_another_may_share_is_copied_before_it_is_overwritten(networks):
    model = networks.quantized(networks.InPlaceSum())
    plan = planned(model, BitAllocation.uniform(model.layers, 8))
    (adding,) = (step for step in plan.steps if step.overwrites is not None)
    assert adding.must_copy  # a view of it is read later


def test_plans_share_the_steps_in_front_of_the_first_difference(residual):
    base = planned(residual, BitAllocation.uniform(residual.layers, 8))
    fewer = planned(residual, changed(residual, "conv2", weight=3))
    assert shared_steps(base, base) == len(base.steps)
    assert shared_steps(base, fewer) == 4  # up to conv1's kernel
    # conv1 writes the codes that conv2 reads: other codes need another call of it
    assert shared_steps(base, planned(residual, changed(residual, "conv2", activation=3))) == 3


def test_costs_are_the_macs_of_the_layers(residual):
    plan = planned(residual, BitAllocation.uniform(residual.layers, 8))
    assert sum(costs(plan)) == sum(layer.macs for layer in residual.layers)


def test_every_value_is_read_after_it_was_written(residual):
    for bits in (8, 16, 32):
        plan = planned(residual, BitAllocation.uniform(residual.layers, bits))
        written = {(0, None)}
        for number, step in enumerate(plan.steps):
            assert set(step.reads) <= written
            assert all(plan.last_reads[value] >= number for value in step.reads)
            written.add(step.writes)
        assert plan.output in written
