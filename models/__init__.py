"""Model zoo, data, profiling, quantized evaluation and training.

Importing this package is cheap: names are fetched from their modules when first used, so that
torch is loaded only where tensors are needed. Functions that share the name of their module are not
among them, and are imported from there: ``from bitfront.models.train import train``, and likewise
``profile`` and ``evaluate``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .config import AdaptationConfig, DataConfig, QuantizerConfig, TrainConfig, data_names
from .locate import data_folder, resolve_checkpoint
from .zoo import build_model, check_model_name, model_names

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint, save_checkpoint
    from .data import load_data
    from .images import ImageSet
    from .splits import SplitIndices, Splits
    from .train import TrainProgress, TrainReport, cache_folder, trained_model

_HOMES = {
    "ImageSet": "images",
    "SplitIndices": "splits",
    "Splits": "splits",
    "TrainProgress": "train",
    "TrainReport": "train",
    "cache_folder": "train",
    "load_checkpoint": "checkpoint",
    "load_data": "data",
    "save_checkpoint": "checkpoint",
    "trained_model": "train",
}
"""The module of every name that is fetched when first used."""

__all__ = [
    "AdaptationConfig",
    "DataConfig",
    "ImageSet",
    "QuantizerConfig",
    "SplitIndices",
    "Splits",
    "TrainConfig",
    "TrainProgress",
    "TrainReport",
    "build_model",
    "cache_folder",
    "check_model_name",
    "data_folder",
    "data_names",
    "load_checkpoint",
    "load_data",
    "model_names",
    "resolve_checkpoint",
    "save_checkpoint",
    "trained_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
