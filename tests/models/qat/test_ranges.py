"""Ranges that are learned: what moves them, and that they are those of deployment."""

import math

import pytest
import torch

from bitfront.models.observers import weight_fraction
from bitfront.models.qat.ranges import (
    MOMENTUM,
    STARTS,
    ActivationQuantizer,
    Mixture,
    WeightQuantizer,
)
from bitfront.models.quantizers import fake_quantize, tensor_grid, weight_grid

BITS = torch.tensor(4.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ends_of(quantizer, bits=4.0):
    return tuple(end.item() for end in quantizer.ends(bits))


@pytest.mark.parametrize("kind", ["lsq", "pact", "minmax"])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.3, -0.7)], ids=["begun", "moved"])
def test_what_it_computes_is_what_is_deployed(kind, scheme, bits, moved):
    quantizer = ActivationQuantizer([(-1.3, 1.7)], kind, scheme).eval()
    if quantizer.log_ratio is not None:
        quantizer.log_ratio.data += torch.tensor(moved)
    x = torch.cat([normal(500) * 3, torch.tensor([0.0, 99.0, -99.0])])
    low, high = ends_of(quantizer, bits)
    assert torch.equal(
        quantizer(x, torch.tensor(float(bits))),
        fake_quantize(x, tensor_grid(low, high, bits, scheme)),
    )


def test_a_range_begins_with_what_is_best_at_the_width_in_force():
    """And is learned for all widths together: by how much it is to be more than that."""
    ends = [(-0.1 * bits, 1.0 * bits) for bits in STARTS]
    quantizer = ActivationQuantizer(ends, "lsq", "affine")
    for bits, high in ((2, 2.0), (5, 5.0), (8, 8.0), (4.25, 4.25), (16, 8.0)):
        assert ends_of(quantizer, bits) == pytest.approx((-0.1 * high, high))
    quantizer.log_ratio.data[1] = math.log(2)
    assert ends_of(quantizer, 3) == pytest.approx((-0.3, 6.0))
    weight = normal(4, 100)
    ranges = WeightQuantizer(weight, "lsq")
    largest = [ranges.largest(weight, float(bits)) for bits in STARTS]
    for bits, found in zip(STARTS, largest, strict=True):
        share = weight_fraction(weight, bits, "mse").abs()
        assert torch.allclose(found.flatten(), weight.abs().amax(1) * share)
    assert (largest[0] < largest[-1]).all()


def test_an_end_at_zero_stays_there():
    quantizer = ActivationQuantizer([(0.5, 6.0)], "lsq", "affine")
    assert ends_of(quantizer) == (0.0, 6.0)
    quantizer(normal(100) * 5, BITS).sum().backward()
    assert quantizer.log_ratio.grad[0] == 0
    assert quantizer.log_ratio.grad[1] != 0
    assert -math.inf < ends_of(ActivationQuantizer([(-3.0, -1.0)], "lsq", "affine"))[1] == 0.0


def test_a_range_of_nothing_but_zeros_begins_with_a_size():
    """From none it could never grow, and the layer would be dead."""
    for scheme, low in (("affine", 0.0), ("symmetric", -1.0)):
        quantizer = ActivationQuantizer([(0.0, 0.0)], "lsq", scheme)
        assert ends_of(quantizer) == (low, 1.0)
        quantizer(torch.full((3,), 2.0), BITS).sum().backward()
        assert quantizer.log_ratio.grad[1] > 0


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_with_pact_an_end_moves_with_what_it_clips_and_with_nothing_else(scheme):
    """Its gradient is 1 for what is clipped and 0 for the rest; here times the end, for its log."""
    quantizer = ActivationQuantizer([(-1.0, 2.0)], "pact", scheme)
    x = torch.tensor([-9.0, -0.3, 0.0, 0.7, 1.9, 5.0, 7.0], requires_grad=True)
    g = torch.tensor([1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6])
    quantizer(x, BITS).backward(g)
    low, high = quantizer.log_ratio.grad.tolist()
    if scheme == "affine":
        assert (low, high) == pytest.approx((1 * -1.0, (1e5 + 1e6) * 2.0))
    else:
        assert (low, high) == pytest.approx((0.0, (1e5 + 1e6) * 2.0 - 1 * 2.0))
    assert x.grad.tolist() == [0, 10, 100, 1e3, 1e4, 0, 0]


def test_with_pact_the_width_moves_with_what_is_inside():
    """What is clipped gives the end of the range, at whatever width."""
    quantizer = ActivationQuantizer([(0.0, 2.0)], "pact", "affine")
    for x, moves in ((torch.tensor([5.0]), False), (torch.tensor([0.9]), True)):
        width = torch.tensor(3.0, requires_grad=True)
        quantizer(x, width).sum().backward()
        assert (abs(width.grad.item()) > 1e-6) == moves


def test_extremes_are_followed_in_training_only():
    quantizer = ActivationQuantizer([(-1.0, 1.0)], "minmax", "affine")
    x = torch.tensor([-3.0, 0.5, 11.0])
    quantizer.eval()(x, BITS)
    assert ends_of(quantizer) == (-1.0, 1.0)
    quantizer.train()(x, BITS)
    share = MOMENTUM
    assert ends_of(quantizer) == pytest.approx((-1 - 2 * share, 1 + 10 * share))
    assert not list(quantizer.parameters())
    quantizer(torch.tensor([5.0]), BITS)  # zero is in every range
    assert ends_of(quantizer)[0] == pytest.approx((-1 - 2 * share) * (1 - share))
    symmetric = ActivationQuantizer([(-1.0, 1.0)], "minmax", "symmetric").train()
    symmetric(x, BITS)
    assert ends_of(symmetric) == pytest.approx((-1 - 10 * share, 1 + 10 * share))


