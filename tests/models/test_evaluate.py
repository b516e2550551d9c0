import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models import ImageSet, build_model
from bitfront.models.engine import Engine
from bitfront.models.evaluate import Counts, evaluate, evaluate_each, first_nonfinite
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation


def image_set(images, labels):
    images = np.asarray(images, dtype=np.float32)[:, :, None, None]
    return ImageSet(images, np.asarray(labels, dtype=np.int64), (0.0,) * 2, (1.0,) * 2)


@pytest.fixture
def two_classes():
    """Images whose two pixels are the logits of `nn.Flatten`."""
    return image_set([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [0, 1, 1])


def test_counts_by_hand(two_classes):
    counts = evaluate(nn.Flatten(), two_classes, batch_size=2)
    # -log softmax of the label: log(1 + e^-2), log(1 + e^-1), log(1 + e^3).
    loss = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))
    assert (counts.correct, counts.samples, counts.finite) == (2, 3, True)
    assert counts.loss_sum == pytest.approx(loss, rel=1e-12)
    assert counts.accuracy == pytest.approx(2 / 3)
    assert counts.loss == pytest.approx(loss / 3)
    assert counts.wall_s > 0


def test_a_limit_takes_the_first_images(two_classes):
    assert evaluate(nn.Flatten(), two_classes, batch_size=2, limit=1).samples == 1


def test_no_images_have_no_accuracy():
    counts = Counts(0, 0.0, 0, 0.0, True)
    assert math.isnan(counts.accuracy) and math.isnan(counts.loss)


def test_it_runs_in_evaluation_mode_and_restores_the_mode(two_classes):
    model = nn.Sequential(nn.Dropout(1.0), nn.Flatten()).train()
    assert evaluate(model, two_classes, batch_size=3).correct == 2
    assert model.training and model[0].training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_told(value):
    counts = evaluate(nn.Flatten(), image_set([[1.0, 0.0], [value, 0.0]], [0, 0]), batch_size=1)
    assert not counts.finite


def test_the_first_module_that_gives_nonfinite_values_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    x = torch.ones(1, 2)
    assert first_nonfinite(model, x) is None
    nn.init.constant_(model[1][0].weight, math.inf)
    assert first_nonfinite(model, x) == "1.0"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("bits", [4, 32])
def test_a_quantized_network_names_its_layers_as_the_original_does(bits):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.ones_(model[0].weight)
    quantized = QuantizedModel(model, profile(model, (2,)))
    quantized.calibrate([torch.ones(1, 2)])
    quantized.set_allocation(BitAllocation.uniform(quantized.layers, bits))
    nn.init.constant_(quantized.quantized_layers["0"].inner.bias, 3.0)
    nn.init.constant_(
        quantized.quantized_layers["1"].inner.weight, 3e38
    )  # finite; products are not
    assert first_nonfinite(quantized, torch.ones(1, 2)) == "1"


def test_several_allocations_count_as_each_does_alone(digits):
    network = build_model("cnn5", classes=10, input_shape=digits.input_shape, seed=0)
    model = QuantizedModel(network, profile(network, digits.input_shape))
    calibration, _ = digits.calibration.batch(slice(0, 32))
    model.calibrate([calibration])
    engine = Engine(model, calibration[:4])
    names = [layer.name for layer in model.layers]
    allocations = [
        BitAllocation.uniform(model.layers, 8),
        None,
        BitAllocation(names, [8, 8, 8, 8, 3], [8, 8, 8, 8, 4]),
    ]
    found = evaluate_each(engine, allocations, digits.search, 50, 120)
    for allocation, counts in zip(allocations, found, strict=True):
        (alone,) = evaluate_each(engine, [allocation], digits.search, 50, 120)
        assert replace(counts, wall_s=0) == replace(alone, wall_s=0)
        model.set_allocation(allocation)
        reference = evaluate(model, digits.search, 50, 120)
        assert replace(counts, wall_s=0) == replace(reference, wall_s=0)
