import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bitfront.models import QuantizerConfig
from bitfront.models.engine import kernels
from bitfront.models.engine.codes import CodeGrid, code_grid, multiples_of, to_codes
from bitfront.models.engine.kernels import (
    available,
    conv,
    linear,
    matmul,
    pack_conv,
    pack_linear,
    supports,
)
from bitfront.models.quantized_layers import QuantizedWeightLayer
from bitfront.models.quantizers import tensor_grid
from bitfront.models.torchvision_ops import declare_missing_operators
from bitfront.models.weight_cache import WeightCache
from bitfront.spaces import Layer

declare_missing_operators()  # timm imports torchvision
from timm.layers import Conv2dSame  # noqa: E402
from timm.layers import linear as timm_linear  # noqa: E402

needs_kernels = pytest.mark.skipif(available() is not None, reason=str(available()))

CONVS = {
    "3x3": nn.Conv2d(8, 24, 3),
    "padded": nn.Conv2d(8, 24, (3, 5), padding=(1, 2)),
    "same": nn.Conv2d(8, 24, 3, padding="same", dilation=2),
    "1x1": nn.Conv2d(40, 24, 1, bias=False),
    "1x1 strided": nn.Conv2d(40, 24, 1, stride=2),
    "1x1 padded": nn.Conv2d(40, 24, 1, padding=1),
    "1x1 grouped": nn.Conv2d(40, 24, 1, groups=4),
    "strided": nn.Conv2d(3, 24, 7, stride=(2, 1), padding=3),
    "dilated": nn.Conv2d(8, 24, 3, padding=2, dilation=(2, 1)),
    "grouped": nn.Conv2d(12, 24, 3, padding=1, groups=3),
    "depthwise": nn.Conv2d(24, 24, 5, padding=2, groups=24),
}
LINEARS = {"bias": nn.Linear(70, 50), "no bias": nn.Linear(70, 50, bias=False)}
for number, module in enumerate((*CONVS.values(), *LINEARS.values())):
    if module.bias is not None:  # the same in every run: a sum near a boundary may round either way
        nn.init.normal_(module.bias, std=0.1, generator=torch.Generator().manual_seed(number))

CLIPS = {"none": lambda x: x, "relu": F.relu, "relu6": F.relu6}
# Grids of inputs, over a range of 5 about.
INPUTS = {"zp=0": CodeGrid(5 / 255, 0, 255), "zp>0": CodeGrid(5 / 255, 119, 255)}

every_clip = pytest.mark.parametrize("clip", CLIPS)
clips_of_sums = pytest.mark.parametrize("clip", ["none", "relu"])
every_input = pytest.mark.parametrize("grid", INPUTS.values(), ids=INPUTS)
every_conv = pytest.mark.parametrize("module", CONVS.values(), ids=CONVS)
every_width = pytest.mark.parametrize("bits", [8, 5, 2])


def from_codes(codes, grid):
    return multiples_of(codes, grid).mul_(grid.scale)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def random_weights(module):
    shape = module.weight.shape
    codes = torch.randint(-128, 128, shape, generator=draw(), dtype=torch.int8)
    # So that results are about as large as where the activations bend.
    scales = (torch.rand(shape[0], generator=draw(1)) + 0.5) / (40 * shape[1:].numel() ** 0.5)
    return codes, scales


def random_codes(*shape):
    codes = torch.randint(0, 256, shape, generator=draw(2), dtype=torch.uint8)
    return codes.contiguous(memory_format=torch.channels_last) if codes.dim() == 4 else codes


def conv_case(module, grid):
    """Input, packed weights and the exact result before the activation."""
    x = random_codes(2, module.in_channels, 11, 12)
    codes, scales = random_weights(module)
    exact = module._conv_forward(
        (x.double() - grid.zero_point) * grid.scale,
        codes.double() * scales.double().view(-1, 1, 1, 1),
        None if module.bias is None else module.bias.double(),
    )
    return x, pack_conv(codes, scales, module.bias, module, grid), exact.detach()


def linear_case(module, grid, shape):
    x = random_codes(*shape, module.in_features)
    codes, scales = random_weights(module)
    exact = F.linear(
        (x.double() - grid.zero_point) * grid.scale,
        codes.double() * scales.double().view(-1, 1),
        None if module.bias is None else module.bias.double(),
    )
    return x, pack_linear(codes, scales, module.bias), exact.detach()


def output_grid(exact, grid, bits):
    """A grid that clips some results at the top and, with a zero point, at the bottom."""
    low, high = torch.quantile(exact.flatten(), torch.tensor([0.05, 0.95]).double()).tolist()
    return code_grid(tensor_grid(low if grid.zero_point else 0.0, high, bits, "affine"), bits)


