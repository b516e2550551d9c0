"""The state of torch's optimizers as arrays and plain values by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Any]:
    """Return what an optimizer has gathered; learning rates are not part of it.

    Args:
        optimizer: Any of torch's.
        prefix: What the names begin with.
    """
    state: dict[str, Any] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            kept = value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else value
            state[f"{prefix}{index}/{name}"] = kept
    return state


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], prefix: str
) -> None:
    """Give an optimizer of the same parameters what `optimizer_state` returned."""
    parameters = _parameters(optimizer)
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        index, name = key.removeprefix(prefix).split("/")
        parameter = parameters[int(index)]
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy())
            if name != "step":  # which torch keeps on the CPU
                value = value.to(parameter.device)
        optimizer.state[parameter][name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
