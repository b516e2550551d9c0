import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.quantizers import (
    Grid,
    channel_grid,
    dequantize,
    fake_quantize,
    quantize,
    tensor_grid,
    weight_grid,
)

finite = st.floats(-1e4, 1e4, width=32)
widths = st.sampled_from([2, 3, 4, 5, 6, 7, 8])
schemes = st.sampled_from(["affine", "symmetric"])


def grid_of(x, bits, scheme="affine"):
    low, high = float(x.min()), float(x.max())
    if scheme == "symmetric":
        high = max(-low, high)
    return tensor_grid(low, high, bits, scheme)


def test_symmetric_values_by_hand():
    # Largest magnitude 0.7 at 4 bits: scale 0.7 / 7 = 0.1, codes -8 to 7.
    grid = tensor_grid(-0.7, 0.7, 4, "symmetric")
    x = torch.tensor([0.7, 0.04, 0.06, -0.26, -5.0, 5.0])
    assert quantize(x, grid).tolist() == [7, 0, 1, -3, -8, 7]
    expected = torch.tensor([0.7, 0.0, 0.1, -0.3, -0.8, 0.7])
    torch.testing.assert_close(fake_quantize(x, grid), expected)


def test_halves_go_to_the_even_code():
    grid = Grid(1.0, 0, -8, 7)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantize(x, grid).tolist() == [0, 2, 2, 0, -2]


