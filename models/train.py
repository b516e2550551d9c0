"""The training loop, and networks trained once and kept."""

import dataclasses
import hashlib
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..spaces import ModelError
from .augment import shuffled_batches
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig
from .images import ImageSet
from .optimizers import make_optimizer, make_schedule
from .splits import Splits
from .threads import fixed_threads
from .zoo import build_model

__all__ = [
    "LossFunction",
    "TrainConfig",
    "TrainProgress",
    "TrainReport",
    "cache_folder",
    "train",
    "trained_model",
]

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Called with the model, normalised images and labels; returns the loss to minimise."""

_LOOP_VERSION = 1
"""Part of the name of cached weights: raise it when the loop gives other weights than before."""


@dataclass(frozen=True)
class TrainProgress:
    """Where training stands after a step.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        epoch: The epoch the step belongs to, from 1.
        epochs: Epochs in all.
        loss: Loss of the step.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float


@dataclass(frozen=True)
class TrainReport:
    """What training took.

    Attributes:
        steps: Steps of the optimizer.
        images: Images that went forward and backward.
        loss: Mean loss of the last epoch.
        wall_s: Seconds it took.
    """

    steps: int
    images: int
    loss: float
    wall_s: float


def train(
    model: nn.Module,
    images: ImageSet,
    config: TrainConfig,
    *,
    loss: LossFunction | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainReport:
    """Train a network in place, and leave it in evaluation mode.

    The same model, images and config give the same weights, bit for bit on the same machine.

    Args:
        model: Any torch module.
        images: What to train on.
        config: How.
        loss: What is minimised; cross-entropy with the config's label smoothing if None.
        optimizer: Takes the steps, at the config's learning rates; that of the config if None.
        progress: Called after every step.

    Raises:
        ModelError: If a gradient is not finite; says in which epoch.
    """
    started = time.perf_counter()
    minimised = loss or _cross_entropy(config.label_smoothing)
    batch_size = min(config.batch_size, len(images))
    steps_per_epoch = len(images) // batch_size
    steps = steps_per_epoch * config.epochs
    optimizer = optimizer or make_optimizer(
        model.parameters(), config.optimizer, config.lr, config.weight_decay
    )
    schedule = make_schedule(optimizer, config, steps_per_epoch)
    generator = torch.Generator().manual_seed(config.seed)
    step, epoch_loss = 0, math.nan
    model.train()
    with fixed_threads(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # For dropout, which knows no other generator.
        for epoch in range(1, config.epochs + 1):
            losses = []
            for inputs, labels in shuffled_batches(images, batch_size, config.augment, generator):
                value = minimised(model, inputs, labels)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                _require_finite(model, epoch, config)
                optimizer.step()
                schedule.step()
                step += 1
                losses.append(value.item())
                if progress is not None:
                    progress(TrainProgress(step, steps, epoch, config.epochs, losses[-1]))
            epoch_loss = math.fsum(losses) / len(losses)
    model.eval()
    return TrainReport(step, step * batch_size, epoch_loss, time.perf_counter() - started)


def trained_model(
    name: str,
    splits: Splits,
    config: TrainConfig,
    *,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[TrainProgress], None] | None = None,
) -> nn.Module:
    """Return a network trained on the training split: trained now, or before and kept.

    The weights are kept under `cache_folder`, named by a hash of everything they depend on.

    Args:
        name: As for `build_model`.
        splits: The data; only its training split is used.
        config: How to train.
        kwargs: As for `build_model`.
        seed: Seed of the initial weights.
        progress: Called after every step, if there is anything to train.

    Raises:
        ModelError: If the network cannot be built or trained.
    """
    model = build_model(
        name, classes=splits.classes, input_shape=splits.input_shape, kwargs=kwargs, seed=seed
    )
    stem = "".join(c if c.isalnum() else "-" for c in name)
    key = _training_key(model, splits.train, config)
    path = cache_folder() / "models" / f"{stem}-{key}.safetensors"
    if path.is_file():
        load_checkpoint(model, path)
    else:
        train(model, splits.train, config, progress=progress)
        save_checkpoint(model, path)
    return model


def cache_folder() -> Path:
    """Return where trained weights are kept: ``$BITFRONT_CACHE``, else ``~/.cache/bitfront``."""
    return Path(os.environ.get("BITFRONT_CACHE", "~/.cache/bitfront")).expanduser()


def _training_key(model: nn.Module, images: ImageSet, config: TrainConfig) -> str:
    """Hash the initial weights, the code of the network, the images and the settings."""
    facts = [_LOOP_VERSION, str(model), images.digest, dataclasses.asdict(config)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(inspect.getsource(sys.modules[type(model).__module__]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _cross_entropy(label_smoothing: float) -> LossFunction:
    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(inputs), labels, label_smoothing=label_smoothing)

    return loss


def _require_finite(model: nn.Module, epoch: int, config: TrainConfig) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not torch.nn.utils.get_total_norm(gradients).isfinite():
        raise ModelError(
            f"training diverged: a gradient is not finite in epoch {epoch} of {config.epochs}; "
            f"lower lr (now {config.lr})"
        )
