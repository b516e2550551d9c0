"""Trained networks are measured as they are, or fail by name."""

from dataclasses import replace

import numpy as np
import pytest

from bitfront.models.config import AdaptationConfig, QuantizerConfig
from bitfront.models.evaluate import evaluate
from bitfront.spaces import BitAllocation
from bitfront.studies.deployed import deployed, handed_over
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request
from tests.searchers.trainers import trained_network


@pytest.fixture(scope="module", params=["integer", "reference"])
def workload(request, tiny_workload):
    return replace(tiny_workload, engine=request.param)


def network_of(workload, bits=4, shift=0.0):
    """A network of other weights than the workload's, at a width."""
    model = workload.float_model()
    for parameter in model.parameters():
        parameter.data.add_(shift)
    return trained_network(model, workload.layers, BitAllocation.uniform(workload.layers, bits))


def request_for(network, split="search"):
    return Request(network.allocation, split, network=network.digest)


def measure(worker, *networks, split="search"):
    """The measurements of networks, all handed over at once."""
    requests = [request_for(network, split) for network in networks]
    held = {network.digest: network.to_bytes() for network in networks}
    answers = dict(worker.measure(requests, held))
    return [replace(answers[index], wall_s=0.0) for index in range(len(networks))]


def test_a_network_is_measured_with_its_own_weights_whatever_was_before(workload):
    one, two = network_of(workload), network_of(workload, shift=0.05)
    worker = Worker(workload)
    first = measure(worker, one, two)
    plain = Request(one.allocation)
    ((_, untrained),) = worker.measure([plain])
    assert measure(worker, two, one) == first[::-1]
    assert [m.network for m in (*first, untrained)] == [one.digest, two.digest, None]
    assert len({m.loss for m in (*first, untrained)}) == 3
    ((_, again),) = Worker(workload).measure([plain])
    assert again.loss == untrained.loss


def test_it_is_what_the_deployed_network_computes(workload):
    network = network_of(workload, shift=0.02)
    model = deployed(workload, handed_over(request_for(network), network.to_bytes()))
    model.set_allocation(network.allocation)
    (measured,) = measure(Worker(workload), network)
    counts = evaluate(model, workload.images["search"], workload.batch_size)
    assert measured.accuracy == counts.correct / counts.samples
    assert measured.loss == pytest.approx(counts.loss_sum / counts.samples, rel=1e-6)
    assert measured.energy_vs_w8a8 == workload.energy.costs(network.allocation).energy_vs_w8a8


def test_both_splits_take_one_network(workload, monkeypatch):
    made = []
    monkeypatch.setattr(
        "bitfront.studies.evaluation.deployed",
        lambda *given: made.append(given[1].digest) or deployed(*given),
    )
    network = network_of(workload)
    worker = Worker(workload)
    measure(worker, network)
    (tested,) = measure(worker, network, split="test")
    assert (tested.samples, tested.split, made) == (50, "test", [network.digest])


def test_it_is_neither_adapted_nor_reconstructed(workload):
    network = network_of(workload, bits=3)
    plain = measure(Worker(workload), network, split="test")
    repairing = replace(
        workload,
        adaptation=AdaptationConfig(method="fine-tune"),
        fine_tuning=workload.images["search"],
        quantizer=QuantizerConfig(reconstruction="brecq", reconstruction_steps=5),
    )
    worker = Worker(repairing)
    measured = measure(worker, network, split="test")
    assert (measured[0].images_forward, measured[0].images_backward) == (0, 0)
    assert measured == plain


def test_what_is_no_such_network_fails_by_name_and_the_worker_goes_on(workload):
    network, other = network_of(workload), network_of(workload, shift=0.1)
    data, worker = network.to_bytes(), Worker(workload)
    request = request_for(network)
    elsewhere = replace(request, allocation=BitAllocation.uniform(workload.layers, 5))
    of_others = replace(network, arrays={k: v for k, v in network.arrays.items() if "fc" not in k})
    for asked, held, reason in (
        (request, {}, "is not in the study's folder any more, or cannot be read"),
        (request, {request.network: data[:50]}, "a trained network is damaged"),
        (request, {request.network: b""}, "a trained network is damaged"),
        (request, {request.network: other.to_bytes()}, f"has digest {other.digest}"),
        (elsewhere, {request.network: data}, "was trained for another allocation"),
        (request_for(of_others), {of_others.digest: of_others.to_bytes()}, "a trained network"),
    ):
        ((_, answer),) = worker.measure([asked], held)
        assert answer.failed and answer.network == asked.network
        assert "could not be measured: " in answer.error and reason in answer.error
    assert not measure(worker, network)[0].failed


def test_what_is_not_finite_is_named_by_its_layer(workload):
    network = network_of(workload)
    arrays = {name: np.array(array) for name, array in network.arrays.items()}
    arrays["state/fc1.bias"][:] = np.inf
    (answer,) = measure(Worker(workload), replace(network, arrays=arrays))
    assert "not finite" in answer.error
