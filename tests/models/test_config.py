from typing import Any

import pytest

from bitfront.models import AdaptationConfig, DataConfig, QuantizerConfig, TrainConfig
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": 1.5}, r"smoothing must lie in \[0, 1\], got 1.5"),
        ({"smoothing": float("nan")}, "smoothing must lie in"),
        ({"rounding": "adaroud"}, "rounding: no 'adaroud'; did you mean 'adaround'"),
        ({"reconstruction": "bricq"}, "reconstruction: no 'bricq'; did you mean 'brecq'"),
        ({"reconstruction_steps": 0}, "reconstruction_steps must be at least 1, got 0"),
    ],
)
def test_repairs_that_do_not_exist_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        QuantizerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "batchnorm"}, "adaptation.method: no 'batchnorm'; did you mean 'batch-norm'"),
        ({"when": "always"}, "adaptation.when: no 'always'"),
        ({"images": 0}, "adaptation.images must be at least 1, got 0"),
        ({"epochs": 0}, "adaptation.epochs must be at least 1"),
        ({"batch_size": 0}, "adaptation.batch_size must be at least 1"),
        ({"lr": float("nan")}, "adaptation.lr must be a positive number"),
        ({"momentum": 1.0}, r"adaptation.momentum must lie in \[0, 1\), got 1.0"),
        ({"weight_decay": -1e-4}, "adaptation.weight_decay must not be negative"),
    ],
)
def test_adaptations_that_do_not_exist_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        AdaptationConfig(**settings)


def test_trained_weights_keep_no_repairs() -> None:
    repaired = QuantizerConfig(
        weight_observer="output-mse", rounding="adaround", bias_correction=True, smoothing=0.5
    )
    assert repaired.without_repairs == QuantizerConfig(weight_observer="mse", smoothing=0.5)
    minmax = QuantizerConfig(weight_observer="minmax")
    assert minmax.without_repairs == minmax


def test_images_are_kept_only_where_they_are_needed_again() -> None:
    assert not QuantizerConfig(equalization=True).needs_images
    assert QuantizerConfig(smoothing=0.0).needs_images
    assert not QuantizerConfig(smoothing=0.0).repairs_weights
    assert QuantizerConfig(bias_correction=True).repairs_weights
    assert QuantizerConfig(rounding="adaround").repairs_weights