@pytest.mark.parametrize("kind", ["lsq", "minmax"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_are_those_of_deployment(kind, bits):
    weight = normal(6, 4, 3, 3) * torch.tensor([1.0, 0.1, 5.0, 1.0, 2.0, 0.5]).view(6, 1, 1, 1)
    weight[1, 0, 0, 0] = 0.9  # one side alone is long
    quantizer = WeightQuantizer(weight, kind)
    assert quantizer.turned.any() == (kind == "lsq")
    scales = quantizer.scales(weight, float(bits))
    assert torch.equal(scales < 0, quantizer.turned.flatten())
    largest = (scales.detach().double() * (2 ** (bits - 1) - 1)).float().view(-1, 1, 1, 1)
    found = quantizer(weight, torch.tensor(float(bits))).detach()
    expected = fake_quantize(weight, weight_grid(largest, bits))
    # A grid of 8 bits that is turned does not fit in a byte: its last code is another.
    step = scales.abs().view(-1, 1, 1, 1) if bits == 8 and kind == "lsq" else 0.0
    assert torch.all((found - expected).abs() <= step + 1e-6 * expected.abs())


def test_learned_ranges_of_weights_begin_with_the_least_error():
    weight = normal(5, 200)
    quantizer = WeightQuantizer(weight, "lsq")
    largest = weight.abs().amax(1) * weight_fraction(weight, 3, "mse")
    deployed = fake_quantize(weight, weight_grid(largest.view(-1, 1), 3))
    assert torch.allclose(quantizer(weight, torch.tensor(3.0)), deployed, rtol=1e-6)


def test_the_logarithm_of_a_range_has_the_gradient_of_the_range_times_the_range():
    weight = normal(3, 50)
    quantizer = WeightQuantizer(weight, "lsq")
    g = normal(3, 50, seed=1)
    quantizer(weight, BITS).backward(g)
    v = weight / (quantizer.start(4.0) / 7)
    bottom = torch.where(quantizer.turned, -7.0, -8.0)
    top = torch.where(quantizer.turned, 8.0, 7.0)
    by_scale = torch.where(v < bottom, bottom, torch.where(v > top, top, v.round() - v))
    inside = (v > bottom - 0.5) & (v < top + 0.5)
    by_scale = torch.where(inside, v.round() - v, by_scale)
    expected = (by_scale * g).sum(1, keepdim=True) * quantizer.start(4.0) / 7
    assert torch.allclose(quantizer.log_ratio.grad, expected, rtol=1e-3, atol=1e-5)


def test_ranges_of_minmax_follow_the_weights_and_have_no_gradient():
    weight = normal(3, 20).requires_grad_()
    quantizer = WeightQuantizer(weight, "minmax")
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(quantizer.largest(weight, 4.0).flatten(), weight.abs().amax(1))
    quantizer(weight, BITS).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert not list(quantizer.parameters())


def test_above_8_bits_weights_have_their_own_largest_magnitude():
    weight = normal(3, 20)
    quantizer = WeightQuantizer(weight, "lsq")
    quantizer.log_ratio.data -= 1.0
    assert torch.allclose(quantizer(weight, torch.tensor(16.0)), weight, atol=2e-4)
    assert not torch.allclose(quantizer(weight, torch.tensor(8.0)), weight, atol=0.1)
    assert torch.equal(
        quantizer(weight, torch.tensor(16.0))[~quantizer.turned.flatten()],
        fake_quantize(weight, weight_grid(weight.abs().amax(1, keepdim=True), 16))[
            ~quantizer.turned.flatten()
        ],
    )


def test_channels_of_zeros_stay_zeros():
    weight = torch.zeros(2, 10, requires_grad=True)
    for kind in ("lsq", "minmax"):
        out = WeightQuantizer(weight, kind)(weight, torch.tensor(2.0))
        assert torch.equal(out, weight)
        (gradient,) = torch.autograd.grad(out.sum(), weight)
        assert torch.isfinite(gradient).all()


def test_weights_that_begin_as_zeros_can_grow():
    weight = torch.zeros(2, 16)
    quantizer = WeightQuantizer(weight, "lsq")
    grown = torch.full((2, 16), 0.2, requires_grad=True)
    out = quantizer(grown, BITS)
    assert torch.allclose(out, grown, atol=0.25 / 14)
    assert torch.autograd.grad(out.sum(), grown)[0].all()


def test_at_32_bits_it_is_the_tensor_itself():
    x = normal(10)
    assert ActivationQuantizer([(-1.0, 1.0)], "lsq", "affine")(x, torch.tensor(32.0)) is x
    weight = normal(2, 5)
    assert WeightQuantizer(weight, "lsq")(weight, torch.tensor(32.0)) is weight


def test_a_mixture_is_the_sum_of_what_its_widths_give():
    x = normal(100)
    quantizer = ActivationQuantizer([(-1.0, 1.0)], "lsq", "affine")
    probabilities = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)
    out = quantizer(x, Mixture((2, 4, 32), probabilities))
    parts = [quantizer(x, torch.tensor(bits)) for bits in (2.0, 4.0, 32.0)]
    assert torch.allclose(out, 0.2 * parts[0] + 0.5 * parts[1] + 0.3 * parts[2])
    g = normal(100, seed=1)
    out.backward(g)
    expected = torch.stack([(part * g).sum() for part in parts])
    assert torch.allclose(probabilities.grad, expected.detach(), rtol=1e-4)
    certain = quantizer(x, Mixture((4,), torch.ones(1)))
    assert torch.equal(certain, parts[1])
