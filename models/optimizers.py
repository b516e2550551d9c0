"""The optimizer and the learning rates that a training config asks for."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from .config import OptimizerName, Schedule, TrainConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], name: OptimizerName, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return an optimizer for those of the parameters that are to be trained."""
    trained = [p for p in parameters if p.requires_grad]
    match name:
        case "sgd":
            return torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=weight_decay)
        case "adam":
            return torch.optim.Adam(trained, lr=lr, weight_decay=weight_decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
        case "adadelta":
            return torch.optim.Adadelta(trained, lr=lr, weight_decay=weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule by steps: a linear rise, then constant or half a cosine.

    Args:
        optimizer: Its learning rates are scheduled.
        config: Epochs, warm-up and shape.
        steps_per_epoch: Steps of the optimizer in an epoch.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    steps = config.epochs * steps_per_epoch
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, steps, config.schedule, warmup)
    )


def rate_factor(step: float, steps: float, schedule: Schedule, warmup: float = 0.0) -> float:
    """Return what a learning rate is multiplied by at a step, from 0.

    Args:
        step: Steps, or epochs, done.
        steps: As many in all.
        schedule: What comes after the warm-up.
        warmup: As many of a linear rise at the beginning.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    rest = max(steps - warmup, 1.0)
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / rest, 1.0)))
