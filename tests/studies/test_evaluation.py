import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitfront.models.adaptation.batch_norm import BatchNorms
from bitfront.models.adaptation.fine_tune import fine_tune
from bitfront.models.config import AdaptationConfig
from bitfront.models.evaluate import evaluate, evaluate_each
from bitfront.models.reconstruct import reconstruct
from bitfront.spaces import BitAllocation, BitSpace, SpaceError
from bitfront.studies.evaluation import Worker, allocation_seed, images_used
from bitfront.studies.requests import Request


@pytest.fixture
def requests(tiny_workload):
    space = BitSpace.build(tiny_workload.layers)
    rng = np.random.default_rng(0)
    return [Request(space.sample(rng)) for _ in range(4)]


@pytest.fixture
def sweep(tiny_workload):
    """Requests that differ in one layer each, from a common base: they share prefixes."""
    base = BitAllocation.uniform(tiny_workload.layers, 8)
    weights = [(*base.weights[:i], 4, *base.weights[i + 1 :]) for i in range(len(base.layers))]
    allocations = [BitAllocation(base.layers, row, base.activations) for row in weights]
    return [Request(allocation) for allocation in reversed(allocations)]


@pytest.fixture(params=["integer", "reference"])
def workload(tiny_workload, request):
    """The workload, once for each engine."""
    return replace(tiny_workload, engine=request.param)


@pytest.fixture
def reference(tiny_workload):
    return replace(tiny_workload, engine="reference")


def measure(worker, requests):
    """Return the measurements in the order asked."""
    answers = dict(worker.measure(requests))
    return [answers[index] for index in range(len(requests))]


def facts(measurements):
    return [replace(m, wall_s=0.0) for m in measurements]


def test_the_float_allocation_measures_the_network_itself(workload):
    for split, samples in (("search", 40), ("test", 50)):
        request = Request(BitAllocation.uniform(workload.layers, 32), split)
        (measurement,) = measure(Worker(workload), [request])
        counts = evaluate(workload.float_model(), workload.images[split], 32)
        assert (measurement.samples, measurement.split) == (samples, split)
        assert measurement.accuracy == counts.correct / samples
        assert measurement.loss == pytest.approx(counts.loss, rel=1e-5)


@pytest.mark.parametrize("which", ["requests", "sweep"])
def test_answers_do_not_depend_on_what_is_measured_before_or_with_them(workload, which, request):
    asked = request.getfixturevalue(which)
    together = measure(Worker(workload), asked)
    worker = Worker(workload)
    backwards = [measure(worker, [request])[0] for request in reversed(asked)]
    assert facts(together) == facts(reversed(backwards))


def test_only_requests_for_the_same_images_with_layers_in_common_run_together(
    tiny_workload, sweep, monkeypatch
):
    runs = []

    def watched(engine, allocations, *args):
        runs.append(len(allocations))
        return evaluate_each(engine, allocations, *args)

    monkeypatch.setattr("bitfront.studies.evaluation.evaluate_each", watched)
    half = [replace(request, fidelity=0.5) for request in sweep[:2]]
    answers = measure(Worker(tiny_workload), [sweep[0], half[0], sweep[1], half[1]])
    assert runs == [2, 2]
    assert [answer.samples for answer in answers] == [40, 20, 40, 20]
    assert [Request.answered_by(a) for a in answers] == [sweep[0], half[0], sweep[1], half[1]]
    assert answers[0].wall_s == answers[2].wall_s > 0  # shared equally


def test_the_integer_engine_counts_what_the_reference_counts(tiny_workload, reference, requests):
    integer, expected = Worker(tiny_workload), Worker(reference)
    assert integer._engine.report.integer == tuple(layer.name for layer in tiny_workload.layers)
    for one, other in zip(measure(integer, requests), measure(expected, requests), strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.025)  # one of 40 images
        assert one.loss == pytest.approx(other.loss, rel=1e-2)


