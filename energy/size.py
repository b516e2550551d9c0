"""Costs that need no table: bit operations, model size, mean widths.

Size counts weights at their widths, biases at 32 bits, and one 32-bit scale per output channel of
every quantized layer. A matmul has no parameters and so no size; both its operands are activations.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..spaces import FLOAT_BITS, BitAllocation, Bits, Layer
from .geometry import check_layers, pair_counts

PARAMETER_BITS = 32
"""Width of a bias and of a scale."""


def bops(layers: Sequence[Layer], allocation: BitAllocation) -> int:
    """Return the bit operations: multiply-accumulates times weight width times activation width.

    Args:
        layers: The network.
        allocation: Its widths, per layer or per channel.

    Raises:
        SpaceError: If the allocation is not one of these layers.
    """
    check_layers(layers, allocation)
    widths = zip(layers, allocation.weights, allocation.activations, strict=True)
    return sum(_bops(layer, weight, activation) for layer, weight, activation in widths)


def _bops(layer: Layer, weight: Bits, activation: Bits) -> int:
    if isinstance(weight, int) and isinstance(activation, int):
        return layer.macs * weight * activation
    counts = pair_counts(layer, weight, activation)
    bits = np.arange(len(counts))
    return round(Fraction(layer.macs * int(bits @ counts @ bits), int(counts.sum())))


def size_bytes(layers: Sequence[Layer], allocation: BitAllocation) -> int:
    """Return the size of the stored parameters, the sum of their bits rounded up to a byte.

    Args:
        layers: The network.
        allocation: Its widths, per layer or per channel.

    Raises:
        SpaceError: If the allocation is not one of these layers.
    """
    check_layers(layers, allocation)
    pairs = zip(layers, allocation.weights, strict=True)
    return -(-sum(_parameter_bits(layer, weight) for layer, weight in pairs) // 8)


def _parameter_bits(layer: Layer, weight: Bits) -> int:
    if layer.kind == "matmul":
        return 0
    widths = _per_channel(weight, layer.out_channels)
    # Output channels have equally many weights each.
    weights = layer.weight_count // layer.out_channels * int(widths.sum())
    scales = int(np.count_nonzero(widths != FLOAT_BITS))
    return weights + PARAMETER_BITS * (layer.bias_count + scales)


def mean_weight_bits(layers: Sequence[Layer], allocation: BitAllocation) -> float:
    """Return the mean width over all weights; NaN for a network without weights."""
    check_layers(layers, allocation)
    counts = [layer.weight_count for layer in layers]
    return _mean(counts, [float(np.mean(bits)) for bits in allocation.weights])


def mean_activation_bits(layers: Sequence[Layer], allocation: BitAllocation) -> float:
    """Return the mean width over all input elements, both operands of a matmul included."""
    check_layers(layers, allocation)
    inputs = [layer.input_count for layer in layers]
    rights = [layer.operand_count for layer in layers]
    means = [float(np.mean(b)) for b in (*allocation.activations, *allocation.weights)]
    return _mean([*inputs, *rights], means)


def _mean(counts: Sequence[int], widths: Sequence[float]) -> float:
    total = sum(counts)
    return (
        sum(n * w for n, w in zip(counts, widths, strict=True)) / total if total else float("nan")
    )


def _per_channel(bits: Bits, channels: int) -> npt.NDArray[np.int64]:
    return np.full(channels, bits) if isinstance(bits, int) else bits.astype(np.int64)
