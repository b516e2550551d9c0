"""Any network as a `QuantizedModel`: widths that switch without rebuilding.

The recipe is that of integer-only inference (Jacob et al., arXiv:1712.05877): batch norm folded,
weights symmetric per output channel, activations per tensor, biases in float.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from ..spaces import FLOAT_BITS, BitAllocation, Bits, Layer, ModelError, nearest
from .attention import expose_matmuls
from .config import QuantizerConfig
from .fold import fold_batch_norms
from .plain_layers import plain_kind
from .profile import is_quantizable
from .quantized_layers import (
    NetworkState,
    QuantizedLayer,
    QuantizedMatMul,
    QuantizedWeightLayer,
    check_finite,
)
from .repair.moments import CalibrationImages, MomentSource
from .repair.weights import WeightRepairer
from .surgery import replace_modules
from .weight_cache import WeightCache

Batch = Tensor | tuple[Tensor, Tensor]
"""Images, or images with their labels."""


class QuantizedModel(nn.Module):
    """A copy of a network whose layers can be switched between widths.

    It starts in float and in evaluation mode. The first `calibrate` shows how data flows: then
    batch norms are folded, and convolutions take the ``channels_last`` memory format (a fifth to a
    third faster in float) if the network runs in it. Until then it computes as the original does.

    Args:
        model: Any network; it is copied and never changed.
        layers: What `profile` found in it.
        config: How ranges are chosen.
        cache_bytes: Most memory for quantized weights that are kept for reuse.

    Raises:
        ModelError: If a layer is not in the network, or has weights that are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        config: QuantizerConfig | None = None,
        *,
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.config = config or QuantizerConfig()
        self._names = tuple(layer.name for layer in self.layers)
        self._is_prepared = False
        self._normalized: tuple[str, ...] = ()
        self._memory_format = torch.contiguous_format
        self._is_calibrated = False
        self._allocation: BitAllocation | None = None
        network = expose_matmuls(copy.deepcopy(model)).eval()
        modules = dict(network.named_modules())
        cache = WeightCache(cache_bytes)
        self._quantized = {
            layer.name: _wrapped(modules, layer, self.config, cache) for layer in self.layers
        }
        self.network = replace_modules(
            network, {modules[name]: wrapper for name, wrapper in self._quantized.items()}
        )
        self.eval()

    @property
    def quantized_layers(self) -> Mapping[str, QuantizedLayer]:
        """The layers by name, in network order."""
        return MappingProxyType(self._quantized)

    @property
    def allocation(self) -> BitAllocation | None:
        """The widths in force; None is float."""
        return self._allocation

    @property
    def normalized(self) -> tuple[str, ...]:
        """Names of the layers into which a batch norm was folded, in the order of their calls."""
        return self._normalized

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Observe the activations of the float network; replaces what was observed before.

        Args:
            batches: Calibration images, or pairs whose labels are ignored.

        Raises:
            ModelError: If there is no batch, an activation is not finite, or a layer is not
                called.
        """
        allocation, training = self._allocation, self.training
        self.eval()
        self.set_allocation(None)
        self._is_calibrated = False
        for layer in self._quantized.values():
            layer.reset()
        images: Iterable[Tensor] = map(images_of, batches)
        if self.config.needs_images:
            images = CalibrationImages(tuple(images))
        for x in images:
            self._prepare(x[:1], images)
            self._observe(x)
        self._check_observed()
        if isinstance(images, CalibrationImages) and self.config.repairs_weights:
            self._repair_with(images)
        self._is_calibrated = True
        self.set_allocation(allocation)
        self.train(training)

    def set_allocation(self, allocation: BitAllocation | None) -> None:
        """Switch every layer to the widths of an allocation.

        Args:
            allocation: Widths for exactly the layers of this model; None for float.

        Raises:
            ModelError: If the allocation is for other layers or channels, or if the model is not
                calibrated.
        """
        self.check(allocation)
        if allocation is None:
            for layer in self._quantized.values():
                layer.weight_bits, layer.activation_bits = FLOAT_BITS, FLOAT_BITS
        else:
            for layer, weight, activation in zip(
                self._quantized.values(), allocation.weights, allocation.activations, strict=True
            ):
                layer.weight_bits, layer.activation_bits = weight, activation
        self._allocation = allocation
        self.repair(allocation)

    def repair(self, allocation: BitAllocation | None) -> None:
        """Have the repairs that an allocation needs made now, so that no forward pass has to.

        Args:
            allocation: One that `check` accepts.
        """
        if allocation is None:
            return
        for layer, bits in zip(self._quantized.values(), allocation.weights, strict=True):
            if isinstance(layer, QuantizedWeightLayer):
                layer.weight_state(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images at the widths in force."""
        logits: Tensor = self.network(self.arranged(x))
        return logits

    def arranged(self, x: Tensor) -> Tensor:
        """Return images in the memory format that the network computes in."""
        return x.contiguous(memory_format=self._memory_format) if x.dim() == 4 else x

    def _prepare(self, example: Tensor, images: Iterable[Tensor]) -> None:
        """Change the network in ways that need to see its data flow; once."""
        if self._is_prepared:
            return
        folded = fold_batch_norms(self.network, example)
        names = (name.removesuffix(".inner") for name in folded.values())
        self._normalized = tuple(name for name in names if name in self._quantized)
        if any(layer.kind == "conv" for layer in self.layers):
            self._set_memory_format(torch.channels_last)
            try:
                with torch.no_grad():
                    self(example)
            except RuntimeError:  # it takes a `view` that only contiguous tensors have
                self._set_memory_format(torch.contiguous_format)
        self._move_ranges(self.arranged(example), images)
        self._is_prepared = True

    def _move_ranges(self, example: Tensor, images: Iterable[Tensor]) -> None:
        # These trace the network, for which the engine has the means; it imports this module.
        if self.config.equalization:
            from .repair.equalize import equalize

            equalize(self.network, example)
        if self.config.smoothing is not None:
            from .repair.smooth import smooth

            smooth(self.network, map(self.arranged, images), example, self.config.smoothing)

    def _repair_with(self, images: CalibrationImages) -> None:
        """Have weights repaired, when they are first needed at a width."""
        layers = {
            name: layer
            for name, layer in self._quantized.items()
            if isinstance(layer, QuantizedWeightLayer) and plain_kind(layer.inner) is not None
        }
        repairer = WeightRepairer(layers, MomentSource(self, layers, images), self.config)
        state = NetworkState(self.network)
        for name, layer in layers.items():
            layer.repairs.reset(partial(repairer.make, name), state)

    def _set_memory_format(self, memory_format: torch.memory_format) -> None:
        self._memory_format = memory_format
        for parameter in self.network.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)

    def _observe(self, x: Tensor) -> None:
        for layer in self._quantized.values():
            layer.observing = True
        try:
            with torch.no_grad():
                self(x)
        finally:
            for layer in self._quantized.values():
                layer.observing = False

    def _check_observed(self) -> None:
        unseen = [name for name, layer in self._quantized.items() if not layer.left.is_calibrated]
        if len(unseen) == len(self._names):
            raise ModelError("calibrate needs at least one batch of images, got none")
        if unseen:
            raise ModelError(f"layer {unseen[0]!r} was not called on the calibration images")

    def check(self, allocation: BitAllocation | None) -> None:
        """Check that `set_allocation` would accept an allocation.

        Raises:
            ModelError: If it would not.
        """
        if allocation is None:
            return
        if allocation.layers != self._names:
            raise ModelError(_first_difference(self._names, allocation.layers))
        for layer, weight, activation in zip(
            self.layers, allocation.weights, allocation.activations, strict=True
        ):
            _check_channels(layer.name, "weight", weight, layer.out_channels, "output")
            _check_channels(layer.name, "activation", activation, layer.in_channels, "input")
        is_float = allocation == BitAllocation.uniform(self.layers, FLOAT_BITS)
        if not (self._is_calibrated or is_float):
            raise ModelError("the model has no ranges yet: call calibrate before set_allocation")


