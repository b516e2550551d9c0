"""Networks that choose their widths are measured as a whole; what they choose is taken down."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bitfront.models.dynamic.layout import layout_for
from bitfront.models.dynamic.network import DynamicNetwork
from bitfront.models.engine import Engine
from bitfront.spaces import BitAllocation, DynamicAllocation, Selector
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request


@pytest.fixture(scope="module", params=["integer", "reference"])
def workload(request, tiny_workload):
    return replace(tiny_workload, engine=request.param)


def selector_arrays(channels, seed, offset=0.0):
    """A selector that nothing was learned for."""
    rng = np.random.default_rng(seed)
    return {
        "feature_scale": np.full((1, 4), 2.0, np.float32),
        "feature_shift": np.full((1, 4), -20.0, np.float32),
        "hidden_weight": rng.integers(-90, 90, (1, 8, 4)).astype(np.int8),
        "hidden_bias": np.zeros((1, 8), np.int32),
        "hidden_scale": np.full((1, 8), 0.01, np.float32),
        "score_weight": rng.integers(-90, 90, (1, 8)).astype(np.int8),
        "score_bias": rng.integers(-5000, 5000, channels).astype(np.int32),
        "thresholds": np.zeros((1, 1), np.int32),
        "score_step": np.ones(1, np.float32),
        "offset": np.array([offset], np.float32),
    }


def gated_network(workload, offset=0.0):
    """A network whose inner convolutions choose between 4 and 8 bits."""
    layers = workload.layers
    names = [layer.name for layer in layers]
    gated = [layer for layer in layers[1:] if layer.kind == "conv"]
    low = [4 if layer in gated else 8 for layer in layers]
    members = tuple(BitAllocation(names, [8] * len(names), a) for a in (low, [8] * len(names)))
    found = []
    for layer in gated:
        size = layer.input_count // layer.in_channels
        layout = replace(layout_for(layer, layer.in_channels), sizes=(int(size**0.5),) * 2)
        found.append(Selector(layer.name, "activation", layer.in_channels, layout.positions(16)))
    arrays = {
        (s.layer, s.operand): selector_arrays(s.channels, number, offset)
        for number, s in enumerate(found)
    }
    return DynamicNetwork(DynamicAllocation("channels", members, tuple(found)), arrays)


def cascade_of(workload, *widths, threshold=0.11):
    members = tuple(BitAllocation.uniform(workload.layers, width) for width in widths)
    dynamic = DynamicAllocation(
        "cascade", members, thresholds=(threshold,), temperatures=(1.0,), classes=10
    )
    return DynamicNetwork(dynamic)


def measure(workload, network, split="search", fidelity=1.0):
    request = Request(network.allocation, split, fidelity, network.digest)
    held = {network.digest: network.to_bytes()}
    ((_, answer),) = Worker(workload).measure([request], held)
    assert answer.error is None
    return replace(answer, wall_s=0.0)


def static(workload, allocation, split="search"):
    ((_, answer),) = Worker(workload).measure([Request(allocation, split)])
    return answer


def test_it_does_not_matter_who_shares_a_batch(workload):
    network = gated_network(workload)
    answer = measure(workload, network)
    assert 0.05 < answer.dynamic.terciles[0].wide_share < 0.95
    for size in (7, 40):
        assert measure(replace(workload, batch_size=size), network) == answer


def test_engine_and_reference_choose_alike(tiny_workload):
    answers = [
        measure(replace(tiny_workload, engine=engine), gated_network(tiny_workload))
        for engine in ("integer", "reference")
    ]
    assert answers[0].dynamic == answers[1].dynamic
    assert answers[0].loss == pytest.approx(answers[1].loss, rel=1e-9)


@pytest.mark.parametrize(("offset", "member"), [(-1e6, 0), (1e6, 1)])
def test_forced_one_way_it_costs_the_static_energy_and_the_selectors(workload, offset, member):
    network = gated_network(workload, offset)
    answer = measure(workload, network)
    usage, allocation = answer.dynamic, network.dynamic.members[member]
    energy = workload.energy
    expected = energy.energy(allocation) / energy.w8a8 + usage.deciding
    assert answer.energy_vs_w8a8 == pytest.approx(expected, rel=1e-12)
    assert usage.energy_std < 1e-12
    assert usage.terciles[0].wide_share == member
    assert answer.allocation == network.dynamic.widest and answer.network == network.digest


def test_ablations_come_with_the_test_split(workload):
    network = gated_network(workload)
    assert measure(workload, network).dynamic.ablations == ()
    usage = measure(workload, network, "test").dynamic
    fixed, shuffled = usage.ablations
    assert (fixed.name, shuffled.name, usage.inputs) == ("static", "shuffled", 50)
    mean = sum(group.energy * group.inputs for group in usage.terciles) / usage.inputs
    assert shuffled.energy == pytest.approx(mean)
    # Rounded to whole channels in each layer, and nothing to decide.
    assert fixed.energy == pytest.approx(mean - usage.deciding, abs=0.01)
    assert 0 <= fixed.differs <= 1


def test_a_cascade_is_its_members(workload):
    members = [BitAllocation.uniform(workload.layers, width) for width in (3, 8)]
    engine = Engine(workload.quantized_model(), workload.images["search"].batch(slice(0, 4))[0])
    x, labels = workload.images["search"].batch(slice(0, 40))
    low, high = (engine.forward(x, member).double() for member in members)
    sure = torch.softmax(low, 1).amax(1)
    network = cascade_of(workload, 3, 8, threshold=sure.quantile(0.3).item())
    answer = measure(workload, network)
    usage, stays = answer.dynamic, sure >= network.dynamic.thresholds[0]
    assert stays.double().mean() == 0.7
    assert usage.answered == pytest.approx((0.7, 0.3))
    right = torch.where(stays, low.argmax(1), high.argmax(1)) == labels
    assert answer.accuracy == pytest.approx(right.double().mean().item())
    costs = [workload.energy.energy(member) for member in members]
    expected = (costs[0] + usage.ran[1] * costs[1]) / workload.energy.w8a8 + usage.deciding
    assert answer.energy_vs_w8a8 == pytest.approx(expected)


def test_a_cascade_is_tested_with_the_decisions_of_others_too(workload):
    always = measure(workload, cascade_of(workload, 3, 8, threshold=1.0), "test")
    (shuffled,) = always.dynamic.ablations
    assert shuffled.name == "shuffled" and shuffled.differs == 0.0
    assert (shuffled.accuracy, shuffled.energy) == (always.accuracy, always.energy_vs_w8a8)
    assert measure(workload, cascade_of(workload, 3, 8)).dynamic.ablations == ()


@pytest.mark.parametrize(("threshold", "member"), [(0.0, 0), (1.0, 1)])
def test_at_its_ends_a_cascade_is_one_member(workload, threshold, member):
    network = cascade_of(workload, 3, 8, threshold=threshold)
    answer = measure(workload, network, fidelity=0.5)
    ((_, alone),) = Worker(workload).measure(
        [Request(network.dynamic.members[member], "search", 0.5)]
    )
    assert (answer.accuracy, answer.samples) == (alone.accuracy, 20)
    assert answer.loss == pytest.approx(alone.loss, rel=1e-9)


def test_thresholds_are_tuned_without_running_members_again(workload, monkeypatch):
    worker, passes = Worker(workload), []
    monkeypatch.setattr(
        "bitfront.studies.choosing.answers",
        lambda *given: passes.append(1) or _answers(*given),
    )
    from bitfront.models.dynamic.evaluate import answers as _answers

    for threshold in (0.105, 0.11, 0.12):
        network = cascade_of(workload, 3, 8, threshold=threshold)
        request = Request(network.allocation, network=network.digest)
        list(worker.measure([request], {network.digest: network.to_bytes()}))
    assert len(passes) == 2
