"""What a strategy is told of the kernels of a layer, the parts of it that make one channel each."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..spaces import Layer

if TYPE_CHECKING:
    from ..models.quantized import QuantizedModel

Features = npt.NDArray[np.float32]

_OCTAVES = 6.0
"""Halvings of a layer's largest weight that are told apart: the span from 2 to 8 bits."""


def kernel_features(layer: Layer, kernels: int, model: "QuantizedModel | None" = None) -> Features:
    """Return a few numbers for each kernel of a layer, each in [0, 1].

    The first is the index. With a network come the logarithms of the largest and of the root mean
    square weight, relative to the layer's largest: 1 is the largest, and a sixth less is half of
    it. Rounding noise is proportional to the range, so that halving it is worth one bit.

    Args:
        layer: The layer.
        kernels: How many; one stands for the whole layer.
        model: The network, if its weights can be looked at.

    Returns:
        ``kernels x 1`` array, ``kernels x 3`` with a network. A matmul has no weights: its columns
        are 1.
    """
    index = np.arange(kernels) / max(1, kernels - 1)
    if model is None:
        return index[:, None].astype(np.float32)
    columns = [index]
    if layer.kind == "matmul":
        columns += [np.ones(kernels)] * 2
    else:
        weight = model.quantized_layers[layer.name].inner.get_parameter("weight")
        rows = weight.detach().cpu().double().numpy().reshape(kernels, -1)
        columns += [_octaves(np.abs(rows).max(axis=1)), _octaves(np.sqrt((rows**2).mean(axis=1)))]
    return np.column_stack(columns).astype(np.float32)


def halvings_above_mean(features: Features) -> npt.NDArray[np.float64]:
    """Return how many times larger than usual in the layer each kernel's largest weight is.

    Rounding errors of a kernel are proportional to its range, and halve with each bit. Their sum
    over the kernels is least, for a number of bits in all, if each has as many more bits as its
    range is halvings above the (geometric) mean: reverse water-filling (Cover and Thomas, Elements
    of Information Theory, 2nd ed., section 10.3.3).

    Args:
        features: Of the kernels of a layer, as `kernel_features` returns them.

    Returns:
        One number for each kernel, their mean 0; zeros where nothing is known of the weights.
    """
    if features.shape[1] == 1:
        return np.zeros(len(features))
    octaves = _OCTAVES * features[:, 1].astype(np.float64)
    found: npt.NDArray[np.float64] = octaves - octaves.mean()
    return found


def _octaves(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far values are below the largest, from 1 down to 0."""
    largest = values.max()
    floor = largest * 2.0**-_OCTAVES
    if largest <= 0:
        return np.ones_like(values)
    scaled: npt.NDArray[np.float64] = 1 + np.log2(np.maximum(values, floor) / largest) / _OCTAVES
    return scaled
