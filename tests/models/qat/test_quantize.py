"""Gradients of quantizers against closed forms, published ones and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.models.qat.quantize import (
    LearnedGrid,
    affine_grid,
    quantize_through,
    symmetric_grid,
)
from bitfront.models.quantizers import fake_quantize, tensor_grid, weight_grid

WIDTHS = st.integers(2, 8)
ENDS = st.floats(0, 100, width=32, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-6)


def real(value, *, grad=False):
    return torch.tensor(value, dtype=torch.float64, requires_grad=grad)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(out, *inputs):
    return torch.autograd.grad(out, inputs)


# The grids are those that networks are deployed with


@settings(max_examples=300, deadline=None)
@given(low=ENDS, high=ENDS, bits=WIDTHS, seed=st.integers(0, 9))
def test_affine_at_whole_widths_it_is_the_grid_of_deployment(low, high, bits, seed):
    if low == high == 0:
        return
    x = normal(200, seed=seed, dtype=torch.float32) * max(low, high)
    x = torch.cat([x, torch.tensor([0.0, -low, high, 1e30, -1e30])])
    ends = torch.tensor([-low, high])
    ours = quantize_through(x, affine_grid(*ends, torch.tensor(float(bits))))
    assert torch.equal(ours, fake_quantize(x, tensor_grid(*ends.tolist(), bits, "affine")))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("end", [0.1, 1.0, 1.7, 3.3, 6.1])
def test_affine_where_zero_falls_between_two_codes(bits, end):
    """With equal ends zero is in the middle of an even number of codes: one last bit decides."""
    ends = torch.tensor([-end, end])
    grid = affine_grid(*ends, torch.tensor(float(bits)))
    deployed = tensor_grid(*ends.tolist(), bits, "affine")
    assert -grid.bottom.item() == deployed.zero_point


@settings(max_examples=200, deadline=None)
@given(high=ENDS.filter(bool), bits=WIDTHS, seed=st.integers(0, 9))
def test_symmetric_at_whole_widths_it_is_the_grid_of_deployment(high, bits, seed):
    x = normal(200, seed=seed, dtype=torch.float32) * high
    largest = torch.tensor(high)
    ours = quantize_through(x, symmetric_grid(largest, torch.tensor(float(bits))))
    deployed = tensor_grid(-largest.item(), largest.item(), bits, "symmetric")
    assert torch.equal(ours, fake_quantize(x, deployed))


@settings(max_examples=200, deadline=None)
@given(
    largest=st.lists(ENDS.filter(bool), min_size=3, max_size=3),
    turned=st.lists(st.booleans(), min_size=3, max_size=3),
    bits=WIDTHS,
    seed=st.integers(0, 9),
)
def test_by_channel_at_whole_widths_it_is_the_grid_of_deployment(largest, turned, bits, seed):
    sides = torch.tensor(turned).view(3, 1, 1, 1)
    if bits == 8:  # there a grid of 8 bits is never turned; see below
        sides = torch.zeros_like(sides)
    column = torch.tensor(largest).view(3, 1, 1, 1)
    w = normal(3, 5, 3, 3, seed=seed, dtype=torch.float32) * column
    ours = quantize_through(
        w, symmetric_grid(column, torch.tensor(float(bits)), sides if bits < 8 else None)
    )
    deployed = weight_grid(torch.where(sides, -column, column), bits)
    assert torch.equal(ours, fake_quantize(w, deployed))


def test_grids_that_may_be_turned_have_codes_that_fit_in_a_byte_either_way():
    sides = torch.tensor([False, True])
    for bits, bottom, top in ((7.0, [-64, -63], [63, 64]), (8.0, [-127, -127], [127, 127])):
        grid = symmetric_grid(torch.ones(2), torch.tensor(bits), sides)
        assert grid.bottom.tolist() == bottom
        assert grid.top.tolist() == top
    wide = symmetric_grid(torch.ones(2), torch.tensor(16.0), sides)
    assert wide.bottom.tolist() == [-32768, -32767]
    assert wide.top.tolist() == [32767, 32768]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["affine", "symmetric", "turned"])
def test_all_is_continuous_in_the_width(kind, bits):
    """Nothing jumps where a width is whole, from either side."""
    x = normal(500, seed=bits) * 2

    def quantized(width):
        width = real(width)
        if kind == "affine":
            return quantize_through(x, affine_grid(real(-1.0), real(2.0), width))
        return quantize_through(x, symmetric_grid(real(2.0), width, torch.tensor(kind == "turned")))

    at = quantized(float(bits))
    for side in (-1e-9, 1e-9):
        near = (quantized(bits + side) - at).abs()
        # A value just on the boundary of two codes may change over; none of these 500 is.
        assert near.max() < 1e-6


def test_between_whole_widths_the_ends_of_the_range_are_points():
    for bits in (2.3, 4.5, 7.9):
        grid = symmetric_grid(real(2.0), real(bits))
        assert quantize_through(real([99.0]), grid).item() == pytest.approx(2.0)
        low, high = real(-0.7), real(2.0)
        grid = affine_grid(low, high, real(bits))
        ends = quantize_through(real([-99.0, 99.0]), grid)
        assert (ends[1] - ends[0]).item() == pytest.approx(2.7)
        assert quantize_through(real([0.0]), grid).item() == 0.0


# Closed forms


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.5, 6.0, 7.25, 8.0])
def test_equation_18_of_eqat(bits):
    width = real(bits, grad=True)
    grid = affine_grid(real(-1.0), real(1.0), width)
    assert grid.scale.item() == pytest.approx(2 / (2**bits - 1), rel=1e-15)
    (slope,) = gradients(grid.scale, width)
    assert slope.item() == pytest.approx(-2 * 2**bits * math.log(2) / (2**bits - 1) ** 2, rel=1e-12)


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.5, 8.0])
def test_the_scale_of_a_symmetric_grid_by_width_and_range(bits):
    largest, width = real(1.7, grad=True), real(bits, grad=True)
    grid = symmetric_grid(largest, width)
    half = 2 ** (bits - 1)
    by_range, by_width = gradients(grid.scale, largest, width)
    assert by_range.item() == pytest.approx(1 / (half - 1), rel=1e-12)
    assert by_width.item() == pytest.approx(-1.7 * half * math.log(2) / (half - 1) ** 2, rel=1e-12)
    by_bottom, by_top = (
        gradients(end, width)[0].item()
        for end in (symmetric_grid(largest, width).bottom, symmetric_grid(largest, width).top)
    )
    assert (by_bottom, by_top) == pytest.approx((-half * math.log(2), half * math.log(2)))


def test_grids_against_finite_differences():
    ends = real([-0.8], grad=True), real([1.9], grad=True)
    for bits in (2.3, 3.7, 5.0):
        width = real([bits], grad=True)
        assert torch.autograd.gradcheck(lambda *a: affine_grid(*a).scale, (*ends, width))
    for part in ("scale", "bottom", "top"):

        def column_part(largest, bits, part=part):
            return getattr(symmetric_grid(largest, bits, torch.tensor([True, False])), part)

        point = real([0.5, 2.0], grad=True), real([3.7], grad=True)
        assert torch.autograd.gradcheck(column_part, point)


def test_gradients_by_hand():
    """Codes from -2 to 1 in steps of 0.5; the fifth and first values are outside."""
    x = real([-3.0, -0.6, 0.1, 0.7, 2.0], grad=True)
    scale, bottom, top = real(0.5, grad=True), real(-2.0, grad=True), real(1.0, grad=True)
    out = quantize_through(x, LearnedGrid(scale, bottom, top))
    assert out.tolist() == [-1.0, -0.5, 0.0, 0.5, 0.5]
    g = real([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    by_x, by_scale, by_bottom, by_top = gradients((out * g).sum(), x, scale, bottom, top)
    assert by_x.tolist() == [0.0, 10.0, 100.0, 1000.0, 0.0]
    # round(v) - v at v = -1.2, 0.2, 1.4; the bounds -2 and 1 outside
    inside = 10 * 0.2 + 100 * -0.2 + 1000 * -0.4
    assert by_scale.item() == pytest.approx(1 * -2 + inside + 10_000 * 1)
    assert by_bottom.item() == pytest.approx(1 * 0.5)
    assert by_top.item() == pytest.approx(10_000 * 0.5)


def lsq(x, scale, bottom, top):
    """Equation 3 of LSQ, element by element."""
    v = x / scale
    out = torch.where(v <= bottom, bottom, torch.where(v >= top, top, v.round() - v))
    return out.expand_as(x)


@pytest.mark.parametrize("shape", [(), (4, 1, 1, 1)], ids=["tensor", "channel"])
def test_the_published_gradient_of_lsq(shape):
    x, g = normal(4, 3, 5, 5), normal(4, 3, 5, 5, seed=1)
    scale = real([0.3, 0.5, 0.7, 0.2]).view(4, 1, 1, 1) if shape else real(0.3)
    scale.requires_grad_()
    bottom, top = real(-2.0), real(1.0)
    grid = LearnedGrid(scale, bottom.expand(shape), top.expand(shape))
    (found,) = gradients((quantize_through(x, grid) * g).sum(), scale)
    # LSQ calls what rounds to the last code outside from the code on, not from half a step beyond:
    # there its round(v) - v is the same up to what autograd adds for the part beyond the code.
    v = x / scale.detach()
    inside = (v > bottom - 0.5) & (v < top + 0.5)
    expected = torch.where(inside, v.round() - v, torch.where(v < 0, bottom, top)) * g
    assert found.shape == scale.shape
    assert torch.allclose(found, expected.sum_to_size(scale.shape), rtol=1e-10, atol=1e-12)
    beyond = (v < bottom) | (v > top)
    assert torch.equal(
        torch.where(~beyond, expected, 0.0),
        torch.where(~beyond, lsq(x, scale.detach(), bottom, top) * g, 0.0),
    )


# Finite differences of what the straight-through estimator stands for


def surrogate(x, at, now):
    """What is differentiated: rounding adds a constant, and what was clamped stays clamped.

    Args:
        x: Values.
        at: The grid at which what rounding adds is frozen.
        now: The grid of the result.
    """
    v = x / at.scale
    codes = v.round()
    # Up to a bound that is not whole, values are inside, though they round to a code beyond.
    below, above = (codes < at.bottom) & (v < at.bottom), (codes > at.top) & (v > at.top)
    codes = codes.clamp(at.bottom, at.top)
    free = (x / now.scale + (codes - v)) * now.scale
    return torch.where(below, now.bottom * now.scale, torch.where(above, now.top * now.scale, free))


@pytest.mark.parametrize("bits", [2.0, 2.6, 4.0, 6.3, 8.0])
@pytest.mark.parametrize("kind", ["affine", "symmetric", "turned"])
def test_gradients_to_range_and_width_are_those_of_the_surrogate(kind, bits):
    x, g = normal(400), normal(400, seed=1)

    def grid(low, high, width):
        if kind == "affine":
            return affine_grid(low, high, width)
        return symmetric_grid(high, width, torch.tensor(kind == "turned"))

    point = [-0.9, 1.3, bits]
    inputs = [real(value, grad=True) for value in point]
    frozen = grid(*map(real, point))
    out = quantize_through(x, grid(*inputs))
    found = torch.autograd.grad((out * g).sum(), inputs, allow_unused=True)
    for index, slope in enumerate(found):
        if slope is None:  # a symmetric grid has no lower end
            assert index == 0
            assert kind != "affine"
            continue
        values = []
        for side in (-1e-6, 1e-6):
            moved = list(point)
            moved[index] += side
            now = grid(*map(real, moved))
            if kind == "affine":  # what rounding adds to the code of zero is a constant
                added = frozen.bottom - point[0] / frozen.scale
                bottom = moved[0] / now.scale + added
                now = LearnedGrid(now.scale, bottom, now.top - now.bottom + bottom)
            values.append((surrogate(x, frozen, now) * g).sum().item())
        difference = (values[1] - values[0]) / 2e-6
        assert slope.item() == pytest.approx(difference, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("bits", "largest"), [(4.0, 3.0), (4.5, 3.0), (5.0, 1.0), (6.0, 2.0)])
def test_of_many_values_the_error_falls_as_the_gradients_say(bits, largest):
    """The mean squared error of the true quantizer, which is smooth over many values.

    Inside, ``2 (q - x) (round(v) - v)`` averages to ``2 scale / 12``, as the error ``scale^2 / 12``
    says. What the estimator leaves out is of the order of the density at the end of the range
    times the step: at 3 bits with much clipped it is off by half.
    """
    x = normal(1_000_000)

    def error(range_, width):
        return (quantize_through(x, symmetric_grid(range_, width)) - x).square().mean()

    inputs = real(largest, grad=True), real(bits, grad=True)
    found = gradients(error(*inputs), *inputs)
    step = 0.02
    for index, slope in enumerate(found):
        values = []
        for side in (-step, step):
            moved = [largest, bits]
            moved[index] += side
            values.append(error(*map(real, moved)).item())
        assert slope.item() == pytest.approx((values[1] - values[0]) / (2 * step), rel=0.03)


# Forms and types


@pytest.mark.parametrize("shape", [(), (4, 1, 1, 1), (1, 4, 1, 1)], ids=str)
def test_gradients_do_not_depend_on_the_memory_format(shape):
    scale = torch.full(shape, 0.25)
    forms = {
        "contiguous": lambda t: t,
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    }
    x, g = (normal(4, 4, 6, 4, seed=seed, dtype=torch.float32) for seed in (0, 1))
    found = {}
    for name, form in forms.items():
        for other, other_form in forms.items():  # gradients may come in another form
            value = form(x).detach().requires_grad_()
            grid = [
                t.clone().requires_grad_()
                for t in (scale, torch.full(shape, -3.0), torch.full(shape, 4.0))
            ]
            out = quantize_through(value, LearnedGrid(*grid))
            found[name, other] = (
                out,
                *torch.autograd.grad(out, (value, *grid), grad_outputs=other_form(g)),
            )
    whole = found["contiguous", "contiguous"]
    for parts in found.values():
        assert torch.equal(parts[0], whole[0])
        assert torch.equal(parts[1], whole[1])
        for part, expected in zip(parts[2:], whole[2:], strict=True):
            assert torch.allclose(part, expected, rtol=1e-5, atol=1e-4)


def test_in_float32_the_gradient_to_the_scale_keeps_its_digits():
    """It is a small difference of large sums at 8 bits."""
    x, g = (normal(64, 16, 32, 32, seed=s, dtype=torch.float32) for s in (0, 1))
    found = []
    for dtype in (torch.float32, torch.float64):
        scale = torch.tensor(3 / 127, dtype=torch.float32).to(dtype).requires_grad_()
        # A gradient that goes with the values is the harder case: the large sums do not cancel.
        slope = g.to(dtype) * 0.1 + x.to(dtype)
        ends = torch.tensor(-128.0, dtype=dtype), torch.tensor(127.0, dtype=dtype)
        out = quantize_through(x.to(dtype), LearnedGrid(scale, *ends))
        found.append(torch.autograd.grad(out, scale, grad_outputs=slope)[0].item())
    noise = slope.abs().mean().item() * math.sqrt(x.numel() / 12)  # of the rounding itself
    assert abs(found[0] - found[1]) < 0.1 * noise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_computed_in_float32(dtype):
    x = normal(1000, dtype=torch.float32).to(dtype).requires_grad_()
    scale = torch.tensor(0.02, requires_grad=True)
    grid = LearnedGrid(scale, torch.tensor(-128.0), torch.tensor(127.0))
    out = quantize_through(x, grid)
    wide = quantize_through(x.detach().float(), grid)
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))
    by_x, by_scale = gradients(out.float().sum(), x, scale)
    assert (by_x.dtype, by_scale.dtype) == (dtype, torch.float32)


def test_where_nothing_is_clipped_bounds_have_no_gradient_and_where_all_is_nothing_else_has():
    for factor, clipped in ((0.1, False), (1e6, True)):
        x = (normal(100) * factor + factor * 20).requires_grad_()
        grid = [real(0.5, grad=True), real(-128.0, grad=True), real(127.0, grad=True)]
        by_x, by_scale, by_bottom, by_top = gradients(
            quantize_through(x, LearnedGrid(*grid)).sum(), x, *grid
        )
        assert by_bottom.item() == 0
        assert by_top.item() == (50 if clipped else 0)
        assert by_x.sum().item() == (0 if clipped else 100)
        assert math.isfinite(by_scale.item())


def test_an_empty_tensor_has_gradients_of_zero():
    x = torch.zeros(0, 3, requires_grad=True)
    grid = [torch.tensor(value, requires_grad=True) for value in (0.5, -2.0, 1.0)]
    found = gradients(quantize_through(x, LearnedGrid(*grid)).sum(), x, *grid)
    assert [part.sum().item() for part in found] == [0, 0, 0, 0]


def test_an_empty_range_gives_zeros_and_finite_gradients():
    ends = torch.zeros(2, requires_grad=True)
    x = normal(50, dtype=torch.float32).requires_grad_()
    out = quantize_through(x, affine_grid(*ends.unbind(), torch.tensor(4.0)))
    assert out.abs().max() < 1e-30
    for part in gradients(out.sum(), x, ends):
        assert torch.isfinite(part).all()
