"""The operands of a network that gates can act on, and putting gates in force."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces import Layer, ModelError, Operand, nearest
from ..attention import ExplicitAttention
from ..quantized import QuantizedModel
from ..quantized_layers import ActivationQuantizer, QuantizedLayer
from .gates import Gate
from .layout import Layout, layout_for

Slot = tuple[str, Operand]
"""A layer's name, and which of its operands."""


def quantizer_of(model: QuantizedModel, slot: Slot) -> ActivationQuantizer:
    """Return what quantizes an operand.

    Raises:
        ModelError: If there is no such layer, or the operand is no activation.
    """
    layer, operand = slot
    found = model.quantized_layers.get(layer)
    if found is None:
        raise ModelError(
            f"the network has no layer {layer!r}; {nearest(layer, model.quantized_layers)}"
        )
    if operand not in found.quantizers:
        raise ModelError(f"the {operand} of layer {layer!r} is no activation: no gate can choose")
    return found.quantizers[operand]


def quantizers(model: QuantizedModel) -> dict[Slot, ActivationQuantizer]:
    """Return what quantizes activations, in network order."""
    return {
        (name, operand): quantizer
        for name, layer in model.quantized_layers.items()
        for operand, quantizer in layer.quantizers.items()
    }


def gates_of(model: QuantizedModel) -> dict[Slot, Gate]:
    """Return the gates in force."""
    return {
        slot: quantizer.gate
        for slot, quantizer in quantizers(model).items()
        if quantizer.gate is not None
    }


@contextmanager
def gated(model: QuantizedModel, gates: Mapping[Slot, Gate]) -> Iterator[None]:
    """Let gates choose the widths of some operands, and no others; behind it, it is as before.

    Widths must be set for all operands as ever: those of a gated operand are not used, but must be
    of at most 8 bits for it to run on integer kernels; its widest are what to set.

    Args:
        model: The calibrated network.
        gates: By operand; none for the widths that are set everywhere.

    Raises:
        ModelError: If there is no such operand.
    """
    for slot in gates:
        quantizer_of(model, slot)
    every = quantizers(model)
    before = {slot: quantizer.gate for slot, quantizer in every.items()}
    for slot, quantizer in every.items():
        quantizer.gate = gates.get(slot)
    try:
        yield
    finally:
        for slot, quantizer in every.items():
            quantizer.gate = before[slot]


def layouts(model: QuantizedModel, example: Tensor) -> dict[Slot, Layout]:
    """Return the layouts of all operands that a gate can act on, in network order.

    An operand is left out if its first axis is not that of the inputs, as where windows of an image
    are a batch of their own, or if its layer is called more than once.

    Args:
        model: The network.
        example: A few images, best of an odd number that no other size has.
    """
    seen: dict[QuantizedLayer, list[tuple[Tensor, ...]]] = {}

    def see(layer: nn.Module, operands: tuple[Any, ...]) -> None:
        assert isinstance(layer, QuantizedLayer)
        seen.setdefault(layer, []).append(operands)

    with ExitStack() as stack:
        stack.enter_context(gated(model, {}))
        stack.enter_context(torch.no_grad())
        for layer in model.quantized_layers.values():
            stack.callback(layer.register_forward_pre_hook(see).remove)
        model(example)
    return {
        (name, operand): layout
        for name, layer in model.quantized_layers.items()
        if len(calls := seen.get(layer, [])) == 1
        for operand, x in zip(layer.quantizers, calls[0], strict=True)
        if len(x) == len(example)
        and (layout := layout_of(model, layer.layer, operand, tuple(x.shape))) is not None
    }


def layout_of(
    model: QuantizedModel, layer: Layer, operand: Operand, shape: tuple[int, ...]
) -> Layout | None:
    """Return the layout of an operand; None if a gate cannot act on it.

    The input of a convolution has a decision per channel, that of a linear layer per feature; but
    where it reads the heads of an attention, per head, as both operands of products of heads.

    Args:
        model: The network.
        layer: The layer.
        operand: Which of its operands.
        shape: Of the operand, inputs first.
    """
    quantizer_of(model, (layer.name, operand))
    axis = layout_for(layer, layer.in_channels).axis
    if len(shape) < 1 - axis:
        return None
    decisions, group = shape[axis], 1
    heads = _heads(model).get(layer.name)
    if heads is not None and decisions % heads == 0:
        decisions, group = heads, decisions // heads
    place = len(shape) + axis
    return Layout(axis, decisions, group, shape[1:place] + shape[place + 1 :])


def _heads(model: QuantizedModel) -> dict[str, int]:
    """Return how many heads are read by the layers behind an attention, by their names."""
    return {
        module.proj.layer.name: module.num_heads
        for module in model.network.modules()
        if isinstance(module, ExplicitAttention) and isinstance(module.proj, QuantizedLayer)
    }
