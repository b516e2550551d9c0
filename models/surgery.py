"""Copying a module tree and exchanging parts of it, without touching anyone's source."""

import copy
from collections.abc import Mapping

import torch
from torch import nn


def structural_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the module tree that shares its parameters and buffers.

    It costs no memory for weights, and hooks or exchanged modules do not show in the original.
    """
    shared: dict[int, torch.Tensor] = {id(tensor): tensor for tensor in model.parameters()}
    shared |= {id(tensor): tensor for tensor in model.buffers()}
    return copy.deepcopy(model, shared)


def replace_modules(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put each replacement in every place of the tree where its original stands.

    Args:
        root: The tree; changed in place.
        replacements: New module by original, by identity.

    Returns:
        The root, or its replacement.
    """
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):  # twice, if it stands there twice
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(root, root)
