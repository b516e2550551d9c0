import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.engine import codes as codes_module
from bitfront.models.engine.codes import code_grid, multiples_of, to_codes
from bitfront.models.quantizers import channel_grid, fake_quantize, quantize, tensor_grid


def from_codes(codes, grid):
    return multiples_of(codes, grid).mul_(grid.scale)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def widths(count, seed):
    return np.random.default_rng(seed).integers(2, 9, count).astype(np.uint8)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
near = st.floats(-300, 300, width=32)
tensor_grids = st.tuples(
    st.floats(-100, 0),
    st.floats(2.0**-10, 100),
    st.integers(2, 8),
    st.sampled_from(["affine", "symmetric"]),
)


def shifted(x, grid):
    """The reference's codes, moved to start at 0."""
    return quantize(x, grid) - grid.lowest


@given(st.lists(finite | near | st.sampled_from([np.inf, -np.inf]), min_size=1), tensor_grids)
def test_codes_are_those_of_the_reference(values, ends):
    grid = tensor_grid(*ends)
    codes = to_codes(torch.tensor(values), code_grid(grid, ends[2]))
    assert codes.dtype == torch.uint8
    assert torch.equal(codes.float(), shifted(torch.tensor(values), grid))


@given(
    st.lists(finite | near | st.sampled_from([np.inf, -np.inf]), min_size=1),
    st.floats(2.0**-10, 100),
    st.integers(2, 8),
)
def test_dense_tensors_of_positive_grids_have_the_references_codes(values, high, bits):
    grid = tensor_grid(0.0, high, bits, "affine")
    x = torch.tensor(values + [step / 2 * grid.scale for step in range(-3, 600)])
    x = x.repeat(256).view(-1, 4, 4, 16)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        codes = to_codes(layout, code_grid(grid, bits))
        assert codes.stride() == layout.stride()
        assert torch.equal(codes.float(), shifted(layout, grid))


@given(st.integers(-600, 600), tensor_grids)
def test_halfway_between_two_codes_as_in_the_reference(half_steps, ends):
    grid = tensor_grid(*ends)
    x = torch.tensor([half_steps / 2], dtype=torch.float32) * grid.scale
    assert torch.equal(to_codes(x, code_grid(grid, ends[2])).float(), shifted(x, grid))


@given(st.lists(finite | near, min_size=1), tensor_grids)
def test_values_of_codes_are_those_of_the_reference(values, ends):
    grid = tensor_grid(*ends)
    codes = code_grid(grid, ends[2])
    x = torch.tensor(values)
    assert torch.equal(from_codes(to_codes(x, codes), codes), fake_quantize(x, grid))


@given(
    st.lists(st.integers(2, 8), min_size=1, max_size=5),
    st.sampled_from(["affine", "symmetric"]),
    st.tuples(st.floats(-10, 0), st.floats(2.0**-10, 10)),
    st.lists(near, min_size=4, max_size=4),
    st.sampled_from([-1, -3]),
)
def test_channels_of_several_widths_have_the_values_of_the_reference(
    bits, scheme, ends, values, axis
):
    if scheme == "symmetric":
        ends = (-ends[1], ends[1])
    bits = np.array(bits, dtype=np.uint8)
    shape = [1] * 4
    shape[axis] = len(bits)
    grid = channel_grid({int(b): ends for b in bits}, bits, scheme)
    reference = grid.reshaped(shape, torch.device("cpu"))
    x = torch.tensor(values).view(4, 1, 1, 1).expand(4, *shape[1:])
    codes = code_grid(grid, bits, axis)
    found = to_codes(x, codes)
    assert torch.equal(from_codes(found, codes), fake_quantize(x, reference))
    if codes.channel_bits is not None:
        steps = torch.from_numpy(2 ** (8 - bits.astype(np.int64))).view(shape)
        assert (found % steps == 0).all()


def test_equal_widths_make_a_grid_of_one_width():
    ends = (-1.0, 3.0)
    by_channel = channel_grid({3: ends}, np.full(4, 3, dtype=np.uint8), "affine")
    expected = code_grid(tensor_grid(*ends, 3, "affine"), 3)
    assert code_grid(by_channel, np.full(4, 3, dtype=np.uint8)) == expected
    assert expected.channel_bits is None and expected.highest == 7


def layouts():
    x = torch.randn(3, 6, 5, 4, generator=draw())
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "every other": x[:, ::2, :, 1:],
        "expanded": x[:1].expand(3, -1, -1, -1),
        "linear": x.view(3, 30, 4),
        "row": x.view(-1),
        "empty": x[:0],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("by_channel", [False, True])
def test_codes_keep_shape_and_memory_format(layout, by_channel, monkeypatch):
    monkeypatch.setattr(codes_module, "_BLOCK", 100)  # several blocks
    x = layouts()[layout]
    ends = (-2.0, 2.0)
    bits = widths(x.shape[-1], 0) if by_channel else 5
    grid = (
        channel_grid({int(b): ends for b in bits}, bits, "affine")
        if by_channel
        else tensor_grid(*ends, 5, "affine")
    )
    codes = code_grid(grid, bits)
    found = to_codes(x, codes)
    assert torch.equal(from_codes(found, codes), fake_quantize(x, grid))
    if layout in ("contiguous", "channels_last", "transposed", "linear"):
        assert found.stride() == x.stride()


@pytest.mark.parametrize("size", [2**19 - 1, 2**19, 2**19 + 1, 2**21])
def test_codes_of_large_tensors(size):
    x = torch.randn(size, generator=draw())
    grid = tensor_grid(-2.0, 2.0, 8, "affine")
    assert torch.equal(to_codes(x, code_grid(grid, 8)).float(), quantize(x, grid))