def test_affine_values_by_hand():
    # From -1 to 2 at 2 bits: scale 1, zero point 1, codes 0 to 3 for -1, 0, 1, 2.
    grid = tensor_grid(-1.0, 2.0, 2, "affine")
    assert (grid.scale, grid.zero_point, grid.lowest, grid.highest) == (1.0, 1, 0, 3)
    x = torch.tensor([-3.0, -0.4, 0.6, 2.0, 9.0])
    codes = quantize(x, grid)
    assert codes.tolist() == [0, 1, 2, 3, 3]
    assert dequantize(codes, grid).tolist() == [-1.0, 0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("ends", [(0.5, 2.0), (-2.0, -0.5), (-1.0, 3.0), (0.0, 0.0)])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_zero_is_a_point_of_every_affine_grid(ends, bits):
    grid = tensor_grid(*ends, bits, "affine")
    assert grid.lowest <= grid.zero_point <= grid.highest
    assert fake_quantize(torch.zeros(1), grid).item() == 0.0


@given(st.lists(finite, min_size=1, max_size=30), widths, schemes)
def test_error_is_at_most_half_a_step_and_a_second_time_changes_nothing(values, bits, scheme):
    x = torch.tensor(values)
    grid = grid_of(x, bits, scheme)
    once = fake_quantize(x, grid)
    # An affine zero point is rounded, which moves the ends by up to half a step more.
    allowed = grid.scale * (0.5 if scheme == "symmetric" else 1.0)
    assert (once - x).abs().max() <= allowed * (1 + 1e-4) + 1e-30
    assert torch.equal(fake_quantize(once, grid), once)


@given(st.lists(finite, min_size=1, max_size=30), widths, schemes)
def test_codes_stay_inside_and_stand_for_the_quantized_values(values, bits, scheme):
    x = torch.tensor(values)
    grid = grid_of(x, bits, scheme)
    codes = quantize(x, grid)
    assert torch.equal(codes, codes.round())
    assert grid.highest - grid.lowest == 2**bits - 1
    assert grid.lowest <= codes.min() and codes.max() <= grid.highest
    assert torch.equal(dequantize(codes, grid), fake_quantize(x, grid))


def test_mean_error_shrinks_with_bits_on_spread_out_data():
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    errors = [float((fake_quantize(x, grid_of(x, b)) - x).square().mean()) for b in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_weights_have_a_grid_per_output_channel():
    weight = torch.tensor([[0.3, -0.7], [30.0, -70.0], [0.0, 0.0]])
    grid = weight_grid(weight.abs().amax(dim=1, keepdim=True), 4)
    expected = torch.tensor([[3, -7], [3, -7], [0, 0]], dtype=torch.float32)
    assert torch.equal(quantize(weight, grid), expected)


def test_weight_channels_with_their_own_widths_equal_those_quantized_alone():
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    largest = weight.abs().amax(dim=1, keepdim=True)
    bits = np.array([2, 8, 32, 16], dtype=np.uint8)
    mixed = fake_quantize(weight, weight_grid(largest, bits))
    for row, width in enumerate(bits):
        alone = fake_quantize(weight, weight_grid(largest, int(width)))[row]
        assert torch.equal(mixed[row], alone)
    assert torch.equal(mixed[2], weight[2])


@given(
    st.lists(widths, min_size=1, max_size=6),
    schemes,
    st.tuples(st.floats(-10, 0), st.floats(0.01, 10)),
    st.integers(0, 2**31),
)
def test_channels_share_one_container_of_8_bit_codes(bits, scheme, ends, seed):
    if scheme == "symmetric":
        ends = (-ends[1], ends[1])
    bits = np.array(bits, dtype=np.uint8)
    grid = channel_grid({int(b): ends for b in bits}, bits, scheme)
    x = torch.randn(16, len(bits), generator=torch.Generator().manual_seed(seed)) * 4
    spacing = torch.tensor([2.0 ** (8 - int(b)) for b in bits])
    container_scale = grid.scale / spacing
    container_zero = grid.zero_point * spacing
    assert container_scale.unique().numel() == container_zero.unique().numel() == 1
    codes = quantize(x, grid) * spacing
    lowest = 0 if scheme == "affine" else -128
    assert lowest <= codes.min() and codes.max() <= lowest + 255
    assert torch.equal(codes % spacing, torch.zeros_like(codes))
    assert torch.equal((codes - container_zero) * container_scale, fake_quantize(x, grid))


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_equal_channel_widths_are_the_grid_of_the_tensor(scheme, bits):
    ends = {bits: (-2.5, 2.5) if scheme == "symmetric" else (-0.7, 2.5)}
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    by_channel = channel_grid(ends, np.full(3, bits, dtype=np.uint8), scheme)
    whole = tensor_grid(*ends[bits], bits, scheme)
    assert torch.equal(fake_quantize(x, by_channel), fake_quantize(x, whole))


def test_no_channel_is_clipped_because_of_another():
    # The 2-bit range is narrow, as least error makes it; the 8-bit channel keeps its own.
    ranges = {2: (0.0, 0.5), 8: (0.0, 4.0)}
    grid = channel_grid(ranges, np.array([2, 8], dtype=np.uint8), "affine")
    out = fake_quantize(torch.full((1, 2), 4.0), grid)
    assert out.tolist() == [[4.0, 4.0]]


def test_channels_in_float_and_of_16_bits_stand_apart():
    ranges = {4: (0.0, 1.5), 16: (0.0, 1.5)}
    grid = channel_grid(ranges, np.array([4, 16, 32], dtype=np.uint8), "affine")
    out = fake_quantize(torch.full((1, 3), math.pi / 3), grid)[0]
    assert out[0].item() == pytest.approx(1.0)
    assert out[1].item() == pytest.approx(math.pi / 3, abs=1.5 / 65535)
    assert out[2].item() == torch.tensor(math.pi / 3).item()


def channel_grids(channels):
    """A grid by channel with three widths and some channels in float, along axis 1 of images."""
    bits = np.array([2, 4, 32, 8])[np.arange(channels) % 4].astype(np.uint8)
    grid = channel_grid({2: (-0.7, 2.0), 4: (-1.0, 2.2), 8: (-1.1, 2.4)}, bits, "affine")
    return grid.reshaped((1, channels, 1, 1), torch.device("cpu"))


def every_kind_of_grid(x):
    """Grids of activations and weights, all of which clamp some values of ``torch.randn``."""
    largest = x.detach().float().abs().amax(dim=(1, 2, 3), keepdim=True) / 2
    rows = np.array([3, 8, 32, 4])[np.arange(len(x)) % 4].astype(np.uint8)
    return [
        tensor_grid(-0.8, 1.5, 4, "affine"),
        tensor_grid(0.0, 1.5, 3, "symmetric"),
        channel_grids(x.shape[1]),
        weight_grid(largest, 4),
        weight_grid(largest, rows),
        weight_grid(largest, 32),
    ]


def by_definition(x, grid):
    """Quantized values, and whether each was not clamped, from the formula in float64."""
    wide = x.detach().double()
    if x.dtype != torch.float64:  # The product is rounded to float32, as the definition has it.
        wide = wide.float()
    codes = torch.round(wide * (1 / grid.scale)).double() + grid.zero_point
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (grid.lowest, grid.highest))
    points = (codes.clamp(low, high) - grid.zero_point) * grid.scale
    inside = (codes >= low) & (codes <= high)
    if grid.unquantized is not None:
        points, inside = (
            torch.where(grid.unquantized, wide.double(), points),
            inside | grid.unquantized,
        )
    return points, inside


@pytest.fixture(params=["contiguous", "channels_last", "slice", "transposed", "large"])
def images(request):
    shape = (40, 8, 64, 64) if request.param == "large" else (6, 8, 5, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if request.param in ("channels_last", "large"):
        return x.contiguous(memory_format=torch.channels_last)
    if request.param == "slice":
        return x[::2, :, 1:, ::2]
    return x.transpose(1, 3) if request.param == "transposed" else x


def test_values_and_gradients_are_those_of_the_definition(images):
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    for grid in every_kind_of_grid(images):
        expected, inside = by_definition(images, grid)
        x = images.detach().requires_grad_()
        out = fake_quantize(x, grid)
        torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=0)
        assert torch.equal(fake_quantize(images, grid), out)
        assert not inside.all() or (grid.unquantized is not None and bool(grid.unquantized.all()))
        out.backward(gradient)
        assert torch.equal(x.grad, gradient * inside)


def test_values_and_gradients_agree_with_torch():
    # With a power of two as the scale, its multiplication by the reciprocal is our division.
    x = torch.linspace(-40, 40, 40_001).requires_grad_()
    for grid in (Grid(0.25, 0, -8, 7), Grid(0.125, 93, 0, 255), Grid(2.0, 3, 0, 15)):
        args = (grid.scale, grid.zero_point, grid.lowest, grid.highest)
        theirs = torch.fake_quantize_per_tensor_affine(x, *args)
        ours = fake_quantize(x, grid)
        assert torch.equal(ours, theirs)
        gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (ours, theirs)]
        assert torch.equal(*gradients)