def assert_close(found, exact):
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def assert_codes(found, exact, grid):
    centred = (exact / grid.scale).round()
    expected = (centred + grid.zero_point).clamp(0, grid.highest).int()
    # Each end of the grid is reached, or the test would not see a missing clamp.
    assert expected.max() == grid.highest
    differences = (found.int() - expected).abs()
    assert found.dtype == torch.uint8 and differences.max() <= 1
    assert (differences > 0).double().mean() <= 1e-3


@needs_kernels
@every_clip
@every_input
@every_conv
def test_convolutions_in_float(module, grid, clip):
    x, weight, exact = conv_case(module, grid)
    out = conv(x, grid, weight, module, clip, None)
    assert_close(out, CLIPS[clip](exact))
    assert out.is_contiguous(memory_format=torch.channels_last)


@needs_kernels
@every_clip
@every_width
@every_input
@every_conv
def test_convolutions_to_codes(module, grid, bits, clip):
    x, weight, exact = conv_case(module, grid)
    exact = CLIPS[clip](exact)
    output = output_grid(exact, grid, bits)
    assert_codes(conv(x, grid, weight, module, clip, output), exact, output)


@needs_kernels
@clips_of_sums
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@every_conv
def test_convolutions_add_before_they_clip(module, memory_format, clip):
    grid = INPUTS["zp>0"]
    x, weight, exact = conv_case(module, grid)
    added = torch.randn(exact.shape, generator=draw(3)).contiguous(memory_format=memory_format)
    exact = CLIPS[clip](exact + added)
    assert_close(conv(x, grid, weight, module, clip, None, added), exact)


@needs_kernels
@every_conv
def test_codes_in_any_memory_format_are_convolved(module):
    grid = INPUTS["zp>0"]
    x, weight, exact = conv_case(module, grid)
    assert_close(conv(x.contiguous(), grid, weight, module, "none", None), exact)


every_linear = pytest.mark.parametrize("module", LINEARS.values(), ids=LINEARS)
every_shape = pytest.mark.parametrize("shape", [(40,), (3, 14)], ids=str)


@needs_kernels
@every_clip
@every_input
@every_shape
@every_linear
def test_linear_layers_in_float(module, shape, grid, clip):
    x, weight, exact = linear_case(module, grid, shape)
    out = linear(x, grid, weight, clip, None)
    assert_close(out, CLIPS[clip](exact))


@needs_kernels
@every_clip
@every_width
@every_input
@every_shape
@every_linear
def test_linear_layers_to_codes(module, shape, grid, bits, clip):
    x, weight, exact = linear_case(module, grid, shape)
    exact = CLIPS[clip](exact)
    output = output_grid(exact, grid, bits)
    assert_codes(linear(x, grid, weight, clip, output), exact, output)


@needs_kernels
@pytest.mark.parametrize("size", [(1, 5, 1, 1), (1, 1, 4, 5), (3, 1, 1, 6), (2, 5, 1, 1)], ids=str)
def test_small_maps_of_ambiguous_memory_format(size):
    images, channels, height, width = size
    module = nn.Conv2d(channels, channels, 1)
    grid = INPUTS["zp>0"]
    codes, scales = random_weights(module)
    weight = pack_conv(codes, scales, module.bias, module, grid)
    x = random_codes(images, channels, height, width).contiguous()
    added = torch.randn(images, width, height, channels, generator=draw(3)).transpose(1, 3)
    exact = module._conv_forward(
        from_codes(x, grid).double(),
        codes.double() * scales.double().view(-1, 1, 1, 1),
        module.bias.double(),
    )
    assert_close(conv(x, grid, weight, module, "none", None), exact)
    exact = exact + added
    assert_close(conv(x, grid, weight, module, "none", None, added), exact)


@needs_kernels
def test_linear_layers_take_any_strides():
    module, grid = LINEARS["bias"], INPUTS["zp>0"]
    x, weight, exact = linear_case(module, grid, (3, 14))
    added = torch.randn(14, 50, 3, generator=draw(3)).permute(2, 0, 1)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert_close(linear(strided, grid, weight, "none", None), exact)
    exact = exact + added
    assert_close(linear(strided, grid, weight, "none", None, added), exact)


@needs_kernels
@clips_of_sums
@every_shape
@every_linear
def test_linear_layers_add_before_they_clip(module, shape, clip):
    grid = INPUTS["zp>0"]
    x, weight, exact = linear_case(module, grid, shape)
    added = torch.randn(exact.shape, generator=draw(3))
    exact = CLIPS[clip](exact + added)
    assert_close(linear(x, grid, weight, clip, None, added), exact)


