from typing import Any

import pytest

from bitfront.models import DataConfig, TrainConfig
from bitfront.spaces import DataError, ModelError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cifar-10"}, "unknown data set 'cifar-10'; did you mean 'cifar10'"),
        ({"calibration_images": 0}, "calibration_images must be at least 1, got 0"),
        ({"search_images": -1}, "search_images must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; did you mean 'bicubic'"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
    ],
)
def test_data_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "train.epochs must be at least 1, got 0"),
        ({"threads": 0}, "train.threads must be at least 1"),
        ({"lr": 0.0}, "train.lr must be a positive number"),
        ({"lr": float("nan")}, "train.lr must be a positive number"),
        ({"weight_decay": -1.0}, "train.weight_decay must not be negative"),
        ({"label_smoothing": 1.0}, "train.label_smoothing must be in"),
        ({"optimizer": "adamv"}, "unknown train.optimizer 'adamv'; did you mean"),
        ({"schedule": "cosin"}, "unknown train.schedule 'cosin'; did you mean 'cosine'"),
        ({"augment": "flip"}, "unknown train.augment 'flip'"),
    ],
)
def test_training_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TrainConfig(**settings)
