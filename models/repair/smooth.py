"""SmoothQuant: the spread of activations moved into the weights that multiply them.

Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models" (arXiv:2211.10438), equation 4: channel j of the input of
linear layers is divided by ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, and their weights on it
are multiplied by it. The division costs nothing where a layer norm makes the input: its weight and
bias take it over.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..plain_layers import plain_kind
from ..quantized_layers import QuantizedWeightLayer
from .equalize import input_ranges, scale_inputs
from .flow import Graph, traced
from .moments import in_float
from .unchanged import check_unchanged

_SMALLEST = 1e-5  # of a range, and of a factor, as in the paper's code

Norm = nn.LayerNorm


def smooth(
    network: nn.Module, images: Iterable[Tensor], example: Tensor, alpha: float
) -> dict[str, list[str]]:
    """Smooth the inputs of all linear layers that read a layer norm; the output stays the same.

    All readers of a norm must be linear layers; they share one factor for each channel.

    Args:
        network: Made of quantized layers; norms and weights change in place. One whose operations
            cannot be traced is left as it is.
        images: Batches of calibration images, as the network takes them.
        example: An input that shows how data flows.
        alpha: Share of the spread that is moved, 0 to 1.

    Returns:
        Names of the layers by that of the norm that they read.

    Raises:
        ModelError: If the output for the example changes.
    """
    with in_float(network):
        readers = _readers(traced(network, example), network)
        if not readers:
            return {}
        before = network(example)
        largest = _largest_inputs(network, readers, images)
        for norm, layers in readers.items():
            _move(norm, layers, largest[norm], alpha)
        check_unchanged(before, network(example), "smoothing")
    names = {module: name for name, module in network.named_modules()}
    return {names[norm]: [x.layer.name for x in layers] for norm, layers in readers.items()}


def _readers(graph: Graph | None, network: nn.Module) -> dict[Norm, list[QuantizedWeightLayer]]:
    if graph is None:
        return {}
    norm_uses = Counter(operation.call for operation in graph.operations)
    layer_uses = Counter(operation.layer for operation in graph.operations)
    owners = Counter(
        id(p) for module in network.modules() for p in module._parameters.values() if p is not None
    )
    found: dict[Norm, list[QuantizedWeightLayer]] = {}
    for place, operation in enumerate(graph.operations):
        norm = operation.call
        if not _is_affine_norm(norm) or norm_uses[norm] != 1 or place == graph.output:
            continue
        assert isinstance(norm, nn.LayerNorm)
        layers = [graph.operations[reader].layer for reader in graph.readers[place]]
        linear = [
            layer
            for layer in layers
            if isinstance(layer, QuantizedWeightLayer)
            and plain_kind(layer.inner) == "linear"
            and layer_uses[layer] == 1
        ]
        parameters = [norm.weight, norm.bias, *(layer.inner.weight for layer in linear)]
        if linear and len(linear) == len(layers) and all(owners[id(p)] <= 1 for p in parameters):
            found[norm] = linear
    return found


def _is_affine_norm(module: object) -> bool:
    # timm's is recognised by name, so that a network without it never imports timm.
    kind = type(module)
    is_known = kind is nn.LayerNorm or (
        (kind.__module__, kind.__name__) == ("timm.layers.norm", "LayerNorm")
    )
    if not (is_known and isinstance(module, nn.LayerNorm)):
        return False
    return module.weight is not None and len(module.normalized_shape) == 1


def _largest_inputs(
    network: nn.Module, readers: dict[Norm, list[QuantizedWeightLayer]], images: Iterable[Tensor]
) -> dict[Norm, Tensor]:
    """Return the largest magnitude of every channel of what the norms give."""
    largest: dict[Norm, Tensor] = {}

    def note(module: nn.Module, args: object, out: Tensor) -> None:
        assert isinstance(module, nn.LayerNorm)
        found = out.abs().reshape(-1, out.shape[-1]).amax(dim=0)
        largest[module] = torch.maximum(largest.get(module, found), found)

    handles = [norm.register_forward_hook(note) for norm in readers]
    try:
        for x in images:
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return largest


def _move(norm: Norm, layers: list[QuantizedWeightLayer], spread: Tensor, alpha: float) -> None:
    weights = [input_ranges(x.inner.get_parameter("weight"), x.inner) for x in layers]
    weight = torch.stack(weights).amax(dim=0).clamp(min=_SMALLEST)
    factor = spread.clamp(min=_SMALLEST) ** alpha / weight ** (1 - alpha)
    factor = factor.clamp(min=_SMALLEST)
    norm.weight.div_(factor)
    if norm.bias is not None:
        norm.bias.div_(factor)
    for layer in layers:
        scale_inputs(layer.inner, factor)