@needs_kernels
@every_clip
@given(
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(1, 254).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
)
def test_what_is_clipped_has_the_highest_code(clip, scale, ends):
    zero_point, highest = ends
    weight = pack_linear(torch.tensor([[127], [-127]], dtype=torch.int8), torch.ones(2), None)
    output = CodeGrid(scale, zero_point, highest)
    x = torch.tensor([[255]], dtype=torch.uint8)
    out = linear(x, CodeGrid(2.0**100, 0, 255), weight, clip, output)
    top = min(highest, round(6 / scale) + zero_point) if clip == "relu6" else highest
    assert abs(int(out[0, 0]) - top) <= (clip == "relu6")
    assert out[0, 1] == (0 if clip == "none" else zero_point)


@needs_kernels
def test_the_largest_sums_are_exact():
    module = nn.Linear(65793, 1, bias=False)
    assert supports(layer_of(module)) is None
    x = torch.full((1, 65793), 255, dtype=torch.uint8)
    for zero_point in (0, 1, 255):
        codes = torch.full((1, 65793), -128, dtype=torch.int8)
        weight = pack_linear(codes, torch.ones(1), None)
        out = linear(x, CodeGrid(1.0, zero_point, 255), weight, "none", None)
        assert out.item() == pytest.approx(-(255 - zero_point) * 128 * 65793, rel=1e-7)


def operand(shape, bits, ends, seed):
    """Codes over a whole grid, the grid, and their exact values."""
    grid = code_grid(tensor_grid(*ends, bits, "affine"), bits)
    codes = torch.randint(0, grid.highest + 1, shape, generator=draw(seed), dtype=torch.uint8)
    return codes, grid, (codes.double() - grid.zero_point) * grid.scale


@needs_kernels
@pytest.mark.parametrize("bits", [(8, 8), (5, 8), (8, 2), (7, 4)], ids=str)
@pytest.mark.parametrize("left_ends", [(0.0, 1.0), (-1.0, 1.5), (-1.0, 0.0)], ids=str)
@pytest.mark.parametrize("right_ends", [(0.0, 1.0), (-1.5, 1.0), (-0.01, 1.0)], ids=str)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("size", [(97, 64, 97), (99, 197, 33), (7, 8, 9)], ids=str)
def test_products_of_activations(size, batch, right_ends, left_ends, bits, monkeypatch):
    rows, inner, columns = size
    monkeypatch.setattr(kernels, "_PRODUCT_BLOCK", 2 * rows * columns + 1)
    left, left_grid, exact_left = operand((*batch, rows, inner), bits[0], left_ends, 0)
    right, right_grid, exact_right = operand((*batch, inner, columns), bits[1], right_ends, 1)
    before = left.clone(), right.clone()
    out = matmul(left, left_grid, right, right_grid)
    assert_close(out, exact_left @ exact_right)
    assert torch.equal(left, before[0]) and torch.equal(right, before[1])


@needs_kernels
def test_products_of_operands_laid_out_as_by_attention():
    qkv, grid, exact = operand((2, 97, 3, 2, 64), 8, (-1.0, 1.5), 0)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    exact_q, exact_k, exact_v = exact.permute(2, 0, 3, 1, 4).unbind(0)
    scores = matmul(q, grid, k.transpose(-2, -1), grid)
    assert_close(scores, exact_q @ exact_k.transpose(-2, -1))
    weights, weight_grid, exact_weights = operand(scores.shape, 8, (0.0, 1.0), 1)
    assert_close(matmul(weights, weight_grid, v, grid), exact_weights @ exact_v)


@needs_kernels
@pytest.mark.parametrize("inner", [33025, 33026])
def test_products_with_the_largest_sums(inner):
    grid = CodeGrid(1.0, 0, 255)
    left = torch.full((1, 4, inner), 255, dtype=torch.uint8)
    right = torch.full((1, inner, 4), 255, dtype=torch.uint8)
    out = matmul(left, grid, right, grid)
    # Float's own error; sums that had left the range of int32 would be negative.
    assert (out / (255 * 255 * inner) - 1).abs().max() <= 1e-4


def layer_of(module):
    is_conv = isinstance(module, nn.Conv2d)
    description = Layer(
        name="layer",
        kind="conv" if is_conv else "linear",
        macs=1,
        weight_count=1,
        bias_count=0,
        input_count=1,
        output_count=1,
        in_channels=module.weight.shape[1],
        out_channels=module.weight.shape[0],
    )
    return QuantizedWeightLayer(module, description, QuantizerConfig(), WeightCache(2**20))


