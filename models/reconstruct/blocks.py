"""Cutting a network into blocks that can be reconstructed one after the other.

A network can be cut wherever a single tensor carries everything: behind such a place, nothing else
that depends on the images is read. What lies between two neighbouring cuts cannot be divided: a
residual unit with its shortcut, an attention with its addition, or one layer. Blocks are found in
the traced network, whatever its modules are called and however they are nested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..engine.graph import Graph, compute, graph_of
from ..quantized_layers import QuantizedLayer

LayerCall = Callable[[QuantizedLayer, tuple[Tensor, ...]], Tensor]
"""How a layer is to be computed from its operands."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a network with one output.

    Attributes:
        name: What the names of its layers have in common, for messages.
        graph: The operations it is a part of.
        inputs: Places of what it reads; one for a part of a traced network.
        places: What it computes, in order; with what does not depend on images, as parameters.
        output: Place of its output.
    """

    name: str
    graph: Graph
    inputs: tuple[int, ...]
    places: tuple[int, ...]
    output: int

    @property
    def layers(self) -> tuple[QuantizedLayer, ...]:
        """Its layers in order, each once."""
        operations = (self.graph.operations[place] for place in self.places)
        return tuple(dict.fromkeys(op.layer for op in operations if op.layer is not None))

    def run(self, inputs: Sequence[Tensor], call: LayerCall) -> Tensor:
        """Return its output.

        Args:
            inputs: Values of `inputs`.
            call: Computes its layers.
        """
        values: dict[int, Any] = dict(zip(self.inputs, inputs, strict=True))
        for place in self.places:
            operation = self.graph.operations[place]
            operands = tuple(values[operand] for operand in operation.operands)
            if operation.layer is not None:
                values[place] = call(operation.layer, operands)
            else:
                values[place] = compute(operation, operands)
        out: Tensor = values[self.output]
        return out


def find_blocks(graph: Graph) -> list[Block]:
    """Return the blocks of a traced network, in order; each begins where the one before ends.

    An activation function behind a cut belongs to the block before it, as the ReLU behind a
    residual addition does; other operations without layers, as pooling, to the block behind them.
    Operations behind the last layer belong to none.
    """
    depends = _dependents(graph)
    blocks: list[Block] = []
    start, pending = 0, list[int]()  # the place of the next block's input, and what it begins with
    previous = 0
    for cut in _cuts(graph, depends):
        places = [place for place in range(previous + 1, cut + 1) if depends[place]]
        previous = cut
        if any(graph.operations[place].layer is not None for place in places):
            blocks.append(_block(graph, start, [*pending, *places], cut, depends))
            start, pending = cut, []
        elif blocks and not pending and _are_activations(graph, places):
            last = blocks[-1]
            blocks[-1] = Block(last.name, graph, last.inputs, (*last.places, *places), cut)
            start = cut
        else:
            pending += places
    return blocks


def layer_block(layer: QuantizedLayer) -> Block:
    """Return a layer alone as a block, with an input for each of its operands."""
    graph = graph_of(layer)
    return Block(layer.layer.name, graph, tuple(range(graph.output)), (graph.output,), graph.output)


def _dependents(graph: Graph) -> list[bool]:
    """Return for every operation whether its value depends on the images."""
    depends: list[bool] = []
    for operation in graph.operations:
        depends.append(
            operation.kind == "input" or any(depends[operand] for operand in operation.operands)
        )
    return depends


def _cuts(graph: Graph, depends: Sequence[bool]) -> list[int]:
    """Return the places whose values are all that what follows depends on."""
    end = len(graph.operations)
    last_read = [max(readers, default=-1) for readers in graph.readers]
    last_read[graph.output] = end
    cuts: list[int] = []
    live: set[int] = set()
    for place in range(graph.output + 1):
        live = {value for value in live if last_read[value] > place}
        if depends[place] and last_read[place] > place:
            live.add(place)
        if live == {place} and place > 0:
            cuts.append(place)
    return cuts


def _are_activations(graph: Graph, places: Sequence[int]) -> bool:
    return all(graph.operations[place].kind == "activation" for place in places)


def _block(
    graph: Graph, start: int, places: Sequence[int], output: int, depends: Sequence[bool]
) -> Block:
    constants: set[int] = set()
    wanted = [operand for place in places for operand in graph.operations[place].operands]
    while wanted:
        place = wanted.pop()
        if not depends[place] and place not in constants:
            constants.add(place)
            wanted += graph.operations[place].operands
    names = [
        graph.operations[place].name
        for place in places
        if graph.operations[place].layer is not None
    ]
    return Block(_common_name(names), graph, (start,), (*sorted(constants), *places), output)


def _common_name(names: Sequence[str]) -> str:
    """Return the modules that names have in common, or the first and last name if none."""
    common: list[str] = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or f"{names[0]} to {names[-1]}"
