"""A network as a list of operations, as far as an integer engine has to know them.

The network is traced once with `torch.fx`. Quantized layers, activations and additions are known;
every other operation is kept as it is and computes in float.
"""

import copy
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..quantized_layers import QuantizedLayer, QuantizedMatMul

Activation = Literal["none", "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh"]
Kind = Literal["input", "layer", "activation", "add", "call"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a network; what it computes is known by its place in `Graph.operations`.

    Attributes:
        kind: ``call`` is everything that is computed as it is.
        name: Of the module or function, for messages.
        operands: Places of what it reads.
        layer: The layer of kind ``layer``.
        activation: Of kind ``activation``.
        call: Of kind ``call``: what to compute, from the values of the operands in their order.
        is_fresh: Whether the result surely shares no memory with an operand.
        is_finite: Whether finite operands give a finite result, overflow of float32 aside.
    """

    kind: Kind
    name: str
    operands: tuple[int, ...] = ()
    layer: QuantizedLayer | None = None
    activation: Activation = "none"
    call: Callable[..., Any] | None = None
    is_fresh: bool = True
    is_finite: bool = True


@dataclass(frozen=True, slots=True)
class Graph:
    """The operations of a network in an order in which they can be computed.

    Attributes:
        operations: The inputs come first.
        output: Place of the logits.
        readers: Places of those that read each operation, in order.
    """

    operations: tuple[Operation, ...]
    output: int
    readers: tuple[tuple[int, ...], ...]


class TraceError(Exception):
    """The network cannot be written as a list of operations; the message says why."""


def trace(network: nn.Module, example: Tensor) -> Graph:
    """Return the operations of a network.

    Args:
        network: In evaluation mode, of one tensor to one tensor, made of quantized layers.
        example: An input, which shows the shapes and that the operations give the same logits.

    Raises:
        TraceError: If the network's control flow depends on values, it returns more than one
            tensor, an unknown operation changes what it reads, or the operations give other
            logits for the example.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())
    fixed = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        traced = _Tracer().trace(network, concrete_args=fixed)
    except Exception as error:  # whatever the network's own code makes of symbolic values
        raise TraceError(f"{type(error).__name__}: {error}") from error
    graph = _Builder(network).build(traced)
    plain, logits = _run(graph, example)
    expected = network(example)
    if logits.shape != expected.shape or not torch.allclose(
        logits, expected, rtol=1e-4, atol=1e-5, equal_nan=True
    ):
        raise TraceError("its operations, taken one by one, give other logits")
    operations = tuple(
        replace(operation, kind="call", call=operator.add)
        if operation.kind == "add" and place not in plain
        else operation
        for place, operation in enumerate(graph.operations)
    )
    return replace(graph, operations=operations)


def graph_of(layer: QuantizedLayer) -> Graph:
    """Return a layer alone as a graph, with an input for each of its operands."""
    inputs = 2 if isinstance(layer, QuantizedMatMul) else 1
    operations = [Operation("input", "input") for _ in range(inputs)]
    operations.append(Operation("layer", layer.layer.name, tuple(range(inputs)), layer=layer))
    return Graph(tuple(operations), inputs, (((inputs,),) * inputs) + ((),))


def activate(x: Tensor, activation: Activation, *, inplace: bool = False) -> Tensor:
    """Return the activation function of a tensor, as torch computes it."""
    if activation == "none":
        return x
    if activation in ("gelu", "gelu_tanh"):
        gelu = torch.ops.aten.gelu_ if inplace else F.gelu
        out: Tensor = gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")
        return out
    return _COMPUTED[activation](x, inplace=inplace)


def compute(operation: Operation, values: Sequence[Any]) -> Any:
    """Return what an operation gives in float; a layer computes at the widths it has.

    Args:
        operation: Not the input.
        values: Of its operands.
    """
    if operation.kind == "activation":
        return activate(values[0], operation.activation)
    if operation.kind == "add":
        return values[0] + values[-1]
    called = operation.layer if operation.layer is not None else operation.call
    assert called is not None
    return called(*values)


