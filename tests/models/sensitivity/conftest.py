from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitfront.models import QuantizerConfig, build_model
from bitfront.models.config import ScoreConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.sensitivity import compute_scores
from bitfront.spaces import BitAllocation, Scores

Batches = list[tuple[Tensor, Tensor]]


class Residual(nn.Module):
    """Convolutions with a batch norm, a shortcut, and activations that write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = self.relu(x + self.second(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass
class Network:
    """A calibrated network with its images."""

    model: QuantizedModel
    batches: Batches

    @property
    def images(self) -> Tensor:
        return torch.cat([x for x, _ in self.batches])

    @property
    def labels(self) -> Tensor:
        return torch.cat([y for _, y in self.batches])

    def choices(self, *widths: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The same widths for every operand."""
        return [(widths, widths)] * len(self.model.layers)

    def scores(self, kind: Any, *widths: int, **settings: Any) -> Scores:
        config = ScoreConfig(kind=kind, **settings)
        return compute_scores(
            self.model, self.batches, config, self.choices(*(widths or (2, 4, 8))), "name"
        )

    def alone(self, row: int, operand: int, bits: int) -> BitAllocation:
        """One operand quantized and everything else in float."""
        floating = BitAllocation.uniform(self.model.layers, 32)
        what = ("weight", "activation")[operand]
        return floating.replace(self.model.layers[row].name, **{what: bits})

    @torch.no_grad()
    def run(self, allocation: BitAllocation | None, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input (left operand) and output of a layer, and the logits, for all images."""
        seen = {}
        layer = list(self.model.quantized_layers.values())[row]

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            seen["in"], seen["out"] = inputs[0].clone(), out.clone()

        handle = layer.register_forward_hook(keep)
        self.model.set_allocation(allocation)
        logits = self.model(self.images)
        self.model.set_allocation(None)
        handle.remove()
        return seen["in"].double(), seen["out"].double(), logits.double()


def _calibrated(
    network: nn.Module, shape: tuple[int, ...], classes: int, config: QuantizerConfig
) -> Network:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, *shape, generator=generator)
    labels = torch.randint(classes, (10,), generator=generator)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    model = QuantizedModel(network, profile(network, shape), config)
    model.calibrate([images])
    return Network(model, batches)


def residual(config: QuantizerConfig) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Residual()
        nn.init.uniform_(network.norm.running_var, 0.5, 2.0)
        nn.init.normal_(network.norm.running_mean)
    return _calibrated(network.eval(), (1, 6, 6), 5, config)


def transformer(config: QuantizerConfig) -> Network:
    settings = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    network = build_model("vit_tiny_patch4", classes=10, input_shape=(1, 8, 8), kwargs=settings)
    # Its head starts at zero, where quantization changes nothing.
    *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return _calibrated(network, (1, 8, 8), 10, config)


FACTORIES: Sequence[tuple[str, Callable[[], Network]]] = [
    ("residual", lambda: residual(QuantizerConfig())),
    ("symmetric", lambda: residual(QuantizerConfig(activation_scheme="symmetric"))),
    ("transformer", lambda: transformer(QuantizerConfig())),
]


@pytest.fixture(params=[factory for _, factory in FACTORIES], ids=[name for name, _ in FACTORIES])
def network(request: pytest.FixtureRequest) -> Network:
    made: Network = request.param()
    return made


@pytest.fixture
def small() -> Network:
    """The network with convolutions."""
    return residual(QuantizerConfig())


@pytest.fixture
def batches_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images go through the network three at a time."""
    monkeypatch.setattr("bitfront.models.sensitivity.images._LEAST", 3)
    monkeypatch.setattr("bitfront.models.sensitivity.images._MOST", 3)


@pytest.fixture
def calibrate() -> Callable[[nn.Module, tuple[int, ...], int], Network]:
    """Makes a calibrated network with ten random images; weights reach from -max to max."""
    config = QuantizerConfig(weight_observer="minmax")
    return lambda network, shape, classes: _calibrated(network, shape, classes, config)
