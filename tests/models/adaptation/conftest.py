"""A small network with batch norms that mean something, and images for it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.images import ImageSet
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A residual block between a stem and two linear layers, the first with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8, 6)
        self.bn3 = nn.BatchNorm1d(6)
        self.fc2 = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(self.bn2(self.conv(x)) + x)
        x = torch.relu(self.bn3(self.fc1(x.mean((2, 3)))))
        logits: Tensor = self.fc2(x)
        return logits


def image_set(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, 4, count)
    return ImageSet(pixels, labels, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="session")
def calibration() -> ImageSet:
    return image_set(24, seed=0)


@pytest.fixture(scope="session")
def network(calibration: ImageSet) -> nn.Module:
    """The network, its batch norms fitted to the calibration images."""
    torch.manual_seed(0)
    net = Net()
    for norm in (net.bn1, net.bn2, net.bn3):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        net(calibration.batch(slice(None))[0])
    return net.eval()


@pytest.fixture
def model(network: nn.Module, calibration: ImageSet) -> QuantizedModel:
    quantized = QuantizedModel(network, profile(network, SHAPE), QuantizerConfig())
    quantized.calibrate(calibration.batches(24))
    return quantized