def test_memory_format_is_kept(images):
    x = images.detach().requires_grad_()
    for grid in every_kind_of_grid(images):
        out = fake_quantize(x, grid)
        (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert out.stride() == fake_quantize(images, grid).stride() == torch.empty_like(x).stride()
        assert gradient.stride() == out.stride()


def test_the_input_is_left_alone(images):
    before = images.clone()
    for grid in every_kind_of_grid(images):
        for x in (images, images.detach().requires_grad_()):
            assert fake_quantize(x, grid).data_ptr() != x.data_ptr()
        quantize(images, grid)
    assert torch.equal(images, before)


def test_gradients_of_several_uses_add_up():
    x = torch.tensor([-3.0, 0.3, 0.6], requires_grad=True)
    coarse, fine = Grid(0.5, 0, -2, 1), Grid(0.25, 0, -16, 15)
    (
        fake_quantize(x, coarse) * 3 + fake_quantize(x, fine) * fake_quantize(x, fine)
    ).sum().backward()
    assert x.grad.tolist() == [2 * -3.0, 3 + 2 * 0.25, 3 + 2 * 0.5]


def test_finite_differences_of_what_is_behind_a_quantizer():
    # Behind: a smooth function at the quantized point, whose derivative passes straight through.
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for grid in every_kind_of_grid(x):
        leaf = x.clone().requires_grad_()
        fake_quantize(leaf, grid).sin().sum().backward()
        point, inside = by_definition(x, grid)
        step = 1e-6
        slope = ((point + step).sin() - (point - step).sin()) / (2 * step)
        torch.testing.assert_close(leaf.grad, slope * inside, rtol=1e-7, atol=1e-9)


def test_finite_differences_over_steps_of_the_grid():
    # Seen from afar, over whole numbers of steps, a staircase has the slope that passes straight
    # through: 1 between the ends, 0 beyond them.
    grid = tensor_grid(-1.0, 2.0, 4, "affine")
    step = grid.scale
    x = torch.linspace(-3, 4, 701, dtype=torch.float64)
    slope = (fake_quantize(x + step, grid) - fake_quantize(x - step, grid)) / (2 * step)
    settled = (slope < 1e-9) | (slope > 1 - 1e-9)
    leaf = x.clone().requires_grad_()
    fake_quantize(leaf, grid).sum().backward()
    torch.testing.assert_close(leaf.grad[settled], slope[settled])
    assert settled.sum() > 600 and 200 < leaf.grad.sum() < 400


def test_second_derivatives_pass_through():
    x = torch.tensor([-3.0, 0.3, 0.6], requires_grad=True, dtype=torch.float64)
    out = fake_quantize(x, Grid(0.5, 0, -2, 1))
    (slope,) = torch.autograd.grad((out**3).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert slope.tolist() == [0.0, 3 * 0.5**2, 3 * 0.5**2]
    assert curvature.tolist() == [0.0, 6 * 0.5, 6 * 0.5]


def test_float64_is_computed_in_float64():
    grid = Grid(0.1, 0, -8, 7)
    x = torch.tensor([0.25 - 1e-12, 0.25 + 1e-12], dtype=torch.float64)
    assert fake_quantize(x, grid).tolist() == [0.2, 3 * 0.1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_take_the_points_that_float32_finds(dtype):
    x = torch.randn(6, 8, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    fine = tensor_grid(-1.0, 2.0, 16, "affine")
    for grid in [*every_kind_of_grid(x), fine]:
        leaf = x.clone().requires_grad_()
        out = fake_quantize(leaf, grid)
        assert out.dtype == dtype
        assert torch.equal(out, fake_quantize(x.float(), grid).to(dtype))
        out.sum().backward()
        wide = x.float().requires_grad_()
        fake_quantize(wide, grid).sum().backward()
        assert leaf.grad.dtype == dtype
        assert torch.equal(leaf.grad.float(), wide.grad)
    assert torch.equal(quantize(x, fine), quantize(x.float(), fine))


def test_sixteen_bits_are_exact():
    for grid in (tensor_grid(-3.0, 1.0, 16, "affine"), tensor_grid(0.0, 0.7, 16, "symmetric")):
        codes = torch.arange(grid.lowest, grid.highest + 1, dtype=torch.float32)
        points = dequantize(codes, grid)
        assert torch.equal(quantize(points, grid), codes)
        assert torch.equal(fake_quantize(points, grid), points)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_stays_and_infinity_takes_an_end(value):
    x = torch.ones(4, 4, 3, 3)
    x[1, 0, 2, 1] = value  # A channel and a row that are quantized.
    for data in (x, x.contiguous(memory_format=torch.channels_last), x.clone().requires_grad_()):
        for grid in every_kind_of_grid(torch.randn(4, 4, 3, 3)):
            out = fake_quantize(data, grid)[1, 0, 2, 1].item()
            if math.isnan(value):
                assert math.isnan(out)
            elif grid.unquantized is None:
                assert math.isfinite(out) and (out > 0) == (value > 0)


def test_an_empty_batch_stays_empty():
    for grid in (tensor_grid(0.0, 1.0, 4, "affine"), channel_grids(8)):
        assert fake_quantize(torch.empty(0, 8, 2, 2), grid).shape == (0, 8, 2, 2)


def test_codes_have_no_gradients():
    x = torch.randn(4, requires_grad=True)
    assert not quantize(x, tensor_grid(0.0, 1.0, 4, "affine")).requires_grad


def test_gradients_pass_inside_the_range_and_stop_outside():
    grid = Grid(0.5, 0, -2, 1)
    x = torch.tensor([-3.0, -1.2, -1.0, 0.1, 0.6, 0.8], requires_grad=True)
    out = fake_quantize(x, grid)
    assert out.tolist() == [-1.0, -1.0, -1.0, 0.0, 0.5, 0.5]
    out.backward(torch.arange(1.0, 7.0))
    # -1.2 rounds to code -2, which is on the grid; 0.8 rounds to 2, beyond it.
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]


def test_gradients_of_channels_in_float_always_pass():
    grid = channel_grid({2: (0.0, 1.0)}, np.array([2, 32], dtype=np.uint8), "affine")
    x = torch.full((1, 2), 5.0, requires_grad=True)
    fake_quantize(x, grid).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0]]


def test_the_value_is_the_same_with_and_without_gradients():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    grid = tensor_grid(-1.0, 2.0, 5, "affine")
    plain = fake_quantize(x, grid)
    assert torch.equal(fake_quantize(x.clone().requires_grad_(), grid).detach(), plain)
    assert plain is not x
