"""Fine-tuning for an allocation: what it learns, and that what comes out runs as any network."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bitfront.models.adaptation.fine_tune import fine_tune
from bitfront.models.config import AdaptationConfig, QuantizerConfig
from bitfront.models.engine import Engine
from bitfront.models.images import ImageSet
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.train import TrainReport
from bitfront.spaces import BitAllocation, ModelError

CONFIG = AdaptationConfig(method="fine-tune", epochs=3, lr=0.02, batch_size=8)


def fresh(network: nn.Module, calibration: ImageSet) -> QuantizedModel:
    quantized = QuantizedModel(network, profile(network, calibration.shape), QuantizerConfig())
    quantized.calibrate(calibration.batches(24))
    return quantized


def tuned(
    model: QuantizedModel,
    allocation: BitAllocation,
    images: ImageSet,
    config: AdaptationConfig = CONFIG,
    seed: int = 0,
) -> TrainReport:
    return fine_tune(model, allocation, images, images, config, batch_size=24, seed=seed, threads=1)


def mean_loss(model: nn.Module, images: ImageSet) -> float:
    with torch.no_grad():
        x, labels = images.batch(slice(None))
        return float(cross_entropy(model(x), labels))


@pytest.fixture(params=[False, True], ids=["layer", "channel"])
def allocation(model: QuantizedModel, request: pytest.FixtureRequest) -> Iterator[BitAllocation]:
    uniform = BitAllocation.uniform(model.layers, 3, 4)
    yield uniform.replace("conv", weight=[2, 3, 4, 5, 6, 7, 8, 2]) if request.param else uniform


def test_it_learns_what_it_is_shown(
    model: QuantizedModel, allocation: BitAllocation, calibration: ImageSet
) -> None:
    model.set_allocation(allocation)
    before = mean_loss(model, calibration)
    report = tuned(model, allocation, calibration)
    assert mean_loss(model, calibration) < 0.9 * before
    assert (report.steps, report.images) == (9, 72)
    assert model.allocation == allocation and not model.training


def test_the_same_seed_learns_the_same_and_another_does_not(
    network: nn.Module, allocation: BitAllocation, calibration: ImageSet
) -> None:
    logits = []
    for seed in (1, 1, 2):
        model = fresh(network, calibration)
        tuned(model, allocation, calibration, seed=seed)
        with torch.no_grad():
            logits.append(model(calibration.batch(slice(8))[0]))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_engine_and_reference_run_what_was_learned_alike(
    model: QuantizedModel, allocation: BitAllocation, calibration: ImageSet
) -> None:
    tuned(model, allocation, calibration)
    x, _ = calibration.batch(slice(8))
    with torch.no_grad():
        assert torch.equal(Engine(model, x).forward(x, allocation), model(x))


def test_without_steps_to_speak_of_only_batch_norms_are_estimated_again(
    model: QuantizedModel, calibration: ImageSet
) -> None:
    # At 8 bits and a learning rate of next to nothing the network stays what it was.
    allocation = BitAllocation.uniform(model.layers, 8)
    config = AdaptationConfig(method="fine-tune", lr=1e-12, weight_decay=0.0, batch_size=24)
    x, _ = calibration.batch(slice(None))
    with torch.no_grad():
        expected = model(x)
    tuned(model, allocation, calibration, config)
    with torch.no_grad():
        error = (model(x) - expected).norm() / expected.norm()
    assert error < 0.05
    assert not any(layer._forward_hooks for layer in model.quantized_layers.values())


def test_a_network_without_batch_norms_is_trained_as_it_is(calibration: ImageSet) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    model = fresh(network.eval(), calibration)
    allocation = BitAllocation.uniform(model.layers, 4)
    model.set_allocation(allocation)
    before = mean_loss(model, calibration)
    tuned(model, allocation, calibration)
    assert mean_loss(model, calibration) < 0.9 * before


def test_divergence_is_told(
    model: QuantizedModel, allocation: BitAllocation, calibration: ImageSet
) -> None:
    config = AdaptationConfig(method="fine-tune", lr=1e38, batch_size=8)
    with pytest.raises(ModelError, match=r"training diverged: .*; lower lr"):
        tuned(model, allocation, calibration, config)
