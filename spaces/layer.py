"""A quantizable operation and its geometry."""

from dataclasses import dataclass
from typing import Literal

LayerKind = Literal["conv", "linear", "matmul"]

FLOAT_BITS = 32
"""The width that stands for unquantized float32."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantizable operation, for one inference (batch 1).

    A ``matmul`` (activation x activation, as in attention) has no weights: its *left* operand is
    the layer's input, and its *right* operand takes the place of the weights, so that the width
    called ``weight`` is the width of the right operand.

    Attributes:
        name: Qualified module name, unique in the network.
        kind: ``conv``, ``linear`` or ``matmul``.
        macs: Multiply-accumulates, every output position and token counted.
        weight_count: Weight elements without biases; 0 for ``matmul``.
        bias_count: Bias elements.
        input_count: Elements of the (left) input.
        output_count: Elements of the output.
        in_channels: Channels (features) of the input, the axis of per-channel activation widths.
        out_channels: Channels (features) of the output, the axis of per-channel weight widths.
        operand_count: Elements of the right operand of a ``matmul``; 0 otherwise.
        kernel: Kernel height and width; (1, 1) for linear and matmul.
        stride: Stride height and width; (1, 1) for linear and matmul.
        groups: Groups of a convolution; 1 otherwise.
        positions: Times the weights are applied in one inference: output pixels of a convolution,
            tokens of a linear layer, batch x heads of a matmul.
        input_size: Height and width of the input of a convolution, else (1, 1).
        source: Identifier of the tensor that is the layer's input; layers with the same source
            share their input.
    """

    name: str
    kind: LayerKind
    macs: int
    weight_count: int
    bias_count: int
    input_count: int
    output_count: int
    in_channels: int
    out_channels: int
    operand_count: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    positions: int = 1
    input_size: tuple[int, int] = (1, 1)
    source: str = ""

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel is convolved on its own."""
        return self.kind == "conv" and self.groups > 1 and self.groups == self.in_channels

    @property
    def right_count(self) -> int:
        """Elements of the operand whose width is called ``weight``."""
        return self.operand_count if self.kind == "matmul" else self.weight_count