def test_on_a_device_of_its_own_the_reference_multiplies_in_float32(reference, requests):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("medium")
    try:
        worker = Worker(reference, device="cpu:0")  # any name but that of the CPU
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        assert facts(measure(worker, requests)) == facts(measure(Worker(reference), requests))
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, before[1]


def test_what_the_engine_warns_of_is_noted(tiny_workload, monkeypatch):
    monkeypatch.setattr("bitfront.models.engine.engine.available", lambda: "no such instruction")
    worker = Worker(tiny_workload)
    assert worker.notes == ("no integer kernels: no such instruction",)


def test_fidelity_takes_the_first_images(tiny_workload, requests):
    half = replace(requests[0], fidelity=0.5)
    (measurement,) = measure(Worker(tiny_workload), [half])
    assert (measurement.samples, measurement.fidelity) == (20, 0.5)


@pytest.mark.parametrize(("count", "fidelity", "used"), [(40, 1.0, 40), (40, 0.3, 12), (3, 0.1, 1)])
def test_images_used(count, fidelity, used):
    assert images_used(count, fidelity) == used


def test_threads_are_as_before_for_whoever_takes_an_answer(tiny_workload, requests):
    before = torch.get_num_threads()
    for _ in Worker(tiny_workload, threads=before + 1).measure(requests[:2]):
        assert torch.get_num_threads() == before


def test_values_that_are_not_finite_are_a_failure_that_names_the_layer(workload):
    # Finite weights whose products overflow float32, in the float network only where calibration
    # has passed already.
    worker = Worker(workload)
    second = workload.layers[1].name
    with torch.no_grad():
        dict(worker._model.quantized_layers)[second].inner.bias.fill_(math.inf)
    request = Request(BitAllocation.uniform(workload.layers, 32))
    (measurement,) = measure(worker, [request])
    assert measurement.failed
    assert request.allocation.key[:12] in measurement.error
    assert f"not finite, first in layer {second!r}" in measurement.error
    assert measurement.energy_vs_fp32 == pytest.approx(1.0)


def test_an_image_that_is_not_finite_fails_on_integer_kernels_too(tiny_workload, sweep):
    good = tiny_workload.images["search"]
    pixels = good.images.astype(np.float32)
    pixels[3, 0, 2, 2] = math.nan
    broken = {**tiny_workload.images, "search": replace(good, images=pixels)}
    first = tiny_workload.layers[0].name
    for answer in measure(Worker(replace(tiny_workload, images=broken)), sweep):
        assert answer.failed
        assert answer.allocation.key[:12] in answer.error
        assert "not finite" in answer.error
        assert f"layer {first!r}" in answer.error


def test_an_exception_is_a_failure_of_its_allocation_only(workload, sweep, monkeypatch):
    worker = Worker(workload)
    count = worker._count

    def refuse_one(requests, batch_size):
        if sweep[1] in requests:
            raise RuntimeError("broken")
        return count(requests, batch_size)

    monkeypatch.setattr(worker, "_count", refuse_one)
    answers = measure(worker, sweep)
    assert [answer.failed for answer in answers] == [False, True, False, False, False]
    assert "could not be measured: RuntimeError: broken" in answers[1].error


class Hungry:
    """A network whose forward pass runs out of memory above some batch size, as torch says so."""

    def __init__(self, model, most):
        self.forward, self.most = model.forward, most
        self.batches = []

    def __call__(self, x):
        self.batches.append(len(x))
        if len(x) > self.most:
            torch.empty(2**60)  # raises what torch raises
        return self.forward(x)


@pytest.mark.parametrize("most", [16, 20])
def test_where_memory_runs_out_the_batch_is_halved_once(reference, requests, most, monkeypatch):
    expected = facts(measure(Worker(replace(reference, batch_size=16)), requests))
    worker = Worker(reference)
    hungry = Hungry(worker._model, most)
    monkeypatch.setattr(worker._model, "forward", hungry)
    assert facts(measure(worker, requests)) == expected
    assert hungry.batches == [32, 16, 16, 8] * len(requests)


