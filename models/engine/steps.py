"""The steps that a plan is made of: each computes one value from others.

A value is a float32 tensor, or the uint8 codes of one. A step says what it reads and writes, and
has a key: in two plans that agree up to a step, steps with equal keys compute equal values.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Bits, ModelError
from ..dynamic.gates import Gate
from ..quantized_layers import (
    ActivationQuantizer,
    QuantizedLayer,
    QuantizedMatMul,
    QuantizedWeightLayer,
)
from .codes import CodeGrid, to_codes
from .graph import Activation, Operation, activate, compute
from .kernels import Clip, conv, linear, matmul
from .weights import PackedWeights

Value = tuple[int, CodeGrid | None]
"""The place of an operation in its graph, and the grid of its codes; None for floats."""


OTHER_GATES = "other gates are in force than when this was prepared"
"""What is wrong with a plan whose steps are not what they would be now."""


class NonFiniteError(ModelError):
    """A layer was given values that are not finite."""


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """One computation.

    Attributes:
        reads: What it is given, in order.
        writes: What it gives.
        overwrites: The one of what it reads whose memory it takes for its result, if any.
        must_copy: Whether that memory may be another value's, too.
    """

    reads: tuple[Value, ...]
    writes: Value
    overwrites: Value | None = None
    must_copy: bool = False

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What it computes, among all steps that could stand in its place."""

    @abstractmethod
    def run(self, operands: Sequence[Any]) -> Any:
        """Return the value it writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize(Step):
    """Codes of a float value.

    Attributes:
        layer: The layer they are for.
        quantizer: The layer's, of this operand.
        bits: The widths.
        grid: The grid of the codes.
        must_check: Whether the value may be not finite.
        gate: Chooses widths in place of `bits`, if there is one.
    """

    layer: QuantizedLayer
    quantizer: ActivationQuantizer
    bits: Bits
    grid: CodeGrid
    must_check: bool
    gate: Gate | None = None

    @property
    def key(self) -> Hashable:
        """The value and its grid."""
        return "quantize", self.writes

    def run(self, operands: Sequence[Any]) -> Tensor:
        """Return the codes.

        Raises:
            NonFiniteError: If a value is not finite: codes would hide it.
            ModelError: If another gate is in force than when this was planned.
        """
        (x,) = operands
        if self.quantizer.gate is not self.gate:
            raise ModelError(OTHER_GATES)
        # One that is not finite shows in the sum, which is one cheap pass.
        if self.must_check and not (torch.isfinite(x.sum()) or torch.isfinite(x).all()):
            raise NonFiniteError(f"{self.quantizer.name} has values that are not finite")
        return to_codes(x, self.grid, None if self.gate is None else self._chosen(self.gate, x))

    def _chosen(self, gate: Gate, x: Tensor) -> Tensor:
        """Return the widths that a gate chooses, shaped to broadcast."""
        index = gate.choose(x, self.quantizer.container_grids(gate.widths))
        widths = torch.tensor(gate.widths)
        return gate.layout.spread(widths[index], x.dim())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(Step):
    """A convolution or linear layer on codes, with all that follows it in the same call.

    It reads the codes, and the float value that is added to the result if there is one.

    Attributes:
        layer: Computes the layer.
        weights: Has the packed weights.
        weight_bits: Their widths.
        grid: Of the codes it reads.
        clip: What is applied to the result, or to the sum.
    """

    layer: QuantizedWeightLayer
    weights: PackedWeights
    weight_bits: Bits
    grid: CodeGrid
    clip: Clip

    @property
    def key(self) -> Hashable:
        """All that decides the result but the values it reads."""
        bits = self.weight_bits if isinstance(self.weight_bits, int) else self.weight_bits.tobytes()
        return "kernel", self.reads, self.writes, bits

    def run(self, operands: Sequence[Any]) -> Tensor:
        """Return the result, as codes if it writes codes."""
        inner, output = self.layer.inner, self.writes[1]
        weight = self.weights.get(self.layer, self.weight_bits, self.grid)
        accumulate = operands[1] if len(operands) == 2 else None
        if isinstance(inner, nn.Conv2d):
            return conv(operands[0], self.grid, weight, inner, self.clip, output, accumulate)
        return linear(operands[0], self.grid, weight, self.clip, output, accumulate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(Step):
    """A product of two activations, on the codes of both.

    Attributes:
        layer: What is computed.
        grids: Of the operands.
    """

    layer: QuantizedMatMul
    grids: tuple[CodeGrid, CodeGrid]

    @property
    def key(self) -> Hashable:
        """What it reads, and its place."""
        return "product", self.reads, self.writes

    def run(self, operands: Sequence[Any]) -> Tensor:
        """Return the product, in float."""
        left, right = operands
        return matmul(left, self.grids[0], right, self.grids[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate(Step):
    """An activation function, in the memory of what it reads.

    Attributes:
        activation: The function.
    """

    activation: Activation

    @property
    def key(self) -> Hashable:
        """Its place."""
        return "activate", self.writes

    def run(self, operands: Sequence[Any]) -> Tensor:
        """Return the function of the value."""
        return activate(operands[0], self.activation, inplace=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference(Step):
    """A layer in float, at its widths.

    Attributes:
        layer: Computes it.
        weight_bits: Widths of its weights, or of its right operand.
        activation_bits: Widths of its input.
    """

    layer: QuantizedLayer
    weight_bits: Bits
    activation_bits: Bits

    @property
    def key(self) -> Hashable:
        """The layer and its widths."""
        widths = (self.weight_bits, self.activation_bits)
        return "reference", self.writes, *(b if isinstance(b, int) else b.tobytes() for b in widths)

    def run(self, operands: Sequence[Any]) -> Tensor:
        """Return the layer's output."""
        return self.layer.compute(tuple(operands), self.weight_bits, self.activation_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Float(Step):
    """Any other operation, as the network has it.

    Attributes:
        operation: What is computed.
    """

    operation: Operation

    @property
    def key(self) -> Hashable:
        """Its place."""
        return "float", self.writes

    def run(self, operands: Sequence[Any]) -> Any:
        """Return what the operation gives."""
        return compute(self.operation, operands)
