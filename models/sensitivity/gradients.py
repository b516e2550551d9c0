"""Gradients of the float network's loss at the places that layers read and write."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...spaces import ModelError
from ..plain_layers import plain_kind
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedLayer, QuantizedWeightLayer
from .images import LabelledImages
from .probes import WEIGHT, Probe, Probes


def backward(model: QuantizedModel, images: LabelledImages) -> None:
    """Pass all images forward and backward; hooks see the gradients.

    Args:
        model: The network.
        images: With labels.

    Raises:
        ModelError: If the network overwrites values that gradients need.
    """
    for x, labels in images:
        with torch.enable_grad(), differentiable():
            loss = cross_entropy(model(x), labels, reduction="sum")
            if loss.requires_grad:  # else no probe has a part in it
                loss.backward()  # type: ignore[no-untyped-call]


@contextmanager
def differentiable() -> Iterator[None]:
    """Say what to do where a network cannot be differentiated because it works in place.

    Raises:
        ModelError: In place of the error of torch.
    """
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise ModelError(
            "the network overwrites values in place that gradients need; choose a score of the "
            "logits, such as kl, or of one layer's output, such as mse"
        ) from error


def of_output(out: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return a layer's output such that its gradient is recorded.

    Raises:
        ModelError: If the network computes there without gradients.
    """
    _require_gradients(layer)
    # Where nothing before it records gradients, they end here. What follows may write in place,
    # which a tensor of which gradients are wanted forbids, but a copy of it does not.
    return out if out.requires_grad else out.detach().requires_grad_().clone()


def of_input(x: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return an input whose gradient is what comes through this layer, not what others make of it.

    Raises:
        ModelError: If the network computes there without gradients.
    """
    _require_gradients(layer)
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def weights_of(probes: Probes) -> dict[QuantizedLayer, Tensor]:
    """Return the weights that are probed, by layer.

    Raises:
        ModelError: If a layer computes with other weights than it has.
    """
    found: dict[QuantizedLayer, Tensor] = {}
    for layer, own in probes.items():
        if isinstance(layer, QuantizedWeightLayer) and any(p.operand == WEIGHT for p in own):
            if plain_kind(layer.inner) is None:
                raise ModelError(
                    f"layer {layer.layer.name!r} computes with weights of its own making, of which "
                    f"this score knows no gradient; choose fisher, or one of the logits, such as kl"
                )
            found[layer] = layer.inner.get_parameter("weight")
    return found


def activations_of(
    own: Iterable[Probe], inputs: tuple[Tensor, ...]
) -> dict[int, tuple[int, Tensor]]:
    """Return a layer's probed activations: by operand, its place among the inputs and its values.

    Args:
        own: The layer's probes.
        inputs: The layer's inputs.
    """
    found = {}
    for probe in own:
        if probe.operand != WEIGHT:
            found[probe.operand] = 0, inputs[0]
        elif not isinstance(probe.layer, QuantizedWeightLayer):
            found[probe.operand] = 1, inputs[1]
    return found


def _require_gradients(layer: QuantizedLayer) -> None:
    if not torch.is_grad_enabled():
        raise ModelError(
            f"the network computes layer {layer.layer.name!r} without gradients, which this score "
            f"needs; choose one of the logits, such as kl"
        )
