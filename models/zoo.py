"""Networks by name: built in, timm's, or the user's own."""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..spaces import ModelError, nearest

if TYPE_CHECKING:
    from torch import nn

_BUILT_IN = {
    "cnn5": "cnn",
    "resnet18": "resnet",
    "resnet20": "resnet",
    "resnet20s_wide": "resnet",
    "resnet32": "resnet",
    "resnet44": "resnet",
    "resnet56": "resnet",
    "vit_tiny_patch4": "vit",
}
"""Name of each built-in network, which is also its function's, and the module that has it."""
_TIMM = "timm:"


def model_names() -> list[str]:
    """Return the names of the built-in networks."""
    return sorted(_BUILT_IN)


def build_model(
    name: str,
    *,
    classes: int,
    input_shape: tuple[int, int, int],
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> "nn.Module":
    """Build a network with random weights; nothing is downloaded.

    Args:
        name: A built-in network (`model_names`); a timm model, as its name or ``timm:<name>``; or
            the user's own as ``package.module:function``, which is called as
            ``function(classes=..., input_shape=..., **kwargs)`` and returns a torch module.
        classes: Outputs of the network.
        input_shape: Channels, height and width of an image.
        kwargs: More arguments for the network's function, or for ``timm.create_model``.
        seed: Seed of the weights; torch's global random state is left as it was.

    Returns:
        The network in evaluation mode.

    Raises:
        ModelError: If there is no such network, or it cannot be built with these arguments.
    """
    builder = _builder(name)
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = builder(classes=classes, input_shape=input_shape, **(kwargs or {}))
        except ModelError:
            raise
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"model {name!r} cannot be built for {classes} classes and input {input_shape} "
                f"with {dict(kwargs or {})}: {error}"
            ) from error
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{name!r} must return a torch.nn.Module, got {type(model).__name__}")
    return model.eval()


def check_model_name(name: str) -> None:
    """Check that a network's name can be resolved, without building it.

    Loads nothing heavy for a built-in name; loads timm for one of its names, and the user's module
    for ``package.module:function``.

    Raises:
        ModelError: If there is no such network; names the nearest known ones.
    """
    if name not in _BUILT_IN:
        _builder(name)


def _builder(name: str) -> Callable[..., Any]:
    if name in _BUILT_IN:
        module = importlib.import_module(f".{_BUILT_IN[name]}", __package__)
        builder: Callable[..., Any] = getattr(module, name)
        return builder
    if ":" in name and not name.startswith(_TIMM):
        return _users_function(name)
    return _timm_builder(name)


def _timm_builder(name: str) -> Callable[..., Any]:
    from .torchvision_ops import declare_missing_operators

    declare_missing_operators()
    import timm

    plain = name.removeprefix(_TIMM)
    if not timm.is_model(plain):
        known = [*timm.list_models(), *([] if name.startswith(_TIMM) else _BUILT_IN)]
        raise ModelError(f"unknown model {name!r}; {nearest(plain, known)}")

    def build(classes: int, input_shape: tuple[int, int, int], **kwargs: Any) -> Any:
        channels, *size = input_shape
        settings = timm.get_pretrained_cfg(plain)
        # Transformers are built for one image size; convolutional networks take no such argument.
        if settings is not None and settings.fixed_input_size:
            kwargs = {"img_size": tuple(size)} | kwargs
        return timm.create_model(
            plain, pretrained=False, num_classes=classes, in_chans=channels, **kwargs
        )

    return build


def _users_function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    from .torchvision_ops import declare_missing_operators

    declare_missing_operators()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module may raise
        raise ModelError(f"model {name!r}: cannot import {module_name!r}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ModelError(
            f"model {name!r}: {module_name!r} has no function {function_name!r}; "
            f"{nearest(function_name, known)}"
        )
    users_function: Callable[..., Any] = function
    return users_function