def layer_codes(layer, x, weight_bits, activation_bits):
    """What the planner will do for one layer with quantized operands."""
    grid = layer.left.grid(activation_bits)
    grid = code_grid(grid, activation_bits, layer.left.channel_axis)
    codes = to_codes(x, grid)
    weight = layer.weight_codes(weight_bits)
    weight_codes = weight.codes.to(torch.int8)
    if isinstance(layer.inner, nn.Conv2d):
        packed = pack_conv(weight_codes, weight.scales, weight.bias, layer.inner, grid)
        return conv(codes, grid, packed, layer.inner, "none", None)
    packed = pack_linear(weight_codes, weight.scales, weight.bias)
    return linear(codes, grid, packed, "none", None)


def widths(count, seed):
    return np.random.default_rng(seed).integers(2, 9, count).astype(np.uint8)


@needs_kernels
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("observer", ["minmax", "mse"])
@pytest.mark.parametrize("per_channel", ["neither", "weights", "activations", "both"])
@pytest.mark.parametrize(
    "module",
    [*CONVS.values(), Conv2dSame(6, 8, 3, stride=2), LINEARS["bias"], timm_linear.Linear(9, 7)],
    ids=[*CONVS, "timm's same", "linear", "timm's linear"],
)
def test_a_layer_is_its_reference_bit_for_bit(module, per_channel, observer, scheme):
    layer = layer_of(module)
    layer.config = QuantizerConfig(weight_observer=observer, activation_scheme=scheme)
    layer.left._config = layer.config
    is_conv = isinstance(module, nn.Conv2d)
    channels = module.in_channels if is_conv else module.in_features
    shape = (2, channels, 11, 12) if is_conv else (2, 13, channels)
    x = torch.randn(shape, generator=draw())
    layer.observe(x)
    on_weights = widths(len(module.weight), 0) if per_channel in ("weights", "both") else 4
    on_activations = widths(channels, 1) if per_channel in ("activations", "both") else 6
    with torch.no_grad():
        reference = layer.compute((x,), on_weights, on_activations)
    assert torch.equal(layer_codes(layer, x, on_weights, on_activations), reference)


@needs_kernels
@every_clip
@every_width
@every_linear
def test_codes_without_a_zero_point_are_the_references_bit_for_bit(module, bits, clip):
    layer = layer_of(module)
    x = torch.randn(400, module.in_features, generator=draw())
    layer.observe(x)
    grid = code_grid(layer.left.grid(8), 8)
    weight = layer.weight_codes(8)
    packed = pack_linear(weight.codes.to(torch.int8), weight.scales, weight.bias)
    output = code_grid(tensor_grid(0.0, 1.0, bits, "affine"), bits)
    found = linear(to_codes(x, grid), grid, packed, clip, output)
    with torch.no_grad():
        reference = CLIPS[clip](layer.compute((x,), 8, 8))
    assert torch.equal(found, to_codes(reference, output))


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, *args):
        return super()._conv_forward(*args) * 2


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Renamed(nn.Conv2d):
    pass


@pytest.mark.parametrize("module", [*CONVS.values(), *LINEARS.values(), Renamed(4, 4, 3)])
def test_ordinary_layers_are_supported(module):
    assert supports(layer_of(module)) is None


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (OwnForward(4, 4, 3), "own forward"),
        (OwnLinear(4, 4), "own forward"),
        (OwnConvolution(4, 4, 3), "own forward"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect'"),
        (nn.Conv2d(4, 4, 2, padding="same"), "side to side"),
        (nn.Conv2d(4, 4, 3).double(), "float64"),
        (nn.Linear(4, 4, device="meta"), "meta"),
        (nn.Linear(65794, 1), "32 bits"),
    ],
)
def test_why_other_layers_are_not_supported(module, reason):
    assert reason in supports(layer_of(module))


def test_a_cpu_without_the_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert "AVX512-VNNI" in available.__wrapped__()


@needs_kernels
def test_a_build_whose_sums_saturate_is_refused(monkeypatch):
    exact = kernels.conv
    monkeypatch.setattr(kernels, "conv", lambda *args: exact(*args).clamp_(max=2**15 - 1))
    assert "not exact" in available.__wrapped__()


def test_a_build_with_other_operations_is_refused(monkeypatch):
    def fail(*args):
        raise RuntimeError("no such schema\nand where")

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(kernels, "linear", fail)
    assert available.__wrapped__() == (
        "the quantized operations of this build fail: no such schema"
    )


def test_the_answer_to_available_is_a_clause_or_none():
    assert available() is None or not available().endswith(".")


@needs_kernels
def test_packed_weights_know_their_size():
    module = nn.Conv2d(32, 64, 3)
    codes, scales = random_weights(module)
    packed = pack_conv(codes, scales, module.bias, module, INPUTS["zp>0"])
    assert codes.nbytes + scales.nbytes <= packed.nbytes <= 1.2 * codes.nbytes
