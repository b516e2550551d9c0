"""From an allocation to a straight list of steps: who is integer, what is fused, what is codes.

A layer whose weights and input have at most 8 bits is one kernel call. The call takes with it a
ReLU behind the layer, and an addition before that, if nothing else reads what is between. It
returns codes right away if all that reads its result are integer layers with one grid, and floats
otherwise: a residual stays in float, as in the reference, and so does what a gate looks at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...spaces import BitAllocation, Bits, Operand
from ..dynamic.gates import Gate
from ..quantized_layers import (
    ActivationQuantizer,
    QuantizedLayer,
    QuantizedMatMul,
    QuantizedWeightLayer,
)
from ..quantizers import CONTAINER_BITS
from .codes import CodeGrid, code_grid, gated_grid
from .graph import Graph
from .kernels import Clip
from .steps import Activate, Float, Kernel, Product, Quantize, Reference, Step, Value
from .weights import PackedWeights

Widths = tuple[Bits, Bits]
"""Of a layer: weights (or right operand), and input."""


@dataclass(frozen=True)
class Plan:
    """What to compute, in order.

    Attributes:
        steps: Each reads what earlier ones wrote, or the input.
        output: The logits.
    """

    steps: tuple[Step, ...]
    output: Value

    @cached_property
    def last_reads(self) -> Mapping[Value, int]:
        """Number of the last step that reads each value; the output is read behind the end."""
        reads = {value: number for number, step in enumerate(self.steps) for value in step.reads}
        return reads | {self.output: len(self.steps)}


def make_plan(
    graph: Graph,
    allocation: BitAllocation,
    integer: frozenset[str],
    weights: PackedWeights,
) -> Plan:
    """Return the plan of an allocation.

    Args:
        graph: The network.
        allocation: The widths of its layers.
        integer: Names of the layers that may run on integer kernels.
        weights: Where these have their weights from.
    """
    widths = dict(
        zip(
            allocation.layers,
            zip(allocation.weights, allocation.activations, strict=True),
            strict=True,
        )
    )
    return _Planner(graph, widths, integer, weights).plan()


@dataclass(frozen=True, slots=True)
class _Input:
    """An activation as an integer layer reads it."""

    quantizer: ActivationQuantizer
    bits: Bits
    grid: CodeGrid
    gate: Gate | None

    @classmethod
    def of(cls, layer: QuantizedLayer, operand: Operand, bits: Bits) -> "_Input":
        quantizer = layer.quantizers[operand]
        gate = quantizer.gate
        if gate is None:
            grid = code_grid(quantizer.grid(bits), bits, quantizer.channel_axis)
        else:
            name = f"{layer.layer.name}.{operand}"
            grid = gated_grid(quantizer.container_grids(gate.widths), name)
        return cls(quantizer, bits, grid, gate)


@dataclass(frozen=True, slots=True)
class _Fusion:
    """A kernel call, by the places of the operations that it is made of.

    Attributes:
        places: The layer, and the addition and the activation that go with it.
        added: What is added to the layer's output, if anything is.
        clip: What is applied last.
    """

    places: tuple[int, ...]
    added: int | None
    clip: Clip

    @property
    def layer(self) -> int:
        """Place of the convolution or linear layer."""
        return self.places[0]

    @property
    def tail(self) -> int:
        """Place of the operation whose value the call returns."""
        return self.places[-1]


class _Planner:
    def __init__(
        self,
        graph: Graph,
        widths: Mapping[str, Widths],
        integer: frozenset[str],
        weights: PackedWeights,
    ) -> None:
        self._graph = graph
        self._widths = widths
        self._weights = weights
        self._inputs = self._integer_inputs(integer)
        self._wanted = self._wanted_forms()
        self._fusions = self._fuse()
        self._absorbed = {
            place for fusion in self._fusions.values() for place in fusion.places[:-1]
        }
        self._steps: list[Step] = []
        self._written: set[Value] = set()
        self._is_finite: list[bool] = []

    def plan(self) -> Plan:
        for place, operation in enumerate(self._graph.operations):
            self._is_finite.append(self._gives_finite(place))
            if place in self._fusions:
                self._append_kernel(self._fusions[place])
            elif place in self._inputs and place not in self._absorbed:
                self._append_product(place)
            elif operation.kind != "input" and place not in self._absorbed:
                self._append(self._in_float(place))
        return Plan(tuple(self._steps), (self._graph.output, None))

    def _integer_inputs(self, integer: frozenset[str]) -> dict[int, tuple[_Input, ...]]:
        """Return what every layer that will be integer wants its activations as, by its place."""
        inputs: dict[int, tuple[_Input, ...]] = {}
        for place, operation in enumerate(self._graph.operations):
            layer = operation.layer
            if layer is None or layer.layer.name not in integer:
                continue
            right, left = self._widths[layer.layer.name]
            if max(np.max(right), np.max(left)) <= CONTAINER_BITS:
                bits: Mapping[Operand, Bits] = {"activation": left, "weight": right}
                inputs[place] = tuple(
                    _Input.of(layer, operand, bits[operand]) for operand in layer.quantizers
                )
        return inputs

    def _wanted_forms(self) -> list[set[CodeGrid | None]]:
        """Return the grids in which the codes of each value are read; None where floats are."""
        wanted: list[set[CodeGrid | None]] = [set() for _ in self._graph.operations]
        wanted[self._graph.output].add(None)
        for place, operation in enumerate(self._graph.operations):
            inputs = self._inputs.get(place, ())
            for number, operand in enumerate(operation.operands):
                wanted[operand].add(inputs[number].grid if inputs else None)
        return wanted

    def _fuse(self) -> dict[int, _Fusion]:
        """Return the kernel calls by the place of their tail."""
        fusions: dict[int, _Fusion] = {}
        summed: set[int] = set()
        for place in reversed(self._inputs):  # of two addends the later layer does the addition
            if isinstance(self._graph.operations[place].layer, QuantizedMatMul):
                continue
            places, added = [place], None
            clip: Clip = "none"
            reader = self._only_reader(place)
            if reader is not None and reader not in summed and self._is_addition(reader):
                first, second = self._graph.operations[reader].operands
                added = first if second == place else second
                places.append(reader)
                summed.add(reader)
                reader = self._only_reader(reader)
            if reader is not None and (found := self._clip(reader, added)) is not None:
                places.append(reader)
                clip = found
            fusions[places[-1]] = _Fusion(tuple(places), added, clip)
        return fusions

    def _only_reader(self, place: int) -> int | None:
        readers = self._graph.readers[place]
        return readers[0] if len(readers) == 1 and place != self._graph.output else None

    def _is_addition(self, place: int) -> bool:
        return self._graph.operations[place].kind == "add"

    def _clip(self, reader: int, added: int | None) -> Clip | None:
        """Return the activation of an operation if a kernel can apply it."""
        match self._graph.operations[reader].activation:
            case "relu":
                return "relu"
            case "relu6" if added is None:
                return "relu6"
        return None

    def _append_kernel(self, fusion: _Fusion) -> None:
        operation = self._graph.operations[fusion.layer]
        layer = operation.layer
        assert isinstance(layer, QuantizedWeightLayer)
        reads, added = self._codes(fusion.layer), None
        if fusion.added is not None:
            added = (fusion.added, None)
            reads.append(added)
        self._append(
            Kernel(
                tuple(reads),
                (fusion.tail, self._output_grid(fusion)),
                added,
                added is not None and self._may_be_shared(added[0], fusion.places),
                layer=layer,
                weights=self._weights,
                weight_bits=self._widths[layer.layer.name][0],
                grid=self._inputs[fusion.layer][0].grid,
                clip=fusion.clip,
            )
        )

    def _append_product(self, place: int) -> None:
        layer = self._graph.operations[place].layer
        assert isinstance(layer, QuantizedMatMul)
        left, right = self._inputs[place]
        reads = tuple(self._codes(place))
        self._append(Product(reads, (place, None), layer=layer, grids=(left.grid, right.grid)))

    def _in_float(self, place: int) -> Step:
        operation = self._graph.operations[place]
        reads = tuple((operand, None) for operand in operation.operands)
        if operation.layer is not None:
            weight, activation = self._widths[operation.layer.layer.name]
            return Reference(
                reads,
                (place, None),
                layer=operation.layer,
                weight_bits=weight,
                activation_bits=activation,
            )
        if operation.kind == "activation":
            must_copy = self._may_be_shared(operation.operands[0], (place,))
            return Activate(
                reads, (place, None), reads[0], must_copy, activation=operation.activation
            )
        return Float(reads, (place, None), operation=operation)

    def _append(self, step: Step) -> None:
        self._steps.append(step)
        self._written.add(step.writes)

    def _codes(self, place: int) -> list[Value]:
        """Return the codes that a layer reads; have them made if they are not there."""
        operation = self._graph.operations[place]
        assert operation.layer is not None
        values: list[Value] = []
        for operand, wanted in zip(operation.operands, self._inputs[place], strict=True):
            values.append((operand, wanted.grid))
            if values[-1] not in self._written:
                self._append(
                    Quantize(
                        ((operand, None),),
                        values[-1],
                        layer=operation.layer,
                        quantizer=wanted.quantizer,
                        bits=wanted.bits,
                        grid=wanted.grid,
                        must_check=not self._is_finite[operand],
                        gate=wanted.gate,
                    )
                )
                self._is_finite[operand] = True
        return values

    def _output_grid(self, fusion: _Fusion) -> CodeGrid | None:
        """Return the grid that all readers of a value want its codes in, if a kernel can do that.

        With a zero point it can, but not to the last bit: it rounds after adding it. A gate has to
        see the value first.
        """
        wanted = self._wanted[fusion.tail]
        if fusion.added is not None or len(wanted) != 1:
            return None
        (grid,) = wanted
        if grid is None or grid.zero_point or grid.channel_bits is not None:
            return None
        return grid if grid.gate is None else None

    def _may_be_shared(self, place: int, readers: tuple[int, ...]) -> bool:
        """Whether a value may lie in the same memory as one that others than the readers read."""
        operation = self._graph.operations[place]
        # What layers make of it is new; what other operations make of it may be a view.
        others = set(self._graph.readers[place]) - set(readers)
        return (
            operation.kind == "input"
            or not operation.is_fresh
            or any(self._graph.operations[other].layer is None for other in others)
        )

    def _gives_finite(self, place: int) -> bool:
        """Whether a value is finite whatever the input is: made from codes, or from such values."""
        if place in self._fusions:
            added = self._fusions[place].added
            return added is None or self._is_finite[added]
        operation = self._graph.operations[place]
        return place in self._inputs or (
            operation.is_finite
            and len(operation.operands) > 0
            and all(self._is_finite[operand] for operand in operation.operands)
        )


def shared_steps(first: Plan, second: Plan) -> int:
    """Return how many steps two plans have in common from the start."""
    count = 0
    for ours, theirs in zip(first.steps, second.steps, strict=False):
        if ours.key != theirs.key:
            break
        count += 1
    return count


def costs(plan: Plan) -> Sequence[int]:
    """Return the multiply-accumulates of each step."""
    return [
        step.layer.layer.macs if isinstance(step, Kernel | Product | Reference) else 0
        for step in plan.steps
    ]
