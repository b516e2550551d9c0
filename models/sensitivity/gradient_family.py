"""Scores from one forward and one backward pass of the float network.

The loss ``L`` is the sum over the images of the cross-entropy with their labels, so that scores do
not depend on how images are split into batches.

- ``fisher``: with ``g = dL/dY`` at a layer's output, the sum over its elements of
  ``clamp(g (Yq - Y), -1e10, 1e10)^2``, where only one operand is quantized in ``Yq``: the change of
  the loss to second order, with the diagonal of the empirical Fisher matrix as Hessian. The
  gradient score of NVIDIA's Model Optimizer (``auto_quantize``, method "gradient").
- ``taylor``: for weights ``sum |dL/dW (W - Q(W))|`` with the gradient over all images; for
  activations ``sum |dL/dx (x - Q(x))|`` with the gradient through this layer alone: the change of
  the loss to first order, element by element without cancelling. AutoScheme of Intel's AutoRound.

All layers and widths come from one pass. What a gradient is needed for is computed when it arrives
and then it is dropped, whatever the depth of the network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...spaces import FLOAT_BITS
from ..quantized import QuantizedModel
from .gradients import activations_of, backward, of_input, of_output, weights_of
from .images import LabelledImages
from .probes import WEIGHT, Found, Place, Probe, Probes, on_inputs, on_output

_CLAMP = 1e10


def fisher_scores(model: QuantizedModel, images: LabelledImages, probes: Probes) -> Found:
    """Score every probe by ``fisher``. One forward and one backward pass of each image.

    Args:
        model: In float and in evaluation mode.
        images: With labels.
        probes: What is scored.
    """
    scores = _zeros(probes)

    def watch(own: Sequence[Probe], inputs: tuple[Tensor, ...], full: Tensor) -> Tensor:
        layer, kept = own[0].layer, tuple(x.detach() for x in inputs)

        @torch.no_grad()
        def arrived(gradient: Tensor) -> None:
            # What follows the layer may have overwritten its output, so it is computed anew.
            full = layer.compute(kept, FLOAT_BITS, FLOAT_BITS)
            for probe in own:
                change = probe.output(kept).sub_(full).mul_(gradient).clamp_(-_CLAMP, _CLAMP)
                scores[probe.place] += float(torch.linalg.vector_norm(change)) ** 2

        out = of_output(full, layer)
        out.register_hook(arrived)  # type: ignore[no-untyped-call]
        return out

    with on_output(probes, watch):
        backward(model, images)
    return Found(scores, images.count, images.count)


def taylor_scores(model: QuantizedModel, images: LabelledImages, probes: Probes) -> Found:
    """Score every probe by ``taylor``. One forward and one backward pass of each image.

    Args:
        model: In float and in evaluation mode; the gradients of its weights are overwritten.
        images: With labels.
        probes: What is scored.
    """
    scores = _zeros(probes)

    def watch(own: Sequence[Probe], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = list(inputs)
        for operand, (place, x) in activations_of(own, inputs).items():
            changed[place] = of_input(x, own[0].layer)
            if changed[place].requires_grad:
                arrived = _arrival(own, operand, x.detach(), scores)
                changed[place].register_hook(arrived)  # type: ignore[no-untyped-call]
        return tuple(changed)

    weights = weights_of(probes)
    for weight in weights.values():
        weight.requires_grad_(True)
    with on_inputs(probes, watch):
        backward(model, images)
    for layer, weight in weights.items():
        for probe in probes[layer]:
            if probe.operand == WEIGHT and weight.grad is not None:
                scores[probe.place] = _absolute_sum(weight.grad * probe.weight_change())
    return Found(scores, images.count, images.count)


def _arrival(
    own: Sequence[Probe], operand: int, x: Tensor, scores: dict[Place, float]
) -> Callable[[Tensor], None]:
    """Return what adds the scores of an activation when its gradient arrives."""

    @torch.no_grad()
    def arrived(gradient: Tensor) -> None:
        for probe in own:
            if probe.operand == operand:
                change = probe.quantized_activation(x).sub_(x)
                scores[probe.place] += _absolute_sum(change.mul_(gradient))

    return arrived


def _absolute_sum(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, 1, dtype=torch.float64))


def _zeros(probes: Probes) -> dict[Place, float]:
    return {probe.place: 0.0 for own in probes.values() for probe in own}
