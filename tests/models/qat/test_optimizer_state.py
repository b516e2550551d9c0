"""Optimizers that go on from a state of arrays as if they had not stopped."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models.config import OptimizerName
from bitfront.models.optimizers import make_optimizer
from bitfront.models.qat.optimizer_state import optimizer_state, restore_optimizer

OPTIMIZERS = get_args(OptimizerName)


def parameters():
    source = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (5,), ()]
    tensors = [torch.randn(shape, generator=source) for shape in shapes]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(tensor) for tensor in tensors]


def step(optimizer, tensors, seed):
    source = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=source)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_it_takes_the_same_steps(name):
    whole = parameters()
    optimizer = make_optimizer(whole, name, 0.1, 0.01)
    for seed in range(3):
        step(optimizer, whole, seed)
    state = optimizer_state(optimizer, "mine/")
    again = [nn.Parameter(tensor.detach().clone()) for tensor in whole]
    restored = make_optimizer(again, name, 0.1, 0.01)
    restore_optimizer(restored, {"other/0/step": 99, "epoch": 3, **state}, "mine/")
    for seed in range(3, 6):
        step(optimizer, whole, seed)
        step(restored, again, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_is_a_copy_of_arrays_and_plain_values(name):
    tensors = parameters()
    optimizer = make_optimizer(tensors, name, 0.1)
    assert optimizer_state(optimizer, "mine/") == {}  # there is nothing before the first step
    step(optimizer, tensors, 0)
    state = optimizer_state(optimizer, "mine/")
    assert {key.split("/")[0] for key in state} == {"mine"}
    assert {key.split("/")[1] for key in state} == {"0", "1", "2"}
    assert all(isinstance(v, np.ndarray | int | float) for v in state.values())
    before = {key: np.array(value) for key, value in state.items()}
    step(optimizer, tensors, 1)
    assert all(np.array_equal(before[key], value) for key, value in state.items())
    moved = optimizer_state(optimizer, "mine/")
    assert any(not np.array_equal(before[key], value) for key, value in moved.items())


def test_without_momentum_there_may_be_nothing_to_keep():
    tensors = parameters()
    optimizer = torch.optim.SGD(tensors, lr=0.1)
    step(optimizer, tensors, 0)
    state = optimizer_state(optimizer, "")
    assert all(value is None for value in state.values())
    restore_optimizer(optimizer, state, "")
