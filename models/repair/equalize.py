"""Cross-layer equalization: the weight ranges of neighbouring layers made alike.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and
Bias Correction" (arXiv:1906.04721), section 4.1: with an activation function ``f(s x) = s f(x)``
between two layers, a channel's weights in the first can be divided by any ``s > 0`` and in the
second multiplied by it. ``s = sqrt(r1 / r2)`` gives the channel the same range in both, the
geometric mean of its ranges r1 and r2. ReLU is such a function, and so are pooling and no function
at all; ReLU6, which saturates, and PReLU, which has weights, are left alone. Biases that grow are
not absorbed.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..plain_layers import plain_kind
from ..quantized_layers import QuantizedLayer, QuantizedWeightLayer
from .flow import Graph, traced
from .unchanged import check_unchanged

_ROUNDS = 40
_SETTLED = 1e-3  # of the logarithm of a factor
_LARGEST_FACTOR = 2.0**12  # in all; channels that are next to dead would ask for any

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

Pair = tuple[QuantizedWeightLayer, QuantizedWeightLayer]


def equalize(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Equalize the weights of all pairs of layers that allow it; the output stays the same.

    A pair is two layers with nothing but a positively homogeneous function between them, where
    nothing else reads what is between, and neither layer is used twice or shares its weights.

    Args:
        network: Made of quantized layers, in float; weights change in place. One whose operations
            cannot be traced is left as it is.
        example: An input that shows how data flows.

    Returns:
        Names of the pairs.

    Raises:
        ModelError: If the output for the example changes.
    """
    with torch.no_grad():
        pairs = _pairs(traced(network, example), network)
        if not pairs:
            return []
        before = network(example)
        _balance(pairs)
        check_unchanged(before, network(example), "cross-layer equalization")
    return [(first.layer.name, second.layer.name) for first, second in pairs]


def _pairs(graph: Graph | None, network: nn.Module) -> list[Pair]:
    if graph is None:
        return []
    uses = Counter(operation.layer for operation in graph.operations)
    owners = Counter(
        id(module._parameters.get("weight"))
        for module in network.modules()
        if not isinstance(module, QuantizedLayer)
    )
    pairs: list[Pair] = []
    for place, operation in enumerate(graph.operations):
        first = operation.layer
        second = _next_layer(graph, place)
        if (
            _is_free(first, uses, owners)
            and _is_free(second, uses, owners)
            and isinstance(first, QuantizedWeightLayer)
            and isinstance(second, QuantizedWeightLayer)
            and first.layer.out_channels == second.layer.in_channels
        ):
            pairs.append((first, second))
    return pairs


def _next_layer(graph: Graph, place: int) -> QuantizedLayer | None:
    """Return the layer that alone reads a layer's output, through functions that scale with it."""
    while place != graph.output and len(graph.readers[place]) == 1:
        (place,) = graph.readers[place]
        operation = graph.operations[place]
        if operation.layer is not None:
            return operation.layer
        is_pool = operation.kind == "call" and type(operation.call) in _POOLS
        is_relu = operation.kind == "activation" and operation.activation in ("relu", "none")
        if not (is_pool or is_relu):
            return None
    return None


def _is_free(
    layer: QuantizedLayer | None, uses: Counter[QuantizedLayer | None], owners: Counter[int]
) -> bool:
    return (
        isinstance(layer, QuantizedWeightLayer)
        and plain_kind(layer.inner) is not None
        and uses[layer] == 1
        and owners[id(layer.inner._parameters["weight"])] == 1
    )


def _balance(pairs: Sequence[Pair]) -> None:
    """Equalize all pairs in turn until none changes: a layer may be in two of them."""
    total = [torch.ones(first.layer.out_channels) for first, _ in pairs]
    for _ in range(_ROUNDS):
        largest = 0.0
        for number, (first, second) in enumerate(pairs):
            made, read = first.inner.get_parameter("weight"), second.inner.get_parameter("weight")
            factor = _factor(output_ranges(made), input_ranges(read, second.inner))
            so_far = total[number].to(factor)
            bounded = (so_far * factor).clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
            factor, total[number] = bounded / so_far, bounded
            made.div_(factor.view(-1, *[1] * (made.dim() - 1)))
            if (bias := first.inner._parameters["bias"]) is not None:
                bias.div_(factor)
            scale_inputs(second.inner, factor)
            largest = max(largest, float(factor.log().abs().max()))
        if largest < _SETTLED:
            break


def _factor(made: Tensor, read: Tensor) -> Tensor:
    usable = (made > 0) & (read > 0)
    return torch.where(usable, (made / torch.where(usable, read, 1.0)).sqrt(), 1.0)


def output_ranges(weight: Tensor) -> Tensor:
    """Return the largest magnitude of the weights of each output channel."""
    return weight.flatten(1).abs().amax(dim=1)


def input_ranges(weight: Tensor, module: nn.Module) -> Tensor:
    """Return the largest magnitude of the weights on each input channel.

    Args:
        weight: Of the module.
        module: A convolution or linear layer.
    """
    return _by_input(weight, module).abs().amax(dim=(1, 3)).flatten()


def scale_inputs(module: nn.Module, factor: Tensor) -> None:
    """Multiply the weights on each input channel, in place.

    Args:
        module: A convolution or linear layer.
        factor: ``[in]``.
    """
    weight = module.get_parameter("weight")
    by_input = _by_input(weight, module)
    scaled = by_input * factor.view(len(by_input), 1, -1, 1)
    weight.copy_(scaled.reshape(weight.shape))


def _by_input(weight: Tensor, module: nn.Module) -> Tensor:
    """Return ``groups x outputs of a group x inputs of a group x kernel``."""
    groups = getattr(module, "groups", 1)
    return weight.detach().reshape(groups, len(weight) // groups, weight.shape[1], -1)
