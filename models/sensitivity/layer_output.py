"""How much each layer's output changes when the layer is quantized."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import FLOAT_BITS, BitAllocation
from ..quantized import Batch, QuantizedModel, images_of
from ..quantized_layers import QuantizedLayer

Operands = Literal["both", "weight", "activation"]


def layer_output_l2(
    model: QuantizedModel,
    batches: Iterable[Batch],
    bits: int | Sequence[int],
    *,
    operands: Operands = "both",
) -> npt.NDArray[np.float64]:
    """Return ``||y_full - y_quantized||_2`` of every layer's output, quantized alone.

    With the other layers in float a layer's input does not depend on its own widths. So one float
    pass gives what quantizing one layer at a time gives: each layer computes its output also from
    the quantized form of the input it has.

    Args:
        model: A calibrated model; its allocation is restored.
        batches: Images, or pairs whose labels are ignored; the norm runs over all of them.
        bits: Width to probe, or several.
        operands: Quantize the weights (the right operand of a matmul), the input, or both.

    Returns:
        ``[layers]``, or ``[layers, widths]`` if several widths are given.
    """
    widths = np.atleast_1d(np.asarray(bits)).tolist()
    squares = np.zeros((len(model.layers), len(widths)))

    def watch(row: int, layer: QuantizedLayer) -> torch.utils.hooks.RemovableHandle:
        def compare(_: nn.Module, inputs: tuple[Tensor, ...], full: Tensor) -> None:
            for column, width in enumerate(widths):
                weight = FLOAT_BITS if operands == "activation" else width
                activation = FLOAT_BITS if operands == "weight" else width
                quantized = layer.compute(inputs, weight, activation)
                change = torch.linalg.vector_norm(full - quantized, dtype=torch.float64)
                squares[row, column] += float(change) ** 2

        return layer.register_forward_hook(compare)

    for width in widths:  # before layers are watched: repairs may need passes of their own
        model.repair(BitAllocation.uniform(model.layers, width))
    allocation, training = model.allocation, model.training
    model.eval()
    model.set_allocation(None)
    handles = [watch(row, layer) for row, layer in enumerate(model.quantized_layers.values())]
    try:
        with torch.inference_mode():
            for batch in batches:
                model(images_of(batch))
    finally:
        for handle in handles:
            handle.remove()
        model.set_allocation(allocation)
        model.train(training)
    return np.sqrt(squares).reshape(len(model.layers), *np.shape(bits))
