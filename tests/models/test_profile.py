import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bitfront.models import build_model
from bitfront.models.attention import MatMul
from bitfront.models.profile import float_macs, profile
from bitfront.spaces import ModelError


def counted_macs(model, input_shape):
    """Multiply-accumulates by torch's own counter."""
    # The fused attention of CPUs is not counted; its plain form is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *input_shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "input_shape", "layers"),
    [
        ("cnn5", (1, 8, 8), 5),
        ("resnet20", (3, 32, 32), 20),
        ("resnet18", (3, 32, 32), 21),
        ("vit_tiny_patch4", (1, 28, 28), 2 + 5 * 6),
        ("timm:resnet18", (3, 64, 64), 21),
        ("timm:mobilenetv2_100", (3, 64, 64), 53),
        ("timm:tf_efficientnet_lite0", (3, 64, 64), 50),
        ("timm:deit_tiny_patch16_224", (3, 224, 224), 50 + 12 * 2),
    ],
)
def test_macs_agree_with_the_flop_counter(name, input_shape, layers):
    model = build_model(name, classes=10, input_shape=input_shape)
    found = profile(model, input_shape)
    assert len(found) == layers
    assert sum(layer.macs for layer in found) == counted_macs(model, input_shape)
    assert float_macs(model, input_shape) == {}


def test_a_grouped_strided_convolution_by_hand():
    (layer,) = profile(nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=1, groups=4), (8, 9, 10))
    # 5 x 8 output pixels of 12 channels, each a sum over 2 channels of 3 x 5.
    assert layer.macs == 5 * 8 * 12 * 2 * 15
    assert (layer.weight_count, layer.bias_count) == (12 * 2 * 15, 12)
    assert (layer.input_count, layer.output_count, layer.positions) == (720, 480, 40)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (8, 12, 4)
    assert (layer.kernel, layer.stride, layer.input_size) == ((3, 5), (2, 1), (9, 10))


def test_a_linear_layer_counts_its_tokens():
    (layer,) = profile(nn.Linear(6, 4, bias=False), (7, 6))
    assert (layer.kind, layer.macs, layer.positions) == ("linear", 7 * 6 * 4, 7)
    assert (layer.weight_count, layer.bias_count, layer.output_count) == (24, 0, 28)


def test_the_products_of_attention_by_hand():
    layers = profile(build_model("vit_tiny_patch4", classes=2, input_shape=(1, 8, 8)), (1, 8, 8))
    by_name = {layer.name: layer for layer in layers}
    names = [layer.name for layer in layers if layer.name.startswith("blocks.0")]
    attention = [f"blocks.0.attn.{part}" for part in ("qkv", "qk", "av", "proj")]
    assert names == [*attention, "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    # Images of 8 x 8 pixels have 4 tokens; 4 heads of 32 features.
    qk, av = by_name["blocks.0.attn.qk"], by_name["blocks.0.attn.av"]
    assert qk.macs == av.macs == 4 * 4 * 4 * 32
    assert (qk.input_count, qk.operand_count, qk.output_count) == (512, 512, 64)
    assert (av.input_count, av.operand_count, av.output_count) == (64, 512, 512)
    assert (qk.in_channels, qk.out_channels, qk.positions) == (32, 4, 4)
    assert (av.in_channels, av.out_channels, av.positions) == (4, 32, 4)
    assert qk.kind == "matmul" and qk.weight_count == qk.bias_count == 0


def test_layers_that_read_one_tensor_share_a_source():
    layers = profile(build_model("resnet18", classes=10, input_shape=(3, 32, 32)), (3, 32, 32))
    sources = {layer.name: layer.source for layer in layers}
    branch = next(name for name in sources if "downsample" in name or "shortcut" in name)
    main = branch.rsplit(".", 2)[0] + ".conv1"
    assert sources[branch] == sources[main] == main
    assert len(set(sources.values())) == len(sources) - 3


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.first(x) + self.second(x.relu_())


def test_what_an_in_place_operation_leaves_is_another_source():
    first, second = profile(InPlace(), (2,))
    assert first.source != second.source


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x):
        return self.step(self.step(x))


def test_a_layer_called_twice_counts_both_calls_and_its_weights_once():
    (layer,) = profile(Recurrent(), (4,))
    assert (layer.macs, layer.positions, layer.weight_count) == (32, 2, 16)
    assert (layer.input_count, layer.output_count) == (8, 8)


def test_two_layers_with_one_weight_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    with pytest.raises(ModelError, match="'0' and '2' share one weight tensor"):
        profile(model, (4,))


def test_layers_that_are_never_called_are_not_found():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].unused = nn.Linear(4, 4)
    assert [layer.name for layer in profile(model, (4,))] == ["0"]


class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.product = MatMul()
        self.parts = nn.ModuleList([nn.Linear(3, 5)])

    def forward(self, x):
        x = self.conv(x).transpose(1, 2)
        x, _ = self.attention(x, x, x)
        x = self.parts[0](x)
        return self.product(x, x.transpose(1, 2))


def test_what_stays_in_float_is_named_with_its_macs():
    model, input_shape = Unusual(), (2, 4)
    layers = profile(model, input_shape)
    assert [layer.name for layer in layers] == ["parts.0", "product"]
    rest = float_macs(model, input_shape)
    assert rest["conv"] == 2 * 3 * 4
    assert set(rest) == {"conv", "attention"}
    total = sum(layer.macs for layer in layers) + sum(rest.values())
    assert total == counted_macs(model, input_shape)


def test_a_network_without_layers_to_quantize_is_refused():
    with pytest.raises(ModelError, match="no layer that can be quantized"):
        profile(nn.Conv1d(1, 1, 1), (1, 4))


def test_an_input_that_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(ModelError, match=r"does not accept an input of shape \(1, 1, 8, 8\)"):
        profile(nn.Conv2d(3, 1, 1), (1, 8, 8))


def test_the_model_is_left_as_it_was():
    model = build_model("vit_tiny_patch4", classes=2, input_shape=(1, 8, 8)).train()
    before = [(name, type(module), module.training) for name, module in model.named_modules()]
    profile(model, (1, 8, 8))
    float_macs(model, (1, 8, 8))
    after = [(name, type(module), module.training) for name, module in model.named_modules()]
    assert after == before
    assert not any(module._forward_hooks for module in model.modules())