def test_where_that_is_too_much_as_well_the_allocation_is_named_and_others_go_on(
    reference, requests, monkeypatch
):
    worker = Worker(reference)
    hungry = Hungry(worker._model, 4)
    monkeypatch.setattr(worker._model, "forward", hungry)
    (answer,) = measure(worker, requests[:1])
    assert hungry.batches == [32, 16]
    assert answer.failed
    assert requests[0].allocation.key[:12] in answer.error
    assert "ran out of memory in batches of 16 images: " in answer.error
    assert f"{answer.mean_weight_bits:.2f} weight bits" in answer.error
    hungry.most = 32
    assert not any(answer.failed for answer in measure(worker, requests))


def test_an_allocation_of_another_network_is_refused(tiny_workload):
    with pytest.raises(SpaceError):
        measure(Worker(tiny_workload), [Request(BitAllocation(["other"], [8], [8]))])


class TestReconstruction:
    """Finalists of a study that asks for reconstruction."""

    @pytest.fixture(params=["brecq", "qdrop"])
    def reconstructing(self, workload, request):
        quantizer = replace(
            workload.quantizer, reconstruction=request.param, reconstruction_steps=3
        )
        return replace(workload, quantizer=quantizer)

    @pytest.fixture
    def finalist(self, workload):
        return Request(BitAllocation.uniform(workload.layers, 2, 8), "test")

    def test_finalists_are_measured_on_a_reconstructed_copy(
        self, workload, reconstructing, finalist
    ):
        plain, repaired = (
            measure(Worker(one), [finalist])[0] for one in (workload, reconstructing)
        )
        model = reconstructing.quantized_model()
        reconstruct(
            model,
            finalist.allocation,
            reconstructing.calibration(),
            reconstructing.quantizer.reconstruction,
            steps=reconstructing.quantizer.reconstruction_steps,
            generator=torch.Generator().manual_seed(allocation_seed(finalist.allocation)),
        )
        counts = evaluate(model, reconstructing.images["test"], 32)
        assert (repaired.samples, repaired.accuracy) == (50, counts.accuracy)
        assert repaired.loss == pytest.approx(counts.loss, rel=1e-9)
        assert repaired.loss != pytest.approx(plain.loss, rel=1e-6)

    def test_any_worker_finds_the_same_whatever_it_measured_before(self, reconstructing, finalist):
        other = replace(finalist, allocation=BitAllocation.uniform(reconstructing.layers, 4, 8))
        worker = Worker(reconstructing)
        together = measure(worker, [other, finalist])
        assert facts(together[1:]) == facts(measure(Worker(reconstructing), [finalist]))
        assert facts(together[:1]) == facts(measure(worker, [other]))

    def test_searches_the_float_network_and_8_bits_are_measured_as_without(
        self, workload, reconstructing, finalist, monkeypatch
    ):
        def never(*args, **kwargs):
            raise AssertionError("reconstructed")

        monkeypatch.setattr("bitfront.studies.evaluation.reconstruct", never)
        layers = workload.layers
        asked = [
            replace(finalist, split="search"),
            Request(BitAllocation.uniform(layers, 32), "test"),
            Request(BitAllocation.uniform(layers, 8), "test"),
            Request(BitAllocation.uniform(layers, 16, 8), "test"),
        ]
        expected = facts(measure(Worker(workload), asked))
        assert facts(measure(Worker(reconstructing), asked)) == expected
        (failed,) = measure(Worker(reconstructing), [finalist])
        assert "could not be measured: AssertionError: reconstructed" in failed.error

    def test_a_width_by_channel_below_8_is_enough(self, reconstructing):
        first = reconstructing.layers[1]
        allocation = BitAllocation.uniform(reconstructing.layers, 8).replace(
            first.name, weight=[4] + [8] * (first.out_channels - 1)
        )
        assert Worker(reconstructing)._is_reconstructed(Request(allocation, "test"))


