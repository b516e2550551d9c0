"""Scores of the network's logits with one operand quantized and everything else in float.

The sweep over operands and widths runs on the integer engine, which computes once what
allocations share from the first layer on. With ``z`` the float logits and ``zq`` those of the
quantized operand, and p and q their softmax:

- ``sqnr``: noise over signal, ``sum (zq - z)^2 / sum z^2`` over all images and classes. A ratio and
  not decibels, so that contributions add up; ``-10 log10`` of it is a signal-to-noise ratio in dB,
  the default score of AIMET's automatic mixed precision (which averages the ratio by element).
- ``kl``: ``KL(p || q) = sum p (log p - log q)``, in nats, mean over the images. NVIDIA's Model
  Optimizer calls it KL-divergence scoring.
- ``loss``: cross-entropy of ``zq`` less that of ``z``, in nats, mean over the images. May be
  negative.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...spaces import FLOAT_BITS, BitAllocation
from ..engine import Engine
from ..quantized import QuantizedModel
from .images import LabelledImages
from .probes import WEIGHT, Found, Probe, Probes

NetworkKind = Literal["sqnr", "kl", "loss"]

_EXAMPLES = 4
"""Images on which the engine compares its kernels with the reference."""


def network_scores(
    model: QuantizedModel, images: LabelledImages, probes: Probes, kind: NetworkKind
) -> Found:
    """Score every probe by the logits. One image forward for each probe, and one in float.

    Args:
        model: In float and in evaluation mode.
        images: What is passed.
        probes: What is scored.
        kind: Which score; labels are used by ``loss`` alone.

    Raises:
        NonFiniteError: If a layer is given values that are not finite.
    """
    every = [probe for own in probes.values() for probe in own]
    floating = BitAllocation.uniform(model.layers, FLOAT_BITS)
    engine = Engine(model, next(iter(images))[0][:_EXAMPLES])
    run = engine.prepare([None, *(_alone(floating, probe) for probe in every)])
    sums = torch.zeros(len(every), dtype=torch.float64)
    total = 0.0
    distance = _DISTANCES[kind]
    for x, labels in images:
        full, *quantized = [logits.double().cpu() for logits in run(x)]
        total += float(full.square().sum()) if kind == "sqnr" else len(x)
        for number, logits in enumerate(quantized):
            sums[number] += distance(full, logits, labels.cpu())
    scores = {probe.place: float(value) / total for probe, value in zip(every, sums, strict=True)}
    return Found(scores, images_forward=images.count * (1 + len(every)))


def _alone(floating: BitAllocation, probe: Probe) -> BitAllocation:
    name = probe.layer.layer.name
    if probe.operand == WEIGHT:
        return floating.replace(name, weight=probe.bits)
    return floating.replace(name, activation=probe.bits)


def _noise(full: Tensor, quantized: Tensor, labels: Tensor) -> Tensor:
    return (quantized - full).square().sum()


def _divergence(full: Tensor, quantized: Tensor, labels: Tensor) -> Tensor:
    log_p, log_q = full.log_softmax(dim=1), quantized.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum()


def _loss_increase(full: Tensor, quantized: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(quantized, labels, reduction="sum") - cross_entropy(
        full, labels, reduction="sum"
    )


_DISTANCES: dict[NetworkKind, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sqnr": _noise,
    "kl": _divergence,
    "loss": _loss_increase,
}
