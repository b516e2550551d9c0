import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bitfront.models import build_model, check_model_name, model_names
from bitfront.models.resnet import SubsampleAndPad
from bitfront.spaces import ModelError


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 28, 28)])
def test_every_built_in_network_takes_small_images(
    name: str, input_shape: tuple[int, int, int]
) -> None:
    model = build_model(name, classes=7, input_shape=input_shape)
    assert not model.training
    with torch.inference_mode():
        assert model(torch.zeros(2, *input_shape)).shape == (2, 7)


def test_cnn5_takes_the_digits_and_has_five_layers() -> None:
    model = build_model("cnn5", classes=10, input_shape=(1, 8, 8))
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [type(layer).__name__ for layer in layers] == ["Conv2d"] * 3 + ["Linear"] * 2
    wide = build_model("cnn5", classes=10, input_shape=(1, 8, 8), kwargs={"width": 32})
    assert wide.get_parameter("conv1.weight").shape == (32, 1, 3, 3)


@pytest.mark.parametrize(
    ("name", "count"),
    [  # He et al., table 6: 0.27, 0.46, 0.66 and 0.85 million; the exact numbers are akamaster's.
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet18", 11_173_962),  # kuangliu/pytorch-cifar
    ],
)
def test_residual_networks_have_the_published_sizes(name: str, count: int) -> None:
    assert parameters(build_model(name, classes=10, input_shape=(3, 32, 32))) == count


def test_the_wide_stem_network_has_the_size_of_its_weights() -> None:
    model = build_model("resnet20s_wide", classes=100, input_shape=(3, 32, 32))
    assert parameters(model) == 306_884


def test_the_small_transformer_has_about_a_million_parameters() -> None:
    model = build_model("vit_tiny_patch4", classes=10, input_shape=(1, 28, 28))
    assert parameters(model) == pytest.approx(1e6, rel=0.05)
    assert model.get_parameter("pos_embed").shape == (1, 49, 128)


def test_option_a_takes_every_second_pixel_and_pads_both_sides() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = SubsampleAndPad(2, 4, stride=2)(x)
    assert y.tolist() == [
        [[[0, 0], [0, 0]], [[0, 2], [8, 10]], [[16, 18], [24, 26]], [[0, 0], [0, 0]]]
    ]


def test_the_seed_decides_the_weights_and_nothing_else_changes() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model("cnn5", classes=10, input_shape=(1, 8, 8), seed=seed)
        return model.get_parameter("fc1.weight")

    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "mobilenetv3_small_050"])
def test_timms_networks_are_found_by_name(name: str) -> None:
    model = build_model(name, classes=5, input_shape=(1, 32, 32))
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 5)


def test_timms_transformers_are_built_for_the_size_of_the_images() -> None:
    model = build_model("deit_tiny_patch16_224", classes=5, input_shape=(3, 64, 64))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_arguments_reach_timm() -> None:
    kwargs = {"pad_type": "same"}
    model = build_model("mobilenetv2_100", classes=5, input_shape=(3, 64, 64), kwargs=kwargs)
    assert type(model.get_submodule("conv_stem")).__name__ == "Conv2dSame"


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def small(classes, input_shape, hidden=3):\n"
        "    c, h, w = input_shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, hidden),"
        " nn.Linear(hidden, classes))\n"
        "def broken(classes, input_shape):\n"
        "    return 'not a module'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks"


def test_a_users_function_is_called_with_the_shape_and_its_arguments(users_module: str) -> None:
    model = build_model(
        f"{users_module}:small", classes=4, input_shape=(1, 8, 8), kwargs={"hidden": 5}
    )
    assert model.get_parameter("1.weight").shape == (5, 64)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("my_networks:smal", {}, "'my_networks' has no function 'smal'; did you mean 'small'"),
        ("my_networkz:small", {}, "cannot import 'my_networkz'"),
        ("my_networks:broken", {}, r"must return a torch\.nn\.Module, got str"),
        ("my_networks:small", {"hiden": 5}, "cannot be built.*unexpected keyword argument 'hiden'"),
        ("cnn5", {"widht": 5}, "cannot be built.*unexpected keyword argument 'widht'"),
        ("resnet2", {}, "unknown model 'resnet2'; did you mean .*'resnet20'"),
        ("timm:mobilnetv2_100", {}, "unknown model .*did you mean 'mobilenetv2_100'"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(
    users_module: str, name: str, kwargs: dict[str, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, classes=10, input_shape=(1, 8, 8), kwargs=kwargs)


@pytest.mark.parametrize("name", ["cnn5", "vit_tiny_patch4"])
def test_images_that_cannot_be_divided_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="sides are divisible by 4, got 30x30"):
        build_model(name, classes=10, input_shape=(1, 30, 30))


def test_names_are_checked_without_building() -> None:
    for name in [*model_names(), "timm:resnet18", "deit_tiny_patch16_224"]:
        check_model_name(name)
    with pytest.raises(ModelError, match="unknown model"):
        check_model_name("cnn6")
