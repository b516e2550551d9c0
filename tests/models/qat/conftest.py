"""Small networks to train with their quantizers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.images import ImageSet
from bitfront.models.profile import profile
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.network import TrainableNetwork
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, Layer

CLASSES = 4


class Block(nn.Module):
    """A stem, a depthwise and a pointwise convolution with a residual, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.pointwise = nn.Conv2d(6, 6, 1)
        self.bn3 = nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.stem(x)).relu()
        x = (self.bn3(self.pointwise(self.bn2(self.depthwise(x)).relu())) + x).relu()
        x = self.bn4(self.down(x)).relu()
        return self.fc(x.mean((2, 3)))


@dataclass
class Case:
    """A float network with what is needed to train it.

    Attributes:
        model: The network, with statistics and signs of batch norms that are not those of its
            beginning.
        layers: Its layers.
        images: What it is trained on.
        reference: The network calibrated.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    images: ImageSet
    reference: QuantizedModel

    @property
    def batch(self) -> Tensor:
        return self.images.batch(slice(0, 16))[0]

    @property
    def calibration(self) -> list[tuple[Tensor, Tensor]]:
        return [self.images.batch(slice(0, 32))]

    def uniform(self, bits: int) -> BitAllocation:
        return BitAllocation.uniform(self.layers, bits)

    def trainable(self, bits: int = 4, **settings: object) -> TrainableNetwork:
        chosen = QatSettings(**settings)
        return TrainableNetwork(self.model, self.reference, chosen)


def image_set(count: int, shape: tuple[int, int, int], seed: int = 0) -> ImageSet:
    """Return noise that is the brighter the higher its label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.standard_normal((count, *shape)) + labels.reshape(-1, 1, 1, 1) - 1.5
    return ImageSet(pixels.astype(np.float32), labels, (0.0,) * shape[0], (1.0,) * shape[0])


@torch.no_grad()
def disturb(model: nn.Module, x: Tensor) -> None:
    """Make a network less regular: factors of either sign, shifts and statistics near the true."""
    source = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        sign = torch.where(torch.rand(norm.num_features, generator=source) < 0.3, -1.0, 1.0)
        norm.weight.copy_(sign * (0.5 + torch.rand(norm.num_features, generator=source)))
        norm.bias.copy_(0.2 * torch.randn(norm.num_features, generator=source))
        norm.momentum = 1.0
    model.train()(x)
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
        norm.running_var.mul_(0.8 + 0.4 * torch.rand(norm.num_features, generator=source))
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            module.weight.copy_(torch.randn(module.weight.shape, generator=source) / 4)


NETWORKS = {
    "block": (Block, (2, 8, 8)),
    "cnn5": ("cnn5", (1, 8, 8)),
    "resnet20": ("resnet20", (3, 16, 16)),
    "vit": ("vit_tiny_patch4", (3, 8, 8)),
}
KWARGS = {
    "cnn5": {"width": 4, "hidden": 12},
    "vit": {"embed_dim": 16, "depth": 2, "num_heads": 2, "proj_drop_rate": 0.1},
}


def case_of(name: str) -> Case:
    kind, shape = NETWORKS[name]
    if isinstance(kind, str):
        kwargs = KWARGS.get(name, {})
        model = build_model(kind, classes=CLASSES, input_shape=shape, kwargs=kwargs)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = kind(shape[0]).eval()
    images = image_set(64, shape)
    disturb(model, images.batch(slice(0, 32))[0])
    layers = profile(model, shape)
    reference = QuantizedModel(model, layers, QuantizerConfig().for_training)
    reference.calibrate([images.batch(slice(0, 32))])
    return Case(model, layers, images, reference)


@pytest.fixture
def block() -> Case:
    return case_of("block")


@pytest.fixture(params=sorted(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)
