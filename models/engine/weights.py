"""Weights packed for the integer kernels, kept within a memory bound."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ...spaces import Bits
from ..quantized_layers import QuantizedWeightLayer
from ..weight_cache import WeightCache
from .codes import CodeGrid
from .kernels import PackedWeight, pack_conv, pack_linear


class PackedWeights:
    """Packed weights of a network's layers, made when they are first used.

    Args:
        limit_bytes: Most bytes kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._cache = WeightCache(limit_bytes)

    @property
    def size_bytes(self) -> int:
        """Bytes in use."""
        return self._cache.size_bytes

    def get(self, layer: QuantizedWeightLayer, bits: Bits, grid: CodeGrid) -> PackedWeight:
        """Return a layer's weights at given widths, for an input on a grid.

        Those of a layer with a correction share the codes of all others.
        """
        # What is packed beside the codes depends on whether the input has a zero point.
        key = (
            layer.layer.name,
            np.asarray(bits, dtype=np.uint8).tobytes(),
            grid.zero_point == 0,
        )
        weight = self._cache.get(key, layer.weight_state(bits), lambda: _packed(layer, bits, grid))
        if layer.correction is None:
            return weight
        return replace(weight, **layer.correction.absorbed(weight.scales, weight.bias))


def _packed(layer: QuantizedWeightLayer, bits: Bits, grid: CodeGrid) -> PackedWeight:
    weight = layer.weight_codes(bits)
    codes = weight.codes.to(torch.int8)
    if isinstance(layer.inner, nn.Conv2d):
        return pack_conv(codes, weight.scales, weight.bias, layer.inner, grid)
    return pack_linear(codes, weight.scales, weight.bias)
