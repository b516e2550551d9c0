"""Scores from the trace of the Hessian: HAWQ-V2 (arXiv:1911.03852) and HAWQ-V3 (arXiv:2011.10680).

``hessian``: ``Tr(H)/n * ||Q(W) - W||_2^2``, the mean curvature of the loss times the *sum* of the
squared changes, with H the Hessian of the loss with respect to the n weights. For an activation,
W is the layer's input over all images: n is the number of its elements over all images, and the
squares are summed over all images. The loss is the *mean* over the images of the cross-entropy
with their labels.

The trace is Hutchinson's estimate: the mean of ``v . Hv`` over random vectors v with entries +1 and
-1. One vector is drawn over the weights of all layers at once, since products between layers are
zero on average: so one Hessian-vector product serves them all, and another one all activations.
Activations have a vector of their own because what lies between operands is noise of the estimate,
and theirs is many times that of the weights. It ends when no operand's running mean changes by more
than ``tolerance``, relative to itself, or after ``iterations``.

An estimate below zero counts as zero. Behind ReLUs the logits are linear in the operand between
kinks, so that its Hessian has no negative eigenvalues, and only chance makes an estimate negative.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from ...spaces import ModelError
from ..config import ScoreConfig
from ..quantized import QuantizedModel
from .gradients import activations_of, differentiable, of_input, weights_of
from .images import LabelledImages
from .probes import WEIGHT, Found, Place, Probe, Probes, on_inputs

Operand = tuple[int, int]
"""Number of the layer, and which operand."""

Target = tuple[Operand, Tensor]
"""What the loss is differentiated by."""


class Traces(NamedTuple):
    """What Hutchinson's estimate gave.

    Attributes:
        means: Estimated trace by operand.
        iterations: Random vectors drawn.
    """

    means: dict[Operand, float]
    iterations: int


def hessian_scores(
    model: QuantizedModel, images: LabelledImages, probes: Probes, config: ScoreConfig
) -> Found:
    """Score every probe by ``hessian``.

    Each iteration passes each image forward once, and backward once for the gradient and once for
    each Hessian-vector product: of the weights, and of the activations. The changes of activations
    take one float pass more.

    Args:
        model: In float and in evaluation mode.
        images: With labels.
        probes: What is scored.
        config: Seed, iterations and tolerance.

    Raises:
        ModelError: If the network cannot be differentiated twice.
    """
    squares, sizes = _changes(model, images, probes)
    traces = estimate_traces(model, images, probes, config)
    scores = {
        place: max(traces.means[place[:2]], 0.0) / sizes[place[:2]] * value
        for place, value in squares.items()
    }
    passes = traces.iterations * images.count
    weights = weights_of(probes)
    has_activations = any(
        probe.operand != WEIGHT or layer not in weights
        for layer, own in probes.items()
        for probe in own
    )
    products = bool(weights) + has_activations
    return Found(scores, images.count + passes, (1 + products) * passes)


def estimate_traces(
    model: QuantizedModel, images: LabelledImages, probes: Probes, config: ScoreConfig
) -> Traces:
    """Return the trace of the Hessian of the mean loss by operand.

    Args:
        model: In float and in evaluation mode; probed weights come to record gradients.
        images: With labels.
        probes: Whose operands.
        config: Seed, iterations and tolerance.
    """
    generator = torch.Generator().manual_seed(config.seed)
    weights: list[Target] = [
        ((probes[layer][0].place[0], WEIGHT), weight)
        for layer, weight in weights_of(probes).items()
    ]
    for _, weight in weights:
        weight.requires_grad_(True)
    operands = {probe.place[:2] for own in probes.values() for probe in own}
    totals = dict.fromkeys(operands, 0.0)
    for iteration in range(1, config.iterations + 1):
        before = dict(totals)
        for x, labels in images:
            for operand, value in _quadratic_forms(model, x, labels, weights, probes, generator):
                totals[operand] += value / images.count
        if iteration > 1 and all(
            abs(totals[o] / iteration - before[o] / (iteration - 1))
            <= config.tolerance * abs(totals[o] / iteration)
            for o in operands
        ):
            break
    return Traces({operand: total / iteration for operand, total in totals.items()}, iteration)


@torch.enable_grad()
def _quadratic_forms(
    model: QuantizedModel,
    x: Tensor,
    labels: Tensor,
    weights: Sequence[Target],
    probes: Probes,
    generator: torch.Generator,
) -> list[tuple[Operand, float]]:
    """Return ``v . Hv`` of the summed loss of some images for random vectors, by operand."""
    activations: list[Target] = []

    def watch(own: Sequence[Probe], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = list(inputs)
        for operand, (place, value) in activations_of(own, inputs).items():
            changed[place] = of_input(value, own[0].layer)
            activations.append(((own[0].place[0], operand), changed[place]))
        return tuple(changed)

    # Fused attention cannot be differentiated twice.
    with on_inputs(probes, watch), sdpa_kernel(SDPBackend.MATH):
        loss = cross_entropy(model(x), labels, reduction="sum")
    points = [point for _, point in (*weights, *activations)]
    count = len(weights)
    with differentiable():
        slopes = torch.autograd.grad(loss, points, create_graph=True, materialize_grads=True)
        return [
            *_products(weights, slopes[:count], generator),
            *_products(activations, slopes[count:], generator),
        ]


def _products(
    targets: Sequence[Target], slopes: Sequence[Tensor], generator: torch.Generator
) -> list[tuple[Operand, float]]:
    """Return ``v . Hv`` for a random vector v over some targets.

    Args:
        targets: What the loss was differentiated by.
        slopes: Its gradients, differentiable.
        generator: Draws the vector.

    Raises:
        ModelError: If the network has an operation without second derivative.
    """
    vectors = [_rademacher(point, generator) for _, point in targets]
    curved = [(s, v) for s, v in zip(slopes, vectors, strict=True) if s.requires_grad]
    if not curved:  # there are none, or the loss is linear in all of them
        return []
    try:
        products = torch.autograd.grad(
            [slope for slope, _ in curved],
            [point for _, point in targets],
            [vector for _, vector in curved],
            retain_graph=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        if "not implemented" not in str(error):  # such as too little memory
            raise
        raise ModelError(
            f"the network cannot be differentiated twice ({error}), which hessian scores need; "
            f"choose another score, such as fisher"
        ) from error
    return [
        (operand, float((vector * product).sum(dtype=torch.float64)))
        for (operand, _), vector, product in zip(targets, vectors, products, strict=True)
    ]


def _rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor of independent entries +1 and -1."""
    drawn = torch.empty(like.shape, dtype=like.dtype).bernoulli_(0.5, generator=generator)
    return drawn.mul_(2).sub_(1).to(like.device)


def _changes(
    model: QuantizedModel, images: LabelledImages, probes: Probes
) -> tuple[dict[Place, float], dict[Operand, int]]:
    """Return the sum of squared changes by probe, and the number of elements by operand."""
    squares: dict[Place, float] = defaultdict(float)
    sizes: dict[Operand, int] = defaultdict(int)

    def compare(own: Sequence[Probe], inputs: tuple[Tensor, ...]) -> None:
        for operand, (_, x) in activations_of(own, inputs).items():
            sizes[own[0].place[0], operand] += x.numel()
            for probe in own:
                if probe.operand == operand:
                    squares[probe.place] += _square_sum(probe.quantized_activation(x) - x)

    with torch.inference_mode(), on_inputs(probes, compare):
        for x, _ in images:
            model(x)
    for layer, weight in weights_of(probes).items():
        for probe in probes[layer]:
            if probe.operand == WEIGHT:
                sizes[probe.place[:2]] = weight.numel()
                squares[probe.place] = _square_sum(probe.weight_change())
    return dict(squares), dict(sizes)


def _square_sum(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
