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
