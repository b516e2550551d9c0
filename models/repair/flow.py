"""How data flows between the layers of a network, where that can be traced."""

from torch import Tensor, nn

from ..engine.graph import Graph, TraceError, trace

__all__ = ["Graph", "traced"]


def traced(network: nn.Module, example: Tensor) -> Graph | None:
    """Return the operations of a network of quantized layers; None if it cannot be traced."""
    try:
        return trace(network, example)
    except TraceError:
        return None