def _run(graph: Graph, example: Tensor) -> tuple[set[int], Tensor]:
    """Return the places of the additions of float tensors of one shape, and the logits."""
    values: dict[int, Any] = {0: example}
    plain: set[int] = set()
    for place, operation in enumerate(graph.operations):
        if place == 0:
            continue
        operands = [values[operand] for operand in operation.operands]
        if operation.kind == "add" and all(_is_like(value, operands[0]) for value in operands):
            plain.add(place)
        before = [value.clone() for value in operands if isinstance(value, Tensor)]
        values[place] = compute(operation, operands)
        after = [value for value in operands if isinstance(value, Tensor)]
        if not all(map(_is_equal, before, after)):
            raise TraceError(f"{operation.name!r} changes what it reads")
        for operand in operation.operands:
            if operand != graph.output and graph.readers[operand][-1] == place:
                values.pop(operand, None)
    logits: Tensor = values[graph.output]
    return plain, logits


def _is_equal(x: Tensor, other: Tensor) -> bool:
    return bool(((x == other) | ((x != x) & (other != other))).all())


def _is_like(value: Any, other: Any) -> bool:
    """Whether both are float tensors laid out as a kernel lays out its result."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)):
        return False
    layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
    return (
        value.shape == other.shape
        and value.dtype == torch.float32
        and value.is_contiguous(memory_format=layout)
    )


class _Tracer(fx.Tracer):
    """Looks into a module only if there is a quantized layer to be found."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, QuantizedLayer):
            return True
        if isinstance(m, nn.Sequential):
            return False
        return not any(isinstance(inner, QuantizedLayer) for inner in m.modules())


class _Builder:
    def __init__(self, network: nn.Module) -> None:
        self._modules = dict(network.named_modules())
        self._network = network
        self._operations: list[Operation] = []
        self._place: dict[fx.Node, int] = {}  # of a node's present value

    def build(self, graph: fx.Graph) -> Graph:
        output: Any = None
        inputs = 0
        for node in graph.nodes:
            if node.op == "output":
                output = node.args[0]
            elif node.op == "placeholder":
                if inputs == 0:
                    self._append(node, Operation("input", "input"))
                inputs += 1
            else:
                self._add(node, self._modules.get(str(node.target)))
        if not isinstance(output, fx.Node):
            raise TraceError("it returns more than one tensor")
        readers: list[list[int]] = [[] for _ in self._operations]
        for place, operation in enumerate(self._operations):
            for operand in operation.operands:
                readers[operand].append(place)
        return Graph(
            tuple(self._operations),
            self._place[output],
            tuple(tuple(places) for places in readers),
        )

    def _add(self, node: fx.Node, module: nn.Module | None) -> None:
        overwrites = _may_overwrite(node, module)
        if any(read not in self._place for read in node.all_input_nodes):
            return  # it looks at an argument that has its default
        if not (node.users or overwrites):
            return
        first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if module is not None and first is not None and _changes_nothing(module):
            self._place[node] = self._place[first]
        elif isinstance(module, QuantizedLayer):
            self._append(
                node,
                Operation("layer", module.layer.name, self._places(node.args), layer=module),
            )
        elif first is not None and (found := _activation(node, module)) is not None:
            self._append(
                node,
                Operation("activation", node.name, (self._place[first],), activation=found),
            )
            if overwrites:
                self._place[first] = self._place[node]  # what reads it later reads the result
        elif first is not None and _is_addition(node):
            self._append(node, Operation("add", node.name, self._places(node.args)))
            if overwrites:
                self._place[first] = self._place[node]
        elif overwrites and first is not None and hasattr(module, "inplace"):
            module = copy.copy(module)
            module.inplace = False  # type: ignore[union-attr]
            self._call(node, module)
            self._place[first] = self._place[node]
        elif overwrites:
            raise TraceError(f"{node.name!r} changes what it reads")
        else:
            self._call(node, module)

    def _call(self, node: fx.Node, module: nn.Module | None) -> None:
        reads = tuple(dict.fromkeys(node.all_input_nodes))
        operation = Operation(
            "call",
            str(node.target) if node.op == "call_module" else node.name,
            tuple(self._place[read] for read in reads),
            call=_callable(node, reads, module, self._network),
            is_fresh=type(module) in (*_FRESH, *_NORMS),
            is_finite=type(module) in _FRESH or node.target in _FINITE,
        )
        self._append(node, operation)

    def _append(self, node: fx.Node, operation: Operation) -> None:
        self._place[node] = len(self._operations)
        self._operations.append(operation)

    def _places(self, nodes: Any) -> tuple[int, ...]:
        return tuple(self._place[node] for node in nodes)


