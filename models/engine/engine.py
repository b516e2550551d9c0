"""A quantized network on integer kernels."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...spaces import FLOAT_BITS, BitAllocation, ModelError
from ..attention import MatMul
from ..dynamic.operands import gated, gates_of
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedLayer, QuantizedWeightLayer
from .check import disagreements
from .graph import Graph, TraceError, trace
from .kernels import available, supports
from .layerwise import kernels_of, layer_disagreements, layer_plans
from .plan import Plan, costs, make_plan, shared_steps
from .run import run_each
from .steps import OTHER_GATES
from .weights import PackedWeights

_TOLERANCE = 1e-2
"""Most that logits may differ, norm over norm. They are equal while sums stay below 2^24; beyond,
a code may move over a rounding boundary."""

_WORTH_SHARING = 0.05
"""Share of the multiply-accumulates that plans must have in common to be run together."""

Run = Callable[[Tensor], list[Tensor]]
"""From images to the logits of each of several allocations."""


class EngineWarning(UserWarning):
    """Something runs on the reference path that could have run on integer kernels."""


@dataclass(frozen=True)
class EngineReport:
    """What runs where.

    Attributes:
        integer: Layers that run on integer kernels where they have at most 8 bits.
        reference: Why the others do not, by name.
    """

    integer: tuple[str, ...]
    reference: Mapping[str, str]


class Engine:
    """Runs a `QuantizedModel` with integer kernels wherever an allocation allows it.

    A layer runs on integer kernels if its weights and its input have at most 8 bits and a kernel
    can compute it; every other operation runs as the model has it. The model stays the definition
    of correct, and the logits are its own bit for bit while sums of products stay below 2^24.
    Every layer is compared with it once, on the same codes, and computes by it from then on, with
    a warning, if the two disagree.

    It is for inference: there are no gradients. Weights may change between calls; after another
    `QuantizedModel.calibrate` a new engine is needed.

    Examples:
        >>> import torch
        >>> from bitfront.models.profile import profile
        >>> from bitfront.models.zoo import build_model
        >>> network = build_model("cnn5", classes=10, input_shape=(1, 28, 28))
        >>> layers, images = profile(network, (1, 28, 28)), torch.zeros(4, 1, 28, 28)
        >>> model = QuantizedModel(network, layers)
        >>> model.calibrate([images])
        >>> engine = Engine(model, images)
        >>> engine.forward(images, BitAllocation.uniform(layers, 4)).shape
        torch.Size([4, 10])

    Args:
        model: The calibrated network.
        example: A few images for the comparison.
        cache_bytes: Most memory for packed weights.
        shared_bytes: Most memory for values that several allocations share; see `prepare`.

    Attributes:
        model: The network.
        report: What runs where.
    """

    def __init__(
        self,
        model: QuantizedModel,
        example: Tensor,
        *,
        cache_bytes: int = 256 * 2**20,
        shared_bytes: int = 256 * 2**20,
    ) -> None:
        self.model = model
        self._shared_bytes = shared_bytes
        self._weights = PackedWeights(cache_bytes)
        self._graph: Graph | None = None
        with torch.inference_mode(), gated(model, {}):
            reasons = self._reasons(example)
        names = [layer.name for layer in model.layers]
        self.report = EngineReport(tuple(name for name in names if name not in reasons), reasons)

    def forward(self, x: Tensor, allocation: BitAllocation | None) -> Tensor:
        """Return the logits of a batch of images.

        Args:
            x: Images.
            allocation: The widths; None for float.

        Raises:
            ModelError: If the allocation is not for this network.
            NonFiniteError: If a layer is given values that are not finite.
        """
        return self.prepare([allocation])(x)[0]

    def forward_each(self, x: Tensor, allocations: Sequence[BitAllocation | None]) -> list[Tensor]:
        """Return the logits of several allocations; see `prepare`."""
        return self.prepare(allocations)(x)

    def prepare(self, allocations: Sequence[BitAllocation | None]) -> Run:
        """Return a function from images to the logits of each of several allocations.

        The logits are bit for bit those of each allocation alone. What allocations have in common
        from the first layer on is computed once.

        Gates that are in force are asked in place of the widths they choose from; the function is
        for as long as they are. What they chose for a batch can be known of one allocation at a
        time only.

        Args:
            allocations: The widths of each; None for float.

        Raises:
            ModelError: If one is not for this network.
        """
        for allocation in allocations:
            self.model.check(allocation)
            self.model.repair(allocation)
        if not allocations:
            return lambda x: []
        if self._graph is None:
            integer = frozenset(self.report.integer)
            return lambda x: [self._by_layer(x, widths, integer) for widths in allocations]
        plans = [self._plan(allocation) for allocation in allocations]
        gates = gates_of(self.model)

        def run(x: Tensor) -> list[Tensor]:
            if gates_of(self.model) != gates:
                raise ModelError(OTHER_GATES)
            return self._run(plans, x)

        return run

    def together(self, allocations: Sequence[BitAllocation | None]) -> list[list[int]]:
        """Return groups of allocations that are worth preparing together, by their numbers."""
        if self._graph is None:
            return [[number] for number in range(len(allocations))]
        plans = [self._plan(allocation) for allocation in allocations]
        groups: list[list[int]] = []
        for number, plan in enumerate(plans):
            if groups and _common_share(plans[groups[-1][-1]], plan) >= _WORTH_SHARING:
                groups[-1].append(number)
            else:
                groups.append([number])
        return groups

    @contextmanager
    def kernels(self, allocation: BitAllocation | None) -> Iterator[None]:
        """Let the model itself compute with integer kernels, layer by layer, at an allocation.

        It is slower than `forward`, which computes more in one call; but what each layer returns
        can be seen and changed.
        """
        integer = frozenset(self.report.integer)
        with self._on_kernels(allocation, integer):
            yield

    @contextmanager
    def _on_kernels(
        self, allocation: BitAllocation | None, integer: frozenset[str]
    ) -> Iterator[None]:
        plans = layer_plans(self.model, self._widths(allocation), integer, self._weights)
        with self._at(allocation), kernels_of(plans):
            yield

    @torch.inference_mode()
    def _run(self, plans: Sequence[Plan], x: Tensor) -> list[Tensor]:
        return run_each(plans, [self.model.arranged(x)], shared_bytes=self._shared_bytes)

    @torch.inference_mode()
    def _by_layer(
        self, x: Tensor, allocation: BitAllocation | None, integer: frozenset[str]
    ) -> Tensor:
        with self._on_kernels(allocation, integer):
            logits: Tensor = self.model(x)
            return logits

    @contextmanager
    def _at(self, allocation: BitAllocation | None) -> Iterator[None]:
        before = self.model.allocation
        self.model.set_allocation(allocation)
        try:
            yield
        finally:
            self.model.set_allocation(before)

    def _plan(self, allocation: BitAllocation | None) -> Plan:
        assert self._graph is not None
        integer = frozenset(self.report.integer)
        return make_plan(self._graph, self._widths(allocation), integer, self._weights)

    def _widths(self, allocation: BitAllocation | None) -> BitAllocation:
        return allocation or BitAllocation.uniform(self.model.layers, FLOAT_BITS)

    def _reasons(self, example: Tensor) -> dict[str, str]:
        """Find out which layers cannot run on integer kernels, and why."""
        layers = self.model.quantized_layers
        if (reason := available()) is not None:
            _warn(f"no integer kernels: {reason}")
            return dict.fromkeys(layers, reason)
        try:
            self._graph = trace(self.model.network, self.model.arranged(example))
        except TraceError as error:
            _warn(f"layers run on integer kernels one by one: the network is not traced: {error}")
        reasons = {
            name: reason
            for name, layer in layers.items()
            if (reason := _unsupported(layer)) is not None
        }
        integer = frozenset(set(layers) - set(reasons))
        if self._graph is not None:
            found = self._disagreeing(example, integer)
            if self._agrees(example, partial(self._run_probes, integer=integer - set(found))):
                return reasons | found
            self._graph = None
            _warn("layers run on integer kernels one by one: together they give other logits")
        found = self._disagreeing(example, integer)
        if self._agrees(example, partial(self._probe_layers, integer=integer - set(found))):
            return reasons | found
        _warn("no integer kernels: with them the network gives other logits")
        return dict.fromkeys(layers, "with kernels the network gives other logits")

    def _agrees(self, example: Tensor, run: Callable[[Tensor], list[Tensor]]) -> bool:
        """Whether the model's logits for all probes are what a function gives."""
        try:
            found = run(example)
        except Exception:  # whatever the network makes of a kernel's strides, say
            return False
        for probe, logits in zip(_probes(self.model), found, strict=True):
            with self._at(probe):
                expected: Tensor = self.model(example)
            error = torch.linalg.vector_norm(logits - expected)
            if not error <= _TOLERANCE * torch.linalg.vector_norm(expected):
                return False
        return True

    def _run_probes(self, x: Tensor, integer: frozenset[str]) -> list[Tensor]:
        assert self._graph is not None
        probes = _probes(self.model)
        return self._run([make_plan(self._graph, p, integer, self._weights) for p in probes], x)

    def _probe_layers(self, x: Tensor, integer: frozenset[str]) -> list[Tensor]:
        return [self._by_layer(x, probe, integer) for probe in _probes(self.model)]

    def _disagreeing(self, example: Tensor, integer: frozenset[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for allocation in _probes(self.model):
            if self._graph is None:
                plans = layer_plans(self.model, allocation, integer, self._weights)
                with self._at(allocation):
                    found |= layer_disagreements(self.model, plans, example)
            else:
                plan = make_plan(self._graph, allocation, integer, self._weights)
                found |= disagreements(plan, [self.model.arranged(example)])
        for name, reason in found.items():
            _warn(
                f"layer {name!r} runs on the reference path: its integer kernel gives other "
                f"results ({reason})"
            )
        return found


def _warn(message: str) -> None:
    warnings.warn(message, EngineWarning, stacklevel=2)


def _unsupported(layer: QuantizedLayer) -> str | None:
    if isinstance(layer, QuantizedWeightLayer):
        return supports(layer)
    return None if type(layer.inner) is MatMul else "it has its own way to multiply"


def _probes(model: QuantizedModel) -> list[BitAllocation]:
    """Return allocations that show every layer at 8 bits and at fewer, two with a common start."""
    names = [layer.name for layer in model.layers]
    weights = [2 + number % 7 for number in range(len(names))]
    activations = [2 + (3 * number + 1) % 7 for number in range(len(names))]
    half = len(names) // 2
    return [
        BitAllocation.uniform(model.layers, 8),
        BitAllocation(names, weights, activations),
        BitAllocation(
            names,
            weights[:half] + [8] * (len(names) - half),
            activations[:half] + [8] * (len(names) - half),
        ),
    ]


def _common_share(first: Plan, second: Plan) -> float:
    macs = costs(second)
    return sum(macs[: shared_steps(first, second)]) / max(sum(macs), 1)
