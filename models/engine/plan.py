"""From an allocation to a straight list of steps: who is integer, what is fused, what is codes.

A layer whose weights and input have at most 8 bits is one kernel call. The call takes with it the
activation behind the layer, and an addition before that, if nothing else reads what is between.
It returns codes right away if all that reads its result are integer layers with one grid, and
floats otherwise: a residual stays in float, as in the reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...spaces import BitAllocation, Bits
from ..quantized_layers import QuantizedLayer, QuantizedWeightLayer
from ..quantizers import CONTAINER_BITS
from .graph import Graph
from .kernels import Activation, CodeGrid, code_grid
from .steps import Float, Kernel, Quantize, Reference, Step, Value
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
class _Fusion:
    """A kernel call, by the places of the operations that it is made of.

    Attributes:
        places: The layer, and the addition and the activation that go with it.
        added: What is added to the layer's output, if anything is.
        activation: What is applied last.
    """

    places: tuple[int, ...]
    added: int | None
    activation: Activation

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
        self._grids = self._input_grids(integer)
        self._fusions = self._fuse()
        self._absorbed = {
            place for fusion in self._fusions.values() for place in fusion.places[:-1]
        }
        self._steps: list[Step] = []
        self._written: set[Value] = set()

    def plan(self) -> Plan:
        for place, operation in enumerate(self._graph.operations):
            if place in self._fusions:
                self._append_kernel(self._fusions[place])
            elif operation.kind != "input" and place not in self._absorbed:
                self._append_float(place)
        return Plan(tuple(self._steps), (self._graph.output, None))

    def _input_grids(self, integer: frozenset[str]) -> dict[int, CodeGrid]:
        """Return the grid of the input of every layer that will be integer, by its place."""
        grids = {}
        for place, operation in enumerate(self._graph.operations):
            layer = operation.layer
            if isinstance(layer, QuantizedWeightLayer) and layer.layer.name in integer:
                weight, activation = self._widths[layer.layer.name]
                if max(np.max(weight), np.max(activation)) <= CONTAINER_BITS:
                    grids[place] = code_grid(layer.left.grid(activation), activation)
        return grids

    def _fuse(self) -> dict[int, _Fusion]:
        """Return the kernel calls by the place of their tail."""
        fusions: dict[int, _Fusion] = {}
        summed: set[int] = set()
        for place in reversed(self._grids):  # of two addends the later layer does the addition
            places, added = [place], None
            activation: Activation = "none"
            reader = self._only_reader(place)
            if reader is not None and reader not in summed and self._can_add(reader):
                first, second = self._graph.operations[reader].operands
                added = first if second == place else second
                places.append(reader)
                summed.add(reader)
                reader = self._only_reader(reader)
            if reader is not None and self._graph.operations[reader].kind == "activation":
                places.append(reader)
                activation = self._graph.operations[reader].activation
            fusions[places[-1]] = _Fusion(tuple(places), added, activation)
        return fusions

    def _only_reader(self, place: int) -> int | None:
        readers = self._graph.readers[place]
        return readers[0] if len(readers) == 1 and place != self._graph.output else None

    def _can_add(self, reader: int) -> bool:
        return self._graph.operations[reader].kind == "add" and not self._graph.overwrites

    def _append_kernel(self, fusion: _Fusion) -> None:
        operation = self._graph.operations[fusion.layer]
        layer = operation.layer
        assert isinstance(layer, QuantizedWeightLayer)
        reads = [self._codes(operation.operands[0], fusion.layer)]
        added = None
        if fusion.added is not None:
            added = (fusion.added, None)
            reads.append(added)
        output = self._output_grid(fusion.tail) if added is None else None
        self._append(
            Kernel(
                tuple(reads),
                (fusion.tail, output),
                added,
                fusion.added is not None and self._may_be_shared(fusion),
                layer=layer,
                weights=self._weights,
                weight_bits=self._widths[layer.layer.name][0],
                grid=self._grids[fusion.layer],
                activation=fusion.activation,
            )
        )

    def _append_float(self, place: int) -> None:
        operation = self._graph.operations[place]
        reads = tuple((operand, None) for operand in operation.operands)
        if isinstance(operation.layer, QuantizedLayer):
            weight, activation = self._widths[operation.layer.layer.name]
            self._append(
                Reference(
                    reads,
                    (place, None),
                    layer=operation.layer,
                    weight_bits=weight,
                    activation_bits=activation,
                )
            )
        else:
            self._append(Float(reads, (place, None), operation=operation))

    def _append(self, step: Step) -> None:
        self._steps.append(step)
        self._written.add(step.writes)

    def _codes(self, place: int, reader: int) -> Value:
        """Return the codes of a value for a layer; have them made if they are not there."""
        grid, layer = self._grids[reader], self._graph.operations[reader].layer
        assert layer is not None
        value = (place, grid)
        if value not in self._written:
            self._append(
                Quantize(
                    ((place, None),),
                    value,
                    layer=layer,
                    grid=grid,
                    is_bounded=self._is_bounded(place),
                )
            )
        return value

    def _output_grid(self, tail: int) -> CodeGrid | None:
        """Return the grid that all readers of a value want its codes in, if they do."""
        readers = self._graph.readers[tail]
        if tail == self._graph.output or not all(reader in self._grids for reader in readers):
            return None
        grids = {self._grids[reader] for reader in readers}
        (grid,) = grids if len(grids) == 1 else (None,)
        return None if grid is None or grid.channel_bits is not None else grid

    def _may_be_shared(self, fusion: _Fusion) -> bool:
        """Whether what is added may lie in the same memory as another value: be a view of it."""
        assert fusion.added is not None
        operation = self._graph.operations[fusion.added]
        # What layers make of it is new; what other operations make of it may be a view.
        readers = set(self._graph.readers[fusion.added]) - set(fusion.places)
        return (
            operation.kind == "input"
            or not operation.is_fresh
            or any(self._graph.operations[reader].layer is None for reader in readers)
        )

    def _is_bounded(self, place: int) -> bool:
        """Whether a value is finite whatever the input is: made by kernels from codes alone."""
        fusion = self._fusions.get(place)
        return fusion is not None and (fusion.added is None or self._is_bounded(fusion.added))


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
        step.layer.layer.macs if isinstance(step, Kernel | Reference) else 0 for step in plan.steps
    ]
