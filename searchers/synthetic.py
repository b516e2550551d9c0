"""Small problems to try strategies on: an accuracy with a formula, so that the best is known."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..energy import EnergyModel, load_table, usage_costs
from ..spaces import (
    BitAllocation,
    Bits,
    BitSpace,
    Layer,
    Measurement,
    Usage,
    objective,
    pareto_front,
)
from .budget import Budget
from .checkpoint import CheckpointStore
from .learnprec_plan import usage_of
from .problem import Evaluator, ModelSource, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..models.dynamic.network import DynamicNetwork
    from ..models.images import ImageSet
    from ..models.quantized import QuantizedModel
    from .problem import Networks

TABLE = "horowitz-45nm"
SAMPLES = 1000
INPUT_SHAPE = (1, 8, 8)
CLASSES = 10
TRAINING_IMAGES = 64


class AdditiveLandscape:
    """An evaluator whose accuracy is 0.95 minus a loss for every operand, and never below 0.1.

    An operand of b bits in a layer of sensitivity s loses s 4^-b, as the mean squared error of a
    uniform quantizer does; per channel, the mean over the channels. Sensitivities are log-uniform
    over a factor of 100. A trained network has the accuracy of its allocation, less up to 0.001 by
    its digest, so that it can be told from others. One that chooses the widths of its channels is
    run to see what it chooses, and has the mean of what that loses.

    Args:
        energy: Prices what is measured.
        seed: Seed of the sensitivities; not of the trial.
        model: The network, where some choose the widths of their channels.
    """

    _usages: ClassVar[dict[str, Usage]] = {}
    """What networks chose that were handed over, by digest: as a ledger has it, for all of these
    evaluators, since another run of a trial asks by digests alone."""

    def __init__(
        self, energy: EnergyModel, seed: int = 0, model: ModelSource | None = None
    ) -> None:
        self.energy = energy
        self._model = model
        shape = (2, len(energy.layers))
        self.sensitivity = 0.1 * 100.0 ** np.random.default_rng(seed).random(shape)

    def accuracy(self, allocation: BitAllocation) -> float:
        """Return the accuracy the formula gives."""
        lost = np.array([_noise(allocation.weights), _noise(allocation.activations)])
        return max(0.1, 0.95 - float((self.sensitivity * lost).sum()))

    def measure(
        self, allocation: BitAllocation, fidelity: float = 1.0, network: str | None = None
    ) -> Measurement:
        """Return the measurement of one allocation, with the trained network of a digest."""
        accuracy, costs = self.accuracy(allocation), self.energy.costs(allocation)
        if network is not None:
            accuracy -= 0.001 * int(network[:8], 16) / 16**8
        samples = round(SAMPLES * fidelity)
        return Measurement(
            allocation=allocation,
            accuracy=accuracy,
            accuracy_se=(accuracy * (1 - accuracy) / samples) ** 0.5,
            loss=1.0 - accuracy,
            energy_vs_fp32=costs.energy_vs_fp32,
            energy_vs_w8a8=costs.energy_vs_w8a8,
            energy_pj=costs.energy_pj,
            energy_table=self.energy.table.id,
            size_bytes=costs.size_bytes,
            bops=costs.bops,
            mean_weight_bits=costs.mean_weight_bits,
            mean_activation_bits=costs.mean_activation_bits,
            samples=samples,
            wall_s=0.0,
            fidelity=fidelity,
            network=network,
        )

    def __call__(
        self,
        allocations: Sequence[BitAllocation],
        *,
        fidelity: float = 1.0,
        networks: "Networks | None" = None,
    ) -> list[Measurement]:
        """Return one measurement per allocation, in the same order."""
        if networks is None:
            return [self.measure(allocation, fidelity) for allocation in allocations]
        return [
            self._measure_network(allocation, fidelity, network)
            for allocation, network in zip(allocations, networks, strict=True)
        ]

    def _measure_network(
        self, allocation: BitAllocation, fidelity: float, network: Any
    ) -> Measurement:
        digest = network if isinstance(network, str) else network.digest
        measured = self.measure(allocation, fidelity, digest)
        dynamic = getattr(network, "dynamic", None)
        if dynamic is not None and dynamic.kind == "channels":
            self._usages[digest] = self._usage(network)
        if digest not in self._usages:
            return measured
        usage = self._usages[digest]
        costs = usage_costs(self.energy, usage)
        lost = sum(
            share * float(self.sensitivity[:, number] @ 4.0 ** -np.array([weight, activation]))
            for number, triples in enumerate(usage.shares)
            for weight, activation, share in triples
        )
        accuracy = max(0.1, 0.95 - lost) - 0.001 * int(digest[:8], 16) / 16**8
        return replace(
            measured,
            accuracy=accuracy,
            loss=1.0 - accuracy,
            energy_vs_fp32=costs.energy_vs_fp32,
            energy_vs_w8a8=costs.energy_vs_w8a8,
            energy_pj=costs.energy_pj,
            size_bytes=costs.size_bytes,
            bops=costs.bops,
            mean_weight_bits=costs.mean_weight_bits,
            mean_activation_bits=costs.mean_activation_bits,
            dynamic=usage,
        )

    def _usage(self, network: "DynamicNetwork") -> Usage:
        from ..models.dynamic.operands import gated

        assert self._model is not None, "give the landscape the network that chooses"
        ((images, _),) = self._model.calibration()
        model = self._model.quantized_model()
        if network.backbone is not None:
            float_model, config = self._model.float_model(), model.config
            model = network.deploy(float_model, self.energy.layers, config, [images])
        model.set_allocation(network.allocation)
        gates = network.gates({layer.name: layer for layer in self.energy.layers})
        with gated(model, gates):
            model(images)
        shares = {}
        for place, gate in gates.items():
            assert gate.last is not None
            counts = np.bincount(gate.last.numpy().ravel(), minlength=len(gate.widths))
            shares[place] = counts / counts.sum()
        return usage_of(self.energy, network.dynamic, shares, len(images))


@dataclass
class KeptCheckpoint:
    """A `CheckpointStore` for one trial, in memory.

    Attributes:
        data: The last checkpoint that was put; None if none was.
    """

    data: bytes | None = None

    def get(self) -> bytes | None:
        """Return the last checkpoint that was put."""
        return self.data

    def put(self, data: bytes) -> None:
        """Keep a checkpoint in place of the one before."""
        self.data = data


@dataclass
class TinyNetwork:
    """A random convolutional network for 8 x 8 images, as `ModelSource`; brings torch.

    Attributes:
        seed: Seed of its weights and of its calibration images.
    """

    seed: int = 0
    device: ClassVar[str] = "cpu"
    layers: tuple[Layer, ...] = field(init=False)

    def __post_init__(self) -> None:
        import torch
        from torch import nn

        from ..models.profile import profile

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._model = nn.Sequential(
                *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
            ).eval()
            self._images = torch.rand(16, *INPUT_SHAPE)
        self.layers = profile(self._model, INPUT_SHAPE)

    @property
    def digest(self) -> str:
        """The network's name."""
        return f"tiny-network-{self.seed}"

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network."""
        from ..models.config import QuantizerConfig
        from ..models.quantized import QuantizedModel

        model = QuantizedModel(self._model, self.layers, QuantizerConfig())
        model.calibrate([self._images])
        return model

    def calibration(self) -> "Sequence[tuple[Tensor, Tensor]]":
        """Return one batch of 16 images, labelled 0 to 9 in turn."""
        import torch

        return [(self._images, torch.arange(16) % CLASSES)]

    def float_model(self, initial: bool = False) -> "nn.Module":
        """Return a copy of the network, whose initial weights are the only ones it has."""
        return copy.deepcopy(self._model)

    def training(self) -> "ImageSet":
        """Return 64 images, labelled 0 to 9 in turn; the higher the label, the brighter."""
        from ..models.images import ImageSet

        labels = np.arange(TRAINING_IMAGES) % CLASSES
        noise = np.random.default_rng(self.seed).random((TRAINING_IMAGES, *INPUT_SHAPE))
        images = (noise + labels.reshape(-1, 1, 1, 1)) / CLASSES
        return ImageSet(images.astype(np.float32), labels, (0.5,), (0.25,))


def synthetic_layers(count: int = 4, side: int = 8) -> tuple[Layer, ...]:
    """Return convolutions of four channels on equal images; the first and the last are small.

    Args:
        count: How many; all but two are free in a space that pins the first and the last.
        side: Height and width of the images.
    """
    return tuple(
        _convolution(
            f"conv{i}",
            in_channels=1 if i == 0 else 4,
            kernel=1 if i == count - 1 else 3,
            side=side,
        )
        for i in range(count)
    )


def _convolution(name: str, *, in_channels: int, kernel: int, side: int) -> Layer:
    weights, positions = in_channels * 4 * kernel**2, side**2
    return Layer(
        name=name,
        kind="conv",
        macs=weights * positions,
        weight_count=weights,
        bias_count=4,
        input_count=in_channels * positions,
        output_count=4 * positions,
        in_channels=in_channels,
        out_channels=4,
        kernel=(kernel, kernel),
        positions=positions,
        input_size=(side, side),
        source=f"input of {name}",
    )


def tabular_problem(
    *,
    evaluations: int = 20,
    seed: int = 0,
    limits: Mapping[str, float] | None = None,
    widths: Sequence[int] = (2, 4, 6, 8),
    layers: Sequence[Layer] | None = None,
    energy: EnergyModel | None = None,
    model: ModelSource | None = None,
    landscape_seed: int = 0,
    wrap: Callable[[Evaluator], Evaluator] = lambda evaluator: evaluator,
    objectives: Sequence[str] = ("accuracy", "energy"),
    checkpoints: CheckpointStore | None = None,
    **space: Any,
) -> Problem:
    """Return a problem that is answered by a formula, in microseconds.

    Args:
        evaluations: The budget.
        seed: The trial's seed.
        limits: The budget's limits.
        widths: What weights and activations of the inner layers may take.
        layers: The network's layers; `synthetic_layers` if None, which with the default widths
            makes a space of 256.
        energy: Prices the layers, which then are its own; by `TABLE` if None.
        model: The network, for strategies that look into it.
        landscape_seed: Seed of the sensitivities.
        wrap: Makes the evaluator that is used of the one with the formula.
        objectives: What is compared.
        checkpoints: Keeps what the strategy saves.
        space: More for `BitSpace.build`: ``granularity``, ``pins``, ``ties`` and so on.
    """
    if energy is None:
        layers = synthetic_layers() if layers is None else layers
        energy = EnergyModel(load_table(TABLE), layers)
    return Problem(
        BitSpace.build(energy.layers, **{"weights": widths, "activations": widths, **space}),
        energy,
        wrap(AdditiveLandscape(energy, landscape_seed, model)),
        Budget(evaluations, limits or {}),
        seed=seed,
        objectives=[objective(name) for name in objectives],
        model=model,
        checkpoints=checkpoints,
    )


def model_problem(**options: Any) -> Problem:
    """Return a `tabular_problem` over the layers of a `TinyNetwork`, which it carries.

    Args:
        options: As for `tabular_problem`, but for ``layers`` and ``model``.
    """
    network = TinyNetwork()
    return tabular_problem(layers=network.layers, model=network, **options)


def true_front(problem: Problem, landscape_seed: int = 0) -> list[Measurement]:
    """Return the best there is: the front over every allocation of a `tabular_problem`.

    Args:
        problem: The problem; its budget is not charged.
        landscape_seed: The seed it was made with.
    """
    everything = AdditiveLandscape(problem.energy, landscape_seed)(list(problem.space.enumerate()))
    return pareto_front([m for m in everything if problem.within(m)], problem.objectives)


def _noise(operands: Sequence[Bits]) -> npt.NDArray[np.float64]:
    """Return 4^-b of every layer, the mean over channels where they differ."""
    return np.array([np.mean(4.0 ** -np.asarray(bits, dtype=np.float64)) for bits in operands])
