from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bitfront.models import (
    DataConfig,
    QuantizerConfig,
    TrainConfig,
    build_model,
    load_checkpoint,
    load_data,
    resolve_checkpoint,
    trained_model,
)
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.splits import Splits
from bitfront.spaces import ModelError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="session")
def digits_case(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A trained network, its images, and what quantizes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = trained_model("cnn5", digits, TrainConfig(epochs=3))
    return case(network, digits)


@pytest.fixture
def cifar10_case(shared_data: object) -> SimpleNamespace:
    """The published ResNet-20 on CIFAR-10, 2,000 test images."""
    try:
        path = resolve_checkpoint("cifar10_resnet20.safetensors")
    except ModelError as error:
        pytest.skip(str(error))
    data = load_data(DataConfig(name="cifar10", mean=MEAN, std=STD, test_images=2000))
    network = build_model("resnet20", classes=10, input_shape=data.input_shape)
    load_checkpoint(network, path)
    return case(network.eval(), data)


def case(network: nn.Module, data: Splits) -> SimpleNamespace:
    layers = profile(network, data.input_shape)

    def quantized(**settings: object) -> QuantizedModel:
        model = QuantizedModel(network, layers, QuantizerConfig(**settings))  # type: ignore[arg-type]
        model.calibrate(data.calibration.batches(64))
        return model

    return SimpleNamespace(network=network, data=data, layers=layers, quantized=quantized)


@pytest.fixture
def small_network() -> nn.Module:
    """Every kind of convolution that has moments of its own, in an order that trains nothing."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, (1, 3), padding="same", groups=2, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(12, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 36, 10, bias=False),
        nn.ReLU(),
        nn.Linear(10, 5),
    ).eval()
