"""Integer kernels layer by layer, for networks that are no list of operations.

Between layers everything is as the network has it, and in float. So each layer is a graph of its
own, with a plan of its own: quantize the input, call the kernel.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from ...spaces import BitAllocation
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedLayer
from .check import disagreements
from .graph import graph_of
from .plan import Plan, make_plan
from .run import run_each
from .weights import PackedWeights

LayerPlans = Mapping[QuantizedLayer, Plan]
"""How each layer is computed."""


def layer_plans(
    model: QuantizedModel,
    allocation: BitAllocation,
    integer: frozenset[str],
    weights: PackedWeights,
) -> LayerPlans:
    """Return plans of the layers that may run on integer kernels; see `plan.make_plan`."""
    return {
        layer: make_plan(graph_of(layer), allocation, integer, weights)
        for name, layer in model.quantized_layers.items()
        if name in integer
    }


@contextmanager
def kernels_of(plans: LayerPlans) -> Iterator[None]:
    """Let layers compute by their plans."""
    try:
        for layer, plan in plans.items():
            layer.kernel = partial(_run, plan)
        yield
    finally:
        for layer in plans:
            layer.kernel = None


def layer_disagreements(model: QuantizedModel, plans: LayerPlans, x: Tensor) -> dict[str, str]:
    """Return how layers differ from the reference, by their names; see `check.disagreements`.

    Args:
        model: At the widths of the plans.
        plans: How layers are to be computed.
        x: A batch of images.
    """
    found: dict[str, str] = {}

    def compare(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, QuantizedLayer)
        found.update(disagreements(plans[layer], inputs))

    with ExitStack() as stack:
        for layer in plans:
            stack.callback(layer.register_forward_hook(compare).remove)
        model(x)
    return found


def _run(plan: Plan, *operands: Tensor) -> Tensor:
    (out,) = run_each([plan], operands, shared_bytes=0)
    return out