def _callable(
    node: fx.Node, reads: tuple[fx.Node, ...], module: nn.Module | None, network: nn.Module
) -> Callable[..., Any]:
    """Return a node's computation as a function of what it reads."""
    if node.op == "get_attr":
        path = str(node.target)
        return lambda: operator.attrgetter(path)(network)
    if module is not None and node.args == reads and not node.kwargs:
        return module
    target = module if module is not None else node.target

    def call(*values: Any) -> Any:
        value_of = dict(zip(reads, values, strict=True))
        args: Any = fx.node.map_arg(node.args, value_of.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, value_of.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], str(target))(*args[1:], **kwargs)
        return target(*args, **kwargs)  # type: ignore[operator]

    return call


_ACTIVATION_FUNCTIONS: Mapping[Any, Activation] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    F.relu6: "relu6",
    F.hardswish: "hardswish",
    F.silu: "silu",
}
_COMPUTED: Mapping[Activation, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
}
_ACTIVATION_MODULES: Mapping[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
}
_NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)
"""Their result is new, too; but they have weights, which may be not finite."""
_FRESH = (
    nn.Softmax,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
)


_FINITE = (
    *("reshape", "view", "flatten", "permute", "transpose", "contiguous", "unbind", "chunk"),
    *("softmax", "sigmoid", "mean"),
    *(operator.getitem, operator.mul, torch.flatten, torch.cat, torch.softmax, F.softmax),
    *(F.adaptive_avg_pool2d, F.avg_pool2d, F.max_pool2d),
)


def _activation(node: fx.Node, module: nn.Module | None) -> Activation | None:
    if type(module) is nn.GELU:
        return _gelu(module.approximate)
    if node.target is F.gelu:
        return _gelu(node.kwargs.get("approximate", "none"))
    if module is not None:
        return _ACTIVATION_MODULES.get(type(module))
    return _ACTIVATION_FUNCTIONS.get(node.target)


def _gelu(approximate: Any) -> Activation:
    return "gelu_tanh" if approximate == "tanh" else "gelu"


def _is_addition(node: fx.Node) -> bool:
    """Whether it is the sum of two tensors, or may be: shapes are compared when it is computed."""
    return (
        node.target in (operator.add, operator.iadd, torch.add, "add", "add_")
        and len(node.args) == 2
        and all(isinstance(arg, fx.Node) for arg in node.args)
        and not node.kwargs
    )


_IN_PLACE = (operator.iadd, operator.imul, operator.isub, operator.itruediv, operator.setitem)


def _may_overwrite(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether it changes what it reads; torch's functions that do end in an underscore."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return (
        bool(getattr(module, "inplace", False))
        or bool(node.kwargs.get("inplace", False))
        or "out" in node.kwargs
        or (node.op != "call_module" and name.endswith("_") and not name.startswith("_"))
        or node.target in _IN_PLACE
    )


def _changes_nothing(module: nn.Module) -> bool:
    return type(module) in (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
