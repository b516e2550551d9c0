import numpy as np
import pytest
from torch import is_grad_enabled, nn

from bitfront.models.adaptation.fine_tune import fine_tune
from bitfront.models.config import AdaptationConfig
from bitfront.models.splits import SplitIndices
from bitfront.spaces import BitAllocation, StudyError
from bitfront.studies.adapting import (
    adaptation_notes,
    images_passed,
    is_adapted,
    require_adaptable,
)
from bitfront.studies.requests import Request

INDICES = SplitIndices(
    train=np.arange(100),
    calibration=np.arange(20),
    search=np.arange(100, 110),
    test=np.arange(10),
    one_part=False,
)
NORMALISED = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))


@pytest.mark.parametrize(
    ("method", "when", "split", "expected"),
    [
        ("none", "evaluations", "search", False),
        ("none", "finalists", "test", False),
        ("batch-norm", "evaluations", "search", True),
        ("batch-norm", "evaluations", "test", True),
        ("fine-tune", "finalists", "search", False),
        ("fine-tune", "finalists", "test", True),
    ],
)
def test_what_is_adapted(method, when, split, expected):
    config = AdaptationConfig(method=method, when=when)
    assert is_adapted(Request(BitAllocation(["a", "b"], [8, 8], [8, 8]), split), config) == expected
    trained = Request(BitAllocation(["a", "b"], [8, 8], [8, 8]), split, network="ab" * 16)
    assert not is_adapted(trained, config)


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [([32, 32], [32, 32], False), ([32, 32], [32, 8], True), ([32, [32, 4]], [32, 32], True)],
)
def test_the_float_network_never_is(weights, activations, expected):
    request = Request(BitAllocation(["a", "b"], weights, activations))
    assert is_adapted(request, AdaptationConfig(method="batch-norm")) == expected


@pytest.mark.parametrize(
    ("config", "passed"),
    [
        (AdaptationConfig(), (0, 0)),
        (AdaptationConfig(method="batch-norm"), (100, 0)),
        # Three epochs of one full batch, and 32 images for the statistics before and after.
        (AdaptationConfig(method="fine-tune", epochs=3, batch_size=64), (3 * 64 + 64, 3 * 64)),
        (AdaptationConfig(method="fine-tune", batch_size=512), (164, 100)),
    ],
)
def test_the_images_that_pass(config, passed):
    assert images_passed(config, images=100, estimated=32) == passed


def test_these_are_the_images_that_fine_tuning_passes(tiny_workload):
    config = AdaptationConfig(method="fine-tune", epochs=2, batch_size=12)
    model, images = tiny_workload.quantized_model(), tiny_workload.images
    passed = {True: 0, False: 0}

    def count(module, operands):
        passed[is_grad_enabled()] += len(operands[0])

    model.register_forward_pre_hook(count)
    allocation = BitAllocation.uniform(tiny_workload.layers, 4)
    settings = {"batch_size": 10, "seed": 0, "threads": 1}
    fine_tune(model, allocation, images["search"], images["calibration"], config, **settings)
    expected = images_passed(config, len(images["search"]), len(images["calibration"]))
    assert expected == (2 * 36 + 2 * 32, 2 * 36)
    assert (sum(passed.values()), passed[True]) == expected


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({}, ()),
        (
            {"method": "batch-norm"},
            (
                "before every evaluation batch norms were estimated again on 2,000 calibration "
                "images",
            ),
        ),
        (
            {"method": "fine-tune", "when": "finalists", "epochs": 2},
            (
                "before finalists were tested the network was fine-tuned on 2,000 training images, "
                "epochs: 2",
            ),
        ),
    ],
)
def test_readers_of_results_are_told(settings, notes):
    assert adaptation_notes(AdaptationConfig(**settings), 2000) == notes


@pytest.mark.parametrize("method", ["none", "batch-norm", "fine-tune"])
def test_a_network_with_batch_norms_can_be_adapted(method):
    require_adaptable(AdaptationConfig(method=method, images=20), NORMALISED, INDICES)


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        (AdaptationConfig(method="batch-norm"), nn.Linear(1, 1), "no batch norms to estimate"),
        (
            AdaptationConfig(method="batch-norm", images=21),
            NORMALISED,
            "21 images were asked for, but the calibration split has 20; lower 'images'",
        ),
        (
            AdaptationConfig(method="fine-tune", images=101),
            nn.Linear(1, 1),
            "101 images were asked for, but the train split has 100",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(config, model, message):
    with pytest.raises(StudyError, match=message):
        require_adaptable(config, model, INDICES)
