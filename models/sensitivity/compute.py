"""Sensitivity scores of every choice of a space."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor

from ...spaces import FLOAT_BITS, BitAllocation, ModelError, Scores
from ...spaces.scores import Choices, blank_values, require_scored
from ..config import ScoreConfig
from ..quantized import QuantizedModel
from .gradient_family import fisher_scores, taylor_scores
from .hessian import hessian_scores
from .images import LabelledImages, batch_size
from .layer_family import layer_scores
from .network_family import network_scores
from .probes import Found, Probes, probes_of


def compute_scores(
    model: QuantizedModel,
    batches: Sequence[tuple[Tensor, Tensor]],
    config: ScoreConfig,
    choices: Choices,
    signature: str,
) -> Scores:
    """Return how much each operand of each layer costs, at each of its widths, quantized alone.

    The larger the worse; 32 bits score 0, and so does an operand with a single choice, which is
    not measured.

    Args:
        model: A calibrated network. Its allocation, its mode, and what its parameters have of
            gradients are afterwards as before.
        batches: Calibration images and labels; how they are split makes no difference.
        config: Which score, from how many images.
        choices: Per layer the widths of its weights (or right operand) and of its input.
        signature: The name that the scores are given.

    Raises:
        EvaluationError: If a score is not finite.
        ModelError: If there is no image, the choices are for other layers, or the model is not
            calibrated.
    """
    started = time.perf_counter()
    if len(choices) != len(model.layers):
        raise ModelError(
            f"the choices are for {len(choices)} layers, the model has {len(model.layers)}"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = LabelledImages(batches, batch_size(model.layers), config.images, device)
    probes, found = probes_of(model, choices), Found()
    if probes:
        _repair(model, choices)
        with _at_rest(model):
            found = _scored(model, images, probes, config)
    values = blank_values(model.layers, choices)
    for row, operands in enumerate(choices):
        for operand, widths in enumerate(operands):
            if FLOAT_BITS in widths:
                values[row, operand, FLOAT_BITS] = 0.0
    for place, score in found.scores.items():
        values[place] = score
    require_scored(config.kind, model.layers, values, choices)
    return Scores(
        asdict(config),
        signature,
        tuple(layer.name for layer in model.layers),
        values,
        found.images_forward,
        found.images_backward,
        time.perf_counter() - started,
    )


def _repair(model: QuantizedModel, choices: Choices) -> None:
    """Have repairs made before layers are watched: they may need passes of their own."""
    names = [layer.name for layer in model.layers]
    for turn in range(max(len(weights) for weights, _ in choices)):
        widths = [int(weights[min(turn, len(weights) - 1)]) for weights, _ in choices]
        model.repair(BitAllocation(names, widths, widths))


def _scored(
    model: QuantizedModel, images: LabelledImages, probes: Probes, config: ScoreConfig
) -> Found:
    match config.kind:
        case "output-l2" | "mse" | "cosine":
            return layer_scores(model, images, probes, config.kind)
        case "sqnr" | "kl" | "loss":
            return network_scores(model, images, probes, config.kind)
        case "fisher":
            return fisher_scores(model, images, probes)
        case "taylor":
            return taylor_scores(model, images, probes)
        case "hessian":
            return hessian_scores(model, images, probes, config)


@contextmanager
def _at_rest(model: QuantizedModel) -> Iterator[None]:
    """Hold a model in float, in evaluation mode, without gradients; restore it afterwards."""
    allocation = model.allocation
    modes = {module: module.training for module in model.modules()}
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    model.eval()
    model.set_allocation(None)
    for parameter, _, _ in gradients:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for parameter, required, gradient in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        model.set_allocation(allocation)
        for module, training in modes.items():
            module.training = training