class TestAdaptation:
    """Allocations that the network is adapted to before they are measured."""

    @pytest.fixture
    def asked(self, workload):
        return Request(BitAllocation.uniform(workload.layers, 2, 3))

    @pytest.fixture(params=["batch-norm", "fine-tune"])
    def adapting(self, workload, request):
        config = AdaptationConfig(method=request.param, images=30, batch_size=10, lr=0.01)
        training = workload.images["search"].subset(np.arange(30))
        is_trained = request.param == "fine-tune"
        return replace(workload, adaptation=config, fine_tuning=training if is_trained else None)

    def test_what_is_measured_is_the_adapted_network(self, workload, adapting, asked):
        plain, adapted = (measure(Worker(one), [asked])[0] for one in (workload, adapting))
        model, images = adapting.quantized_model(), adapting.adaptation_images
        model.set_allocation(asked.allocation)
        if adapting.fine_tuning is None:
            with BatchNorms(model, images, 32).corrected(asked.allocation):
                counts = evaluate(model, workload.images["search"], 32)
        else:
            fine_tune(
                model,
                asked.allocation,
                images,
                workload.images["calibration"],
                adapting.adaptation,
                batch_size=32,
                seed=allocation_seed(asked.allocation),
                threads=1,
            )
            counts = evaluate(model, workload.images["search"], 32)
        assert (adapted.samples, adapted.accuracy) == (40, counts.accuracy)
        assert adapted.loss == pytest.approx(counts.loss, rel=1e-9)
        assert adapted.loss != pytest.approx(plain.loss, rel=1e-6)

    def test_the_images_it_takes_are_counted(self, workload, adapting, asked):
        (adapted,) = measure(Worker(adapting), [asked])
        passed = (30, 0) if adapting.fine_tuning is None else (30 + 2 * 32, 30)
        assert (adapted.images_forward, adapted.images_backward) == passed
        (plain,) = measure(Worker(workload), [asked])
        assert (plain.images_forward, plain.images_backward) == (0, 0)

    def test_any_worker_finds_the_same_whatever_it_measured_before(self, adapting, sweep, asked):
        worker = Worker(adapting)
        together = measure(worker, [*sweep[:2], asked])
        alone = [measure(Worker(adapting), [one])[0] for one in (asked, *sweep[:2])]
        assert facts(together) == facts([*alone[1:], alone[0]])
        assert facts(together[:1]) == facts(measure(worker, sweep[:1]))

    def test_only_finalists_are_adapted_if_so_asked(self, workload, adapting, asked):
        late = replace(adapting, adaptation=replace(adapting.adaptation, when="finalists"))
        finalist = replace(asked, split="test")
        worker = Worker(late)
        assert facts(measure(worker, [asked])) == facts(measure(Worker(workload), [asked]))
        assert facts(measure(worker, [finalist])) == facts(measure(Worker(adapting), [finalist]))

    def test_the_float_network_is_measured_as_it_is(self, workload, adapting):
        request = Request(BitAllocation.uniform(workload.layers, 32), "test")
        expected = facts(measure(Worker(workload), [request]))
        assert facts(measure(Worker(adapting), [request])) == expected

    def test_what_is_not_finite_in_the_end_was_adapted_all_the_same(self, adapting, asked):
        pixels = adapting.images["search"].images.astype(np.float32)
        pixels[3, 0, 2, 2] = math.nan
        broken = replace(adapting.images["search"], images=pixels)
        worker = Worker(replace(adapting, images={**adapting.images, "search": broken}))
        (failed,) = measure(worker, [asked])
        assert "not finite" in failed.error
        passed = (30, 0) if adapting.fine_tuning is None else (30 + 2 * 32, 30)
        assert (failed.images_forward, failed.images_backward) == passed

    def test_what_diverges_fails_with_the_reason(self, workload, asked):
        config = AdaptationConfig(method="fine-tune", lr=1e38, batch_size=10)
        diverging = replace(workload, adaptation=config, fine_tuning=workload.images["search"])
        (failed,) = measure(Worker(diverging), [asked])
        assert "could not be measured: training diverged" in failed.error
        assert (failed.images_forward, failed.images_backward) == (40 + 2 * 32, 40)
