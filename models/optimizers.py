"""The optimizer and the learning rates that a training config asks for."""

import math

import torch
from torch import nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the config's optimizer for the parameters that are to be trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decay = config.weight_decay
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=config.lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=decay)
        case "adadelta":
            return torch.optim.Adadelta(parameters, lr=config.lr, weight_decay=decay)


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
    rest = max(config.epochs * steps_per_epoch - warmup, 1.0)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / rest, 1.0)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
