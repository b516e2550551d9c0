"""How the range of a quantizer follows from data.

Activations are seen once, as a histogram; every width's range is computed from it. ``minmax`` takes
the extremes; ``percentile`` leaves out the tails; ``mse`` minimises the squared error of
quantization; ``kl`` minimises the Kullback-Leibler divergence of the quantized histogram from the
full one (Migacz, "8-bit inference with TensorRT", GTC 2017; its algorithm on pages 38 to 40).
Weights are at hand, so that their ranges come from themselves.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .config import ActivationScheme, QuantizerConfig, WeightObserver
from .quantizers import fake_quantize, tensor_grid, weight_grid

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]

_SIDE = 4096
_CHUNK = 1 << 18  # elements that stay in the processor's cache
_SMALLEST_EXPONENT = -126  # of normal float32
_FINEST_SEARCHED = 8  # bits


class Histogram:
    """Counts of a stream of values, the same however the stream is cut into batches.

    There are 4096 bins on either side of zero. Their width is the power of two with which they
    just hold the largest magnitude, so that a wider range merges whole bins.
    """

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self._exponent = _SMALLEST_EXPONENT
        self._counts = np.zeros(2 * _SIDE, dtype=np.int64)

    def observe(self, x: Tensor) -> bool:
        """Count the values of a tensor; return False, and count none, if one is not finite."""
        low, high = (float(end) for end in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(max(-low, high))
        for chunk in torch.split(_flat(x), _CHUNK):
            # Division by a power of two is exact, so a value's bin depends on nothing else.
            bins = chunk.float().div(self.bin_width).floor_().add_(_SIDE).int()
            self._counts += torch.bincount(bins, minlength=2 * _SIDE).cpu().numpy()
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was observed."""
        return self.minimum > self.maximum

    @property
    def bin_width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent)

    def bins(self, scheme: ActivationScheme) -> tuple[Floats, Floats]:
        """Return the centres and counts of the bins between the extremes.

        Args:
            scheme: If ``symmetric``, of the magnitudes instead of the values.
        """
        counts = self._counts.astype(np.float64)
        if scheme == "symmetric":
            counts = counts[_SIDE:] + counts[:_SIDE][::-1]
            first = 0
        else:
            first = -_SIDE
        used = np.flatnonzero(counts)
        kept = slice(used[0], used[-1] + 1)
        centres = (np.arange(len(counts), dtype=np.float64) + (first + 0.5)) * self.bin_width
        return centres[kept], counts[kept]

    def _widen(self, magnitude: float) -> None:
        # frexp gives magnitude < 2**e, hence at most 2**12 bins of width 2**(e - 12) on a side.
        exponent = math.frexp(magnitude)[1] - _SIDE.bit_length() + 1
        if magnitude and exponent > self._exponent:
            merged = self._counts.reshape(-1, min(2 ** (exponent - self._exponent), _SIDE))
            kept = merged.sum(axis=1)
            self._counts = np.pad(kept, _SIDE - len(kept) // 2)
            self._exponent = exponent


def _flat(x: Tensor) -> Tensor:
    """Return all values in the order of memory, where a copy is avoidable."""
    x = x.detach()
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def activation_range(histogram: Histogram, bits: int, config: QuantizerConfig) -> Range:
    """Return the range of an activation's quantizer.

    Above 8 bits ``mse`` and ``kl`` have nothing to trade, and take the extremes.

    Args:
        histogram: What was observed.
        bits: Width the range is for.
        config: Scheme and observer.

    Returns:
        Lower and upper end; for a symmetric scheme ``(-m, m)``.
    """
    extremes = _extremes(histogram, config.activation_scheme)
    if config.activation_observer == "percentile":
        return _percentile(histogram, config)
    if config.activation_observer == "minmax" or bits > _FINEST_SEARCHED or extremes == (0.0, 0.0):
        return extremes
    search = _least_error if config.activation_observer == "mse" else _least_divergence
    return search(histogram, bits, config.activation_scheme, extremes)


def _extremes(histogram: Histogram, scheme: ActivationScheme) -> Range:
    low, high = histogram.minimum, histogram.maximum
    if scheme == "symmetric":
        largest = max(-low, high)
        return -largest, largest
    return min(low, 0.0), max(high, 0.0)


def _percentile(histogram: Histogram, config: QuantizerConfig) -> Range:
    low, high = _extremes(histogram, config.activation_scheme)
    centres, counts = histogram.bins(config.activation_scheme)
    edges = np.append(centres, centres[-1] + histogram.bin_width) - histogram.bin_width / 2
    shares = np.append(0.0, np.cumsum(counts)) / counts.sum()
    upper = min(float(np.interp(config.percentile / 100, shares, edges)), high)
    if config.activation_scheme == "symmetric":
        return -upper, upper
    lower = max(float(np.interp(1 - config.percentile / 100, shares, edges)), low)
    return min(lower, 0.0), max(upper, 0.0)


def _least_error(histogram: Histogram, bits: int, scheme: ActivationScheme, full: Range) -> Range:
    """Shrink both ends together; then, if they differ from zero, move each alone."""
    centres, counts = histogram.bins(scheme)
    values, weights = centres[counts > 0], counts[counts > 0]

    def error(candidate: Range) -> float:
        quantized = _nearest_points(values, candidate, bits, scheme)
        return float(np.dot(weights, (quantized - values) ** 2))

    low, high = min(_shrunk(full), key=error)
    if scheme == "symmetric" or low == 0.0 or high == 0.0:
        return low, high
    lows = [low, *np.linspace(0.4 * low, max(2 * low, full[0]), 25).tolist()]
    low = min(lows, key=lambda end: error((end, high)))
    highs = [high, *np.linspace(0.4 * high, min(2 * high, full[1]), 25).tolist()]
    return low, min(highs, key=lambda end: error((low, end)))


def _least_divergence(
    histogram: Histogram, bits: int, scheme: ActivationScheme, full: Range
) -> Range:
    centres, counts = histogram.bins(scheme)
    # Zero is a point of every grid. Its many values after a ReLU would count as if they had to
    # share their code with the others of their bin, and pull the range towards zero.
    zero = int(np.argmin(np.abs(centres - histogram.bin_width / 2)))
    counts[zero] = min(counts[zero], counts[min(zero + 1, len(counts) - 1)])
    return min(_shrunk(full), key=lambda ends: _divergence(centres, counts, ends, bits, scheme))


def _shrunk(full: Range) -> list[Range]:
    """Return candidates from the full range down to a 64th of it, the full range first."""
    return [(full[0] * k / 64, full[1] * k / 64) for k in range(64, 0, -1)]


def _nearest_points(values: Floats, ends: Range, bits: int, scheme: ActivationScheme) -> Floats:
    grid = tensor_grid(*ends, bits, scheme)
    codes = np.round(values / grid.scale) + grid.zero_point
    points: Floats = (np.clip(codes, grid.lowest, grid.highest) - grid.zero_point) * grid.scale
    return points


def _divergence(
    centres: Floats, counts: Floats, ends: Range, bits: int, scheme: ActivationScheme
) -> float:
    """Return KL(P || Q) of the clipped histogram P and its quantized form Q.

    P has what lies outside the range in its outermost bins. Q spreads the count that each code
    received from inside the range evenly over the bins of this code that are not empty in P. So
    clipping many values costs as much as merging unlike bins.
    """
    inside = (centres >= ends[0]) & (centres <= ends[1])
    if not inside.any():
        return math.inf
    reference = counts[inside]
    received = reference.copy()
    reference[0] += counts[centres < ends[0]].sum()
    reference[-1] += counts[centres > ends[1]].sum()
    points = _nearest_points(centres[inside], ends, bits, scheme)
    _, code = np.unique(points, return_inverse=True)
    occupied = reference > 0
    spread = np.bincount(code, received) / np.maximum(np.bincount(code, occupied), 1)
    p = reference[occupied] / reference.sum()
    q = spread[code][occupied] / max(received.sum(), 1.0)
    # A bin that holds only clipped values may have no quantized mass; a small one keeps it finite.
    return float(np.dot(p, np.log(p / np.maximum(q, 1e-9))))


def weight_fraction(weight: Tensor, bits: int, observer: WeightObserver) -> Tensor:
    """Return the share of max|w| that takes the largest code, for every output channel.

    ``mse`` tries sixteenths, then 128ths about the best; 1 is among them, so that the squared
    error is never above that of ``minmax``. Below 8 bits it tries both signs of the scale: the
    code that two's complement has more on one side goes where it is of use, which at 2 and 3 bits
    matters more than the rest of the search.

    Args:
        weight: ``out_channels x ...``.
        bits: Width the range is for; above 8 bits ``mse`` takes 1.
        observer: ``minmax``, or ``mse``; ``output-mse``, which needs to know the layer's input,
            starts from ``mse`` and is `repair.weights`' business.

    Returns:
        ``[out_channels]``, in (0, 1], or [-1, 0) for channels whose grid is turned round; see
        `quantizers.weight_grid`.
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    best = torch.ones_like(largest)
    if observer != "minmax" and bits <= _FINEST_SEARCHED:
        best, least = _least_row_error(rows, largest, bits, best)
        if bits < _FINEST_SEARCHED:
            turned, error = _least_row_error(rows, largest, bits, -best.sign())
            best = torch.where(error < least, turned, best)
    return best[:, 0]


def _least_row_error(
    rows: Tensor, largest: Tensor, bits: int, side: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the best fractions of one sign, and their errors; both ``rows x 1``."""
    best, least = side, _row_errors(rows, largest * side, bits)
    for offsets in (torch.arange(1, 16) / 16 - 1, torch.arange(-7, 8) / 128):
        centre = best.abs()
        for offset in offsets.tolist():
            fraction = (centre + offset).clamp(max=1.0) * side
            error = _row_errors(rows, largest * fraction, bits)
            best = torch.where(error < least, fraction, best)
            least = torch.minimum(error, least)
    return best, least


def _row_errors(rows: Tensor, largest: Tensor, bits: int) -> Tensor:
    quantized = fake_quantize(rows, weight_grid(largest, bits))
    return quantized.sub_(rows).square_().sum(dim=1, keepdim=True)
