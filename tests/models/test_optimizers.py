import math

import pytest
import torch
from torch import nn

from bitfront.models import TrainConfig
from bitfront.models.optimizers import make_optimizer, make_schedule


def rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    optimizer = make_optimizer(nn.Linear(1, 1).parameters(), config.optimizer, config.lr)
    schedule = make_schedule(optimizer, config, steps_per_epoch)
    values = []
    for _ in range(config.epochs * steps_per_epoch):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


def test_learning_rates_by_hand() -> None:
    half = math.sqrt(0.5) / 2
    cosine = TrainConfig(epochs=2, lr=2.0)
    assert rates(cosine, 2) == pytest.approx([2, 1 + 2 * half, 1, 1 - 2 * half])
    warm = TrainConfig(epochs=4, lr=1.0, warmup_epochs=1.5, schedule="constant")
    assert rates(warm, 2) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    both = TrainConfig(epochs=3, lr=1.0, warmup_epochs=1)
    assert rates(both, 1) == pytest.approx([0.5, 1, 0.5])


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    (group,) = make_optimizer(model.parameters(), "sgd", 0.1, weight_decay=0.1).param_groups
    assert [p.shape for p in group["params"]] == [torch.Size([2])]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.1)
