"""What a decision is based on: four statistics of a channel's codes.

They are taken of whole numbers, exactly, so that those of an input are the same whoever shares its
batch, and the same in the reference and on integer kernels.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from ...spaces.dynamic import ENTROPY_BINS, STATISTICS

_BIN_SHIFT = 5
"""Codes of 8 bits less this many bits: the 8 bins of the histogram."""

_MOST = 255
"""Values taken at a time: up to here float32 holds sums of squares, and a byte holds counts."""

_FRACTION = 2.0**16
"""Terms of the entropy are whole multiples of 1 / this, so that their sum is exact."""


def statistics(codes: Tensor, zero_point: int, *, over_batch: bool = False) -> Tensor:
    """Return mean, standard deviation, largest magnitude and entropy of codes.

    The mean and the largest magnitude are those of code less zero point; the entropy is that of a
    histogram of 8 bins of 32 codes each, in bits.

    Args:
        codes: ``n x decisions x values``: 8-bit codes less the zero point, in float32.
        zero_point: Code of zero, 0 to 255.
        over_batch: Whether they are taken over all inputs together.

    Returns:
        ``n x decisions x 4``, float32; ``1 x decisions x 4`` over the batch.
    """
    sums, squares, largest, counts = _totals(codes, zero_point)
    values = codes.shape[-1]
    if over_batch:
        values *= len(codes)
        largest = largest.amax(0, keepdim=True)
        sums, squares, counts = (t.sum(0, keepdim=True) for t in (sums, squares, counts))
    mean = sums / values
    # Whole numbers below 2^53, but for batches of a hundred thousand values and more.
    variance = (squares * values - sums * sums).clamp_(min=0) / values**2
    terms = _terms(values).to(counts.device)
    by_bin = terms.index_select(0, counts.flatten()).view(-1, ENTROPY_BINS)
    total = by_bin.mv(by_bin.new_ones(ENTROPY_BINS)).view(mean.shape)
    entropy = (terms[values] - total) / (values * _FRACTION)
    found = torch.stack([mean, variance.sqrt_(), largest, entropy], dim=-1)
    assert found.shape[-1] == STATISTICS
    return found.to(torch.float32)


def _totals(codes: Tensor, zero_point: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sums, sums of squares, largest magnitudes, and counts by bin."""
    parts = [_part(part, zero_point) for part in torch.split(codes, _MOST, dim=-1)]
    if len(parts) == 1:
        return parts[0]
    sums, squares, largest, counts = zip(*parts, strict=True)
    return sum(sums), sum(squares), functools.reduce(torch.maximum, largest), sum(counts)


def _part(codes: Tensor, zero_point: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bins = (codes + zero_point).to(torch.uint8).bitwise_right_shift_(_BIN_SHIFT)
    # One byte of 64 bits for each bin: a single sum counts all of them.
    ones = torch.ones((), dtype=torch.int64, device=codes.device)
    packed = torch.bitwise_left_shift(ones, bins.mul_(8).to(torch.int64)).sum(-1, keepdim=True)
    squares = codes.square()
    return (
        codes.sum(-1).double(),
        squares.sum(-1).double(),
        squares.amax(-1).double().sqrt_(),
        packed.contiguous().view(torch.uint8).view(*packed.shape[:-1], ENTROPY_BINS).long(),
    )


@functools.lru_cache(maxsize=64)
def _terms(values: int) -> Tensor:
    """Return ``count * log2(count)`` by count, in whole numbers of 1 / `_FRACTION`."""
    # From a table: a vectorized logarithm may differ in its last bit from place to place.
    counts = np.arange(values + 1, dtype=np.float64)
    terms = counts * np.log2(np.maximum(counts, 1))
    return torch.from_numpy(np.rint(terms * _FRACTION))