def images_of(batch: Batch) -> Tensor:
    """Return the images of a batch that may have labels."""
    return batch if isinstance(batch, Tensor) else batch[0]


def _wrapped(
    modules: Mapping[str, nn.Module],
    layer: Layer,
    config: QuantizerConfig,
    cache: WeightCache,
) -> QuantizedLayer:
    module = modules.get(layer.name)
    if module is None or not is_quantizable(module):
        known = [name for name, module in modules.items() if is_quantizable(module)]
        raise ModelError(
            f"the network has no quantizable layer {layer.name!r}; {nearest(layer.name, known)}"
        )
    if layer.kind == "matmul":
        return QuantizedMatMul(module, layer, config)
    weight = module.get_parameter("weight")
    if weight.numel() != layer.weight_count:
        raise ModelError(
            f"layer {layer.name!r} has {weight.numel()} weights in the network, "
            f"{layer.weight_count} in its description: profile this network"
        )
    check_finite(module, layer.name)
    return QuantizedWeightLayer(module, layer, config, cache)


def _first_difference(expected: Sequence[str], given: Sequence[str]) -> str:
    for index, (ours, theirs) in enumerate(zip(expected, given, strict=False)):
        if ours != theirs:
            return (
                f"the allocation is for another network: its layer {index} is {theirs!r}, "
                f"the model's is {ours!r}"
            )
    return f"the allocation has {len(given)} layers, the model has {len(expected)}"


def _check_channels(layer: str, operand: str, bits: Bits, channels: int, side: str) -> None:
    if isinstance(bits, np.ndarray) and len(bits) != channels:
        raise ModelError(
            f"layer {layer!r}: {len(bits)} {operand} widths for {channels} {side} channels"
        )
