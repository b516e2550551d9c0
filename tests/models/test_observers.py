import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitfront.models import QuantizerConfig
from bitfront.models.observers import Histogram, activation_range, weight_fraction
from bitfront.models.quantizers import fake_quantize, quantize, tensor_grid, weight_grid

# Whether comparisons see subnormal numbers is a setting of the processor.
values = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, st.integers(1, 200), elements=values)


def observed(*tensors):
    histogram = Histogram()
    for tensor in tensors:
        assert histogram.observe(tensor)
    return histogram


def range_of(x, bits, observer, scheme="affine", **settings):
    config = QuantizerConfig(activation_observer=observer, activation_scheme=scheme, **settings)
    return activation_range(observed(x), bits, config)


def error_of(x, ends, bits, scheme="affine"):
    return float((fake_quantize(x, tensor_grid(*ends, bits, scheme)) - x).square().sum())


@pytest.fixture
def heavy_tail():
    """Values of which a few lie far out, as those of activations do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20_000, generator=generator) ** 3


@given(arrays, st.integers(0, 200), st.randoms(use_true_random=False))
def test_a_histogram_does_not_depend_on_batches_or_their_order(values, cut, random):
    x = torch.from_numpy(values)
    parts = [part for part in (x[:cut], x[cut:]) if len(part)]
    random.shuffle(parts)
    whole, pieces = observed(x), observed(*parts)
    assert (whole.minimum, whole.maximum) == (pieces.minimum, pieces.maximum)
    for ours, theirs in zip(whole.bins("affine"), pieces.bins("affine"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(arrays)
def test_every_value_is_counted_in_the_bin_that_holds_it(values):
    histogram = observed(torch.from_numpy(values))
    centres, counts = histogram.bins("affine")
    assert counts.sum() == len(values)
    edges = np.append(centres, centres[-1] + histogram.bin_width) - histogram.bin_width / 2
    expected = np.histogram(values.astype(np.float64), edges)[0]
    # numpy's last bin is closed, ours are half-open; no value lies on our last edge.
    np.testing.assert_array_equal(counts, expected)


def test_magnitudes_join_both_sides():
    centres, counts = observed(torch.tensor([-0.75, 0.25, 0.7501])).bins("symmetric")
    assert centres.min() > 0
    assert counts.sum() == 3


def test_memory_format_does_not_matter():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    plain, last = observed(x), observed(x.contiguous(memory_format=torch.channels_last))
    for ours, theirs in zip(plain.bins("affine"), last.bins("affine"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    histogram = Histogram()
    assert not histogram.observe(torch.tensor([1.0, value]))
    assert histogram.is_empty


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "kl"])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize(
    "x", [torch.zeros(4), torch.tensor([3.0]), torch.tensor([-3.0]), torch.tensor([-1e-30, 2e-38])]
)
def test_every_range_of_odd_data_is_finite_and_contains_zero(observer, scheme, x):
    low, high = range_of(x, 4, observer, scheme)
    assert -3.0 <= low <= 0.0 <= high <= 3.0


def test_minmax_takes_the_extremes():
    x = torch.tensor([-1.5, 0.0, 4.0])
    assert range_of(x, 8, "minmax") == (-1.5, 4.0)
    assert range_of(x, 8, "minmax", "symmetric") == (-4.0, 4.0)
    assert range_of(x.relu() + 1, 8, "minmax") == (0.0, 5.0)


def test_percentiles_agree_with_numpy(heavy_tail):
    low, high = range_of(heavy_tail, 8, "percentile", percentile=99.0)
    expected = np.percentile(heavy_tail.numpy(), [1.0, 99.0])
    allowed = 2 * observed(heavy_tail).bin_width
    assert (low, high) == pytest.approx(tuple(expected), abs=allowed)
    largest = range_of(heavy_tail, 8, "percentile", "symmetric", percentile=99.0)[1]
    expected = np.percentile(heavy_tail.abs().numpy(), 99.0)
    assert largest == pytest.approx(expected, abs=allowed)


def test_percentile_100_is_minmax(heavy_tail):
    exact = range_of(heavy_tail, 8, "minmax")
    assert range_of(heavy_tail, 8, "percentile", percentile=100.0) == pytest.approx(exact)


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_least_error_is_near_the_best_of_a_fine_search(heavy_tail, bits, scheme):
    for x in (heavy_tail, heavy_tail.relu(), heavy_tail + 1):
        low, high = range_of(x, bits, "minmax", scheme)
        fractions = np.linspace(0.01, 1, 200)
        best = min(error_of(x, (low * f, high * f), bits, scheme) for f in fractions)
        assert error_of(x, range_of(x, bits, "mse", scheme), bits, scheme) <= 1.05 * best


def test_least_divergence_keeps_a_uniform_range_and_cuts_a_tail(heavy_tail):
    uniform = torch.linspace(0, 1, 10_000)
    assert range_of(uniform, 8, "kl")[1] > 0.9
    low, high = range_of(heavy_tail, 4, "kl")
    assert high < 0.5 * float(heavy_tail.max())
    assert low > 0.5 * float(heavy_tail.min())


def test_zeros_of_a_relu_do_not_pull_the_divergence_range_in(heavy_tail):
    positive = heavy_tail.abs()
    with_zeros = torch.cat([positive, torch.zeros(200_000)])
    assert range_of(with_zeros, 8, "kl") == range_of(positive, 8, "kl")


def test_weight_minmax_takes_all_of_the_magnitude():
    assert weight_fraction(torch.randn(3, 4), 2, "minmax").tolist() == [1, 1, 1]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weight_least_error_is_near_the_best_and_never_worse_than_minmax(bits):
    weight = torch.randn(8, 2, 30, generator=torch.Generator().manual_seed(0)) ** 3
    largest = weight.abs().amax(dim=(1, 2), keepdim=True)

    def errors(fraction):
        quantized = fake_quantize(weight, weight_grid(largest * fraction, bits))
        return (quantized - weight).square().sum(dim=(1, 2))

    ours = errors(weight_fraction(weight, bits, "mse").view(-1, 1, 1))
    assert (ours <= errors(torch.ones(8, 1, 1))).all()
    signs = (1, -1) if bits < 8 else (1,)
    every = [sign * k / 200 for k in range(1, 201) for sign in signs]
    best = torch.stack([errors(torch.full((8, 1, 1), fraction)) for fraction in every]).amin(dim=0)
    assert (ours <= 1.1 * best).all()


def test_weights_mostly_above_zero_get_the_grid_turned_round():
    weight = torch.tensor([[2.0, 1.0, -1.0], [-2.0, -1.0, 1.0]])
    fraction = weight_fraction(weight, 2, "mse")
    assert fraction[0] < 0 < fraction[1]
    grid = weight_grid(weight.abs().amax(dim=1, keepdim=True) * fraction.view(-1, 1), 2)
    torch.testing.assert_close(fake_quantize(weight, grid), weight)
    assert quantize(weight, grid).tolist() == [[2, 1, -1], [-2, -1, 1]]


@pytest.mark.parametrize("bits", [2, 5, 7, 8, 16])
def test_codes_of_every_grid_fit_in_their_container(bits):
    weight = torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    largest = weight.abs().amax(dim=1, keepdim=True)
    signs = torch.ones(32, 1)
    signs[::2] = -1
    codes = quantize(weight, weight_grid(largest * 0.5 * signs, bits))
    container = max(bits, 8)
    assert -(2 ** (container - 1)) <= codes.min() and codes.max() < 2 ** (container - 1)
