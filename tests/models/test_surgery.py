import torch
from torch import nn

from bitfront.models.surgery import replace_modules, structural_copy


def test_a_structural_copy_shares_tensors_but_not_modules():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    copied = structural_copy(model)
    assert copied[0] is not model[0]
    assert copied[0].weight is model[0].weight
    assert copied[1].running_mean is model[1].running_mean


def test_a_module_in_two_places_is_replaced_in_both():
    shared = nn.ReLU()
    model = nn.Sequential(shared, nn.Sequential(nn.Identity(), shared))
    new = nn.Tanh()
    assert replace_modules(model, {shared: new}) is model
    assert model[0] is new and model[1][1] is new


def test_the_root_can_be_replaced():
    root, new = nn.ReLU(), nn.Tanh()
    assert replace_modules(root, {root: new}) is new
    assert torch.equal(new(torch.zeros(1)), torch.zeros(1))
