"""The sizes of a network's layers as arrays, and which channels meet which."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import KNOWN_WIDTHS, BitAllocation, Bits, Layer, SpaceError

MAX_BITS = max(KNOWN_WIDTHS)


@dataclass(frozen=True)
class Geometry:
    """What a price depends on, one entry per layer, as NumPy arrays or torch tensors.

    Attributes:
        macs: Multiply-accumulates.
        rights: Weights; elements of the right operand of a matmul.
        biases: Biases.
        inputs: Input elements (left operand of a matmul).
        outputs: Output elements.
        sum_growth: Bits by which the largest sum is wider than one product: ceil(log2(products
            in one sum, and one for the bias)).
        blocks: Parts that share neither operand: groups of a convolution, heads of a matmul.
        is_conv: Whether the layer is a convolution.
    """

    macs: Any
    rights: Any
    biases: Any
    inputs: Any
    outputs: Any
    sum_growth: Any
    blocks: Any
    is_conv: Any

    @classmethod
    def of(cls, layers: Sequence[Layer], *, count_tokens: bool = True) -> "Geometry":
        """Return the sizes of layers.

        Args:
            layers: The network, ``L`` layers.
            count_tokens: False counts a linear layer's multiply-accumulates once instead of per
                token, and leaves matmuls out.
        """
        terms = [
            layer.macs / max(layer.output_count, 1) + (layer.bias_count > 0) for layer in layers
        ]
        kept = np.array([count_tokens or layer.kind != "matmul" for layer in layers])
        columns = {
            "macs": [
                layer.macs / (1 if count_tokens or layer.kind != "linear" else layer.positions)
                for layer in layers
            ],
            "rights": [layer.right_count for layer in layers],
            "biases": [layer.bias_count for layer in layers],
            "inputs": [layer.input_count for layer in layers],
            "outputs": [layer.output_count for layer in layers],
        }
        return cls(
            **{name: np.where(kept, np.array(v, np.float64), 0.0) for name, v in columns.items()},
            sum_growth=np.ceil(np.log2(np.maximum(terms, 1.0))),
            blocks=np.array(
                [float(x.positions if x.kind == "matmul" else x.groups) for x in layers]
            ),
            is_conv=np.array([layer.kind == "conv" for layer in layers]),
        )

    def to_torch(self, device: Any) -> "Geometry":
        """Return the same sizes as torch tensors on a device."""
        import torch

        return Geometry(
            **{f.name: torch.as_tensor(getattr(self, f.name), device=device) for f in fields(self)}
        )


def pair_counts(layer: Layer, weight: Bits, activation: Bits) -> npt.NDArray[np.int64]:
    """Count the pairs of channels that meet in a layer, by their widths.

    Every output channel meets every input channel of its group in the same number of
    multiply-accumulates, so the counts are proportional to them.

    Args:
        layer: The layer.
        weight: One width, or one per output channel.
        activation: One width, or one per input channel.

    Returns:
        ``33 x 33`` array, by weight width and activation width.

    Raises:
        SpaceError: If there is not one width per channel.
    """
    right = _counts_by_group(layer, "weight", weight, layer.out_channels)
    left = _counts_by_group(layer, "activation", activation, layer.in_channels)
    return right.T @ left


def pair_fractions(layers: Sequence[Layer], allocation: BitAllocation) -> npt.NDArray[np.float64]:
    """Return which part of each layer's multiply-accumulates has which widths.

    Args:
        layers: The network, ``L`` layers.
        allocation: Widths, per layer or per channel.

    Returns:
        ``L x 33 x 33`` array, by weight and activation width; every layer's entries sum to 1.

    Raises:
        SpaceError: If the allocation is not one of these layers.
    """
    check_layers(layers, allocation)
    fractions = np.zeros((len(layers), MAX_BITS + 1, MAX_BITS + 1))
    widths = zip(layers, allocation.weights, allocation.activations, strict=True)
    for i, (layer, weight, activation) in enumerate(widths):
        if isinstance(weight, int) and isinstance(activation, int):
            fractions[i, weight, activation] = 1.0
        else:
            counts = pair_counts(layer, weight, activation)
            fractions[i] = counts / counts.sum()
    return fractions


def check_layers(layers: Sequence[Layer], allocation: BitAllocation) -> None:
    """Raise SpaceError unless an allocation names exactly these layers, in this order."""
    names = tuple(layer.name for layer in layers)
    if allocation.layers != names:
        raise SpaceError(
            f"the allocation is of layers {list(allocation.layers)[:3]}..., "
            f"the network has {list(names)[:3]}... ({len(names)} layers)"
        )


def _counts_by_group(
    layer: Layer, operand: str, bits: Bits, channels: int
) -> npt.NDArray[np.int64]:
    """Return how many channels of each group have which width, ``groups x 33``."""
    widths = np.full(channels, bits) if isinstance(bits, int) else bits
    if len(widths) != channels:
        raise SpaceError(
            f"layer {layer.name!r}: {len(widths)} {operand} widths for {channels} channels"
        )
    groups = np.repeat(np.arange(layer.groups), channels // layer.groups)
    counts = np.zeros((layer.groups, MAX_BITS + 1), np.int64)
    np.add.at(counts, (groups, widths), 1)
    return counts
