"""A network to train with its quantizers in place, and batch norms as they are."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...spaces import BitAllocation, ModelError
from ..attention import expose_matmuls
from ..observers import Range
from ..plain_layers import plain_kind, plain_product
from ..quantized import QuantizedModel
from ..quantized_layers import ActivationQuantizer as Calibrated
from ..surgery import replace_modules
from ..trained import INPUT, RIGHT, SCALE, STATE, TrainedNetwork
from .config import QatSettings
from .ranges import STARTS, ActivationQuantizer, WeightQuantizer, Width


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _ranges(calibrated: Calibrated) -> list[Range]:
    """Return where the ends of an activation begin, by width."""
    return [calibrated.range(bits) for bits in STARTS]


class TrainableLayer(nn.Module):
    """A layer that computes with quantized operands while a width is set for them.

    Args:
        inner: The convolution, linear layer or product it stands for.
        left: Quantizes its input.
        right: Quantizes its weights, or the right operand of a product.

    Attributes:
        widths: Widths of the weights (or the right operand) and of the input; None for float.
    """

    def __init__(
        self,
        inner: nn.Module,
        left: ActivationQuantizer,
        right: ActivationQuantizer | WeightQuantizer,
    ) -> None:
        super().__init__()
        self.inner, self.left, self.right = inner, left, right
        self.widths: tuple[Width, Width] | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.inner, name)

    def forward(self, *operands: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.widths is None:
            out: Tensor = self.inner(*operands)
            return out
        weight_bits, activation_bits = self.widths
        x = self.left(operands[0], activation_bits)
        if len(operands) == 2:
            out = self.inner(x, self.right(operands[1], weight_bits))
        else:
            weight = self.right(self.inner.get_parameter("weight"), weight_bits)
            out = plain_product(x, weight, self.inner._parameters["bias"], self.inner)
        return out


class TrainableNetwork(nn.Module):
    """A copy of a float network whose layers are quantized at widths that may be tensors.

    Args:
        model: The float network, with its batch norms; it is copied and never changed.
        reference: The same network calibrated, which says where ranges begin.
        settings: How ranges are learned.

    Raises:
        ModelError: If a layer of the reference is not in the network, or has a forward of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: QuantizedModel,
        settings: QatSettings,
    ) -> None:
        super().__init__()
        self.layers = reference.layers
        network = expose_matmuls(copy.deepcopy(model))
        modules = dict(network.named_modules())
        wrapped: dict[str, TrainableLayer] = {}
        kind, scheme = settings.activation_ranges, reference.config.activation_scheme
        for layer in self.layers:
            if layer.name not in modules:
                raise ModelError(f"the network has no layer {layer.name!r}: profile this network")
            inner = modules[layer.name]
            quantized = reference.quantized_layers[layer.name]
            left = ActivationQuantizer(_ranges(quantized.left), kind, scheme)
            right: ActivationQuantizer | WeightQuantizer
            if layer.kind == "matmul":
                right = ActivationQuantizer(_ranges(quantized.right), kind, scheme)
            else:
                if plain_kind(inner) is None:
                    raise ModelError(
                        f"layer {layer.name!r} ({type(inner).__name__}) has a forward of its own, "
                        "and can only be quantized after training"
                    )
                weight = inner.get_parameter("weight")
                right = WeightQuantizer(weight, settings.weight_ranges)
            wrapped[layer.name] = TrainableLayer(inner, left, right)
        self.network = replace_modules(
            network, {modules[name]: layer for name, layer in wrapped.items()}
        )
        self._wrapped = wrapped

    @property
    def trainable_layers(self) -> Mapping[str, TrainableLayer]:
        """The layers by name, in network order."""
        return self._wrapped

    def set_widths(self, weights: Sequence[Width], activations: Sequence[Width]) -> None:
        """Quantize from now on.

        Args:
            weights: Widths of the weights by layer; tensors of their own for gradients.
            activations: Widths of the inputs by layer.
        """
        for layer, *widths in zip(self._wrapped.values(), weights, activations, strict=True):
            layer.widths = widths[0], widths[1]

    def set_allocation(self, allocation: BitAllocation) -> None:
        """Quantize from now on at the widths of an allocation."""
        device = next(self.parameters()).device
        both = torch.tensor([allocation.weights, allocation.activations], dtype=torch.float32)
        weights, activations = both.to(device).unbind()
        self.set_widths(weights.unbind(), activations.unbind())

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Compute without quantizers, leaving the statistics of batch norms as they are.

        While it trains, a batch is then normalised by its own statistics, as in the pass with
        quantizers; only that pass, which is what is deployed, is taken into the running ones.
        """
        widths = [layer.widths for layer in self._wrapped.values()]
        norms = [m for m in batch_norms(self) if m.track_running_stats]
        for layer in self._wrapped.values():
            layer.widths = None
        for norm in norms if self.training else ():
            norm.track_running_stats = False
        try:
            yield
        finally:
            for layer, before in zip(self._wrapped.values(), widths, strict=True):
                layer.widths = before
            for norm in norms:
                norm.track_running_stats = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.network(x)
        return logits

    def float_parameters(self) -> list[nn.Parameter]:
        """Return weights, biases and what else the float network learns."""
        ranges = {id(parameter) for parameter in self.range_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in ranges]

    def range_parameters(self) -> list[nn.Parameter]:
        """Return what the quantizers learn."""
        quantizers = (q for layer in self._wrapped.values() for q in (layer.left, layer.right))
        return [q.log_ratio for q in quantizers if q.log_ratio is not None]

    @torch.no_grad()
    def trained(self, allocation: BitAllocation) -> TrainedNetwork:
        """Return the network as it is now, to run at the widths of an allocation.

        Args:
            allocation: One width for each operand.

        Raises:
            ModelError: If an operand has several.
        """
        arrays = {f"{STATE}{name}": value for name, value in self.float_state().items()}
        for layer, wrapped, weight_bits, input_bits in zip(
            self.layers,
            self._wrapped.values(),
            allocation.weights,
            allocation.activations,
            strict=True,
        ):
            if not (isinstance(weight_bits, int) and isinstance(input_bits, int)):
                raise ModelError("networks are trained with one width per layer and operand")
            arrays[f"{INPUT}{layer.name}"] = torch.stack(wrapped.left.ends(input_bits))
            if isinstance(wrapped.right, ActivationQuantizer):
                arrays[f"{RIGHT}{layer.name}"] = torch.stack(wrapped.right.ends(weight_bits))
            else:
                weight = wrapped.inner.get_parameter("weight")
                arrays[f"{SCALE}{layer.name}"] = wrapped.right.scales(weight, weight_bits)
        return TrainedNetwork(
            allocation, {name: t.detach().cpu().numpy().copy() for name, t in arrays.items()}
        )

    def float_state(self) -> dict[str, Tensor]:
        """Return weights and buffers of the float network, under its own names."""
        state = {}
        for name, tensor in self.network.state_dict().items():
            parts = name.split(".")
            owner = next(
                (prefix for prefix in self._prefixes(parts) if prefix in self._wrapped), None
            )
            if owner is None:
                state[name] = tensor
            elif name.startswith(f"{owner}.inner."):
                state[f"{owner}.{name.removeprefix(f'{owner}.inner.')}"] = tensor
        return state

    @staticmethod
    def _prefixes(parts: Sequence[str]) -> Iterator[str]:
        return (".".join(parts[:count]) for count in range(1, len(parts)))
