"""Small networks with the shapes of data flow that an engine has to get right."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation

SHAPE = (3, 12, 12)


def images(count: int = 8, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """A stem, a block with identity and one with a projection, pooling, a linear layer."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, *, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 1, stride=2)
        self.conv3 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fc = nn.Linear(12, 5)
        self.act = activation(inplace=True) if inplace else activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.conv2(self.act(self.conv1(x))) + x)
        x = self.act(self.conv3(x) + self.down(x))
        return self.fc(x.mean((2, 3)))


class InPlaceSum(nn.Module):
    """Adds into a value that was read before, and reads it again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        seen = x.flatten(1)  # shares the memory that the sum could be written into
        y = self.second(x)
        y += x
        y = y.relu_()
        return self.fc(self.third(y).mean((2, 3)) + seen.mean(1, keepdim=True))


class Broadcast(nn.Module):
    """Adds values of unlike shapes, reads shapes, and uses one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, stride=4)
        self.offset = nn.Parameter(torch.randn(1, 9, 8))
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.proj(x).reshape(batch, 8, -1).transpose(1, 2) + self.offset
        x = x + self.mix(self.norm(x))
        x = x + F.gelu(self.mix(self.norm(x)))
        return self.head(x[:, 0])


class TwoReaders(nn.Module):
    """One value, read by two layers whose widths may differ, and pooled in float."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.fc = nn.Linear(16, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        both = torch.cat([self.left(x), self.right(x), x], 1)
        return self.fc(self.drop(F.adaptive_avg_pool2d(both, 1).flatten(1)))


class Branch(nn.Module):
    """Its control flow depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        dark = bool(x.mean() < 0)
        x = self.conv(x).mean((2, 3))
        return self.fc(-x) if dark else self.fc(x)


class Logarithm(nn.Module):
    """Not a number for images darker than those it was calibrated on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).mean((2, 3)) + torch.log(x.mean() + 1))


def quantized(network: nn.Module, config: QuantizerConfig | None = None) -> QuantizedModel:
    torch.manual_seed(0)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    model = QuantizedModel(network, profile(network, SHAPE), config)
    model.calibrate([images(32, seed=1)])
    return model


def random_allocation(model: QuantizedModel, seed: int, widths: tuple[int, ...]) -> BitAllocation:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> list[int]:
        picks = torch.randint(len(widths), (len(model.layers),), generator=generator)
        return [widths[pick] for pick in picks]

    return BitAllocation([layer.name for layer in model.layers], draw(), draw())


@pytest.fixture(scope="session")
def networks() -> SimpleNamespace:
    """Networks by class, and what makes quantized ones, images and allocations."""
    made = (Residual, InPlaceSum, Broadcast, TwoReaders, Branch, Logarithm)
    functions = (images, quantized, random_allocation)
    return SimpleNamespace(**{thing.__name__: thing for thing in (*made, *functions)})


BY_NAME = {
    "residual": Residual,
    "relu6 in place": lambda: Residual(nn.ReLU6, inplace=True),
    "hardswish": lambda: Residual(nn.Hardswish),
    "hardswish in place": lambda: Residual(nn.Hardswish, inplace=True),
    "silu": lambda: Residual(nn.SiLU),
    "gelu": lambda: Residual(nn.GELU),
    "sum in place": InPlaceSum,
    "broadcast": Broadcast,
    "two readers": TwoReaders,
}


@pytest.fixture(params=BY_NAME)
def model(request: pytest.FixtureRequest) -> QuantizedModel:
    """A calibrated network of every kind."""
    return quantized(BY_NAME[request.param]())
