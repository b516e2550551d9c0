"""What a learning strategy is told of a layer: the state features of HAQ, each in [0, 1]."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..spaces import Layer


def layer_features(layers: Sequence[Layer]) -> npt.NDArray[np.float32]:
    """Return eight numbers for each layer, each scaled to [0, 1] over the layers.

    Depthwise or not, input and output channels, stride, kernel size, weights, input size and index:
    as in [HAQ19, section 3.2]. Counts span decades, so that their logarithms are
    scaled; a column in which all layers agree is 0.

    Args:
        layers: The network's layers, in order.

    Returns:
        ``L x 8`` array.
    """
    counts = np.array([_counts(layer) for layer in layers], dtype=np.float64)
    columns = np.log2(1 + counts)
    rest = [(layer.is_depthwise, index) for index, layer in enumerate(layers)]
    flag, order = np.array(rest, dtype=np.float64).T
    table = np.column_stack([flag, columns, order])
    low, span = table.min(axis=0), np.ptp(table, axis=0)
    scaled = np.where(span > 0, (table - low) / np.where(span > 0, span, 1), 0)
    return scaled.astype(np.float32)


def _counts(layer: Layer) -> tuple[int, ...]:
    is_conv = layer.kind == "conv"
    return (
        layer.in_channels,
        layer.out_channels,
        layer.stride[0] if is_conv else 0,
        layer.kernel[0],
        layer.right_count,
        int(np.prod(layer.input_size)) if is_conv else layer.input_count,
    )
