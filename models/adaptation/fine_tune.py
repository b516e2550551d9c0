"""Fine-tuning for one allocation, as HAQ treats each candidate of its search before it is judged.

Weights and biases are trained through the quantizers, whose gradients pass straight through where
nothing was clamped, by stochastic gradient descent with momentum (Wang et al., arXiv:1811.08886: an
epoch at 1e-3). Folded batch norms come to life for that time, as they were never folded there:
without them a network of 2-bit weights diverges at this rate, and of 3-bit weights it learns less
than new statistics alone give.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...spaces import BitAllocation
from ..config import AdaptationConfig, TrainConfig
from ..fold import Norm, Producer, fold_into
from ..images import ImageSet
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedWeightLayer
from ..train import TrainReport, train
from .batch_norm import BatchNorms

_Norms = Mapping[QuantizedWeightLayer, Norm]


def fine_tune(
    model: QuantizedModel,
    allocation: BitAllocation,
    images: ImageSet,
    calibration: ImageSet,
    config: AdaptationConfig,
    *,
    batch_size: int,
    seed: int,
    threads: int,
) -> TrainReport:
    """Train a quantized network at the widths of an allocation, which stay in force.

    The ranges of activations stay as they were calibrated, since the network learns with them;
    those of weights follow the weights. Batch norms normalise by the batch while the network
    learns; in the end their statistics are those of the calibration images, and weights and biases
    take them up again.

    Args:
        model: Calibrated, and used for nothing before; its weights change.
        allocation: The widths.
        images: What to train on.
        calibration: What the statistics of batch norms are estimated on.
        config: How.
        batch_size: Calibration images per forward pass: the more, the better the statistics.
        seed: Of the order of images, and of dropout.
        threads: Of torch; sums round differently with another number.

    Raises:
        ModelError: If a gradient is not finite.
    """
    norms = _unfolded(model, calibration, batch_size)
    model.set_allocation(allocation)
    device = next(model.parameters()).device

    def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(x.to(device)), labels.to(device))

    modules = (model, *norms.values())
    optimizer = torch.optim.SGD(
        [p for module in modules for p in module.parameters() if p.requires_grad],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    settings = TrainConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        schedule="constant",
        seed=seed,
        threads=threads,
    )
    with ExitStack() as stack:
        for layer, norm in norms.items():
            stack.callback(layer.register_forward_hook(_applied(norm)).remove)
        report = train(model, images, settings, loss=loss, optimizer=optimizer)
        _estimate(model, norms, calibration, batch_size)
    for layer, norm in norms.items():
        assert isinstance(layer.inner, Producer)
        with torch.no_grad():
            fold_into(layer.inner, norm)
    return report


def _unfolded(model: QuantizedModel, calibration: ImageSet, batch_size: int) -> _Norms:
    """Return batch norms that give layers the mean and spread that folded ones gave them."""
    if not model.normalized:
        return {}
    norms: dict[QuantizedWeightLayer, Norm] = {}
    for layer, spread in BatchNorms(model, calibration, batch_size).targets.items():
        kind = nn.BatchNorm2d if layer.layer.kind == "conv" else nn.BatchNorm1d
        norms[layer] = norm = kind(len(spread.mean), device=spread.mean.device)
        with torch.no_grad():
            norm.weight.copy_(spread.variance.sqrt())
            norm.bias.copy_(spread.mean)
    return norms


def _applied(norm: Norm) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda layer, operands, out: norm(out)


def _estimate(model: QuantizedModel, norms: _Norms, calibration: ImageSet, batch_size: int) -> None:
    """Set the statistics of batch norms to their means over batches of images."""
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None
    device = next(model.parameters()).device
    with torch.no_grad():
        for x, _ in calibration.batches(batch_size) if norms else ():
            model(x.to(device))
