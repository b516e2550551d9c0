import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.dynamic.statistics import statistics


def by_hand(values, zero_point):
    """Of one list of centred codes, in Python's own numbers."""
    count = len(values)
    mean = sum(values) / count
    variance = sum(v * v for v in values) / count - mean**2
    bins = [(int(v) + zero_point) // 32 for v in values]
    shares = [bins.count(b) / count for b in set(bins)]
    entropy = -sum(share * math.log2(share) for share in shares)
    return [mean, math.sqrt(max(variance, 0)), max(abs(v) for v in values), entropy]


def test_a_channel_computed_by_hand():
    # codes 0, 4, 32, 64 and zero point 4: values -4, 0, 28, 60, in bins 0, 0, 1, 2
    (found,) = statistics(torch.tensor([[[-4.0, 0.0, 28.0, 60.0]]]), 4)[0]
    assert found[0] == 21
    assert found[1] == torch.tensor((16 + 784 + 3600) / 4 - 21**2).sqrt()
    assert found[2] == 60
    assert found[3] == 1.5


def test_one_value_has_no_spread_and_no_entropy():
    assert statistics(torch.tensor([[[-7.0]]]), 128).tolist() == [[[-7, 0, 7, 0]]]


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([1, 2, 16, 255, 256, 700]),
    st.sampled_from([0, 17, 128, 255]),
    st.integers(0, 2**31),
)
def test_statistics_are_what_they_are_called(n, channels, values, zero_point, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, values)))
    codes = codes.float() - zero_point
    found = statistics(codes, zero_point)
    assert found.dtype == torch.float32
    expected = [[by_hand(row.tolist(), zero_point) for row in one] for one in codes]
    assert torch.allclose(found, torch.tensor(expected), rtol=1e-5, atol=1e-3)
    together = statistics(codes, zero_point, over_batch=True)
    one = codes.transpose(0, 1).reshape(1, channels, -1)
    assert torch.allclose(together, statistics(one, zero_point), rtol=1e-6, atol=1e-3)


@given(st.permutations(range(7)), st.sampled_from([5, 64, 300]), st.integers(0, 2**31))
def test_those_of_an_input_are_the_same_in_any_batch_and_memory_format(order, values, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (7, 5, values)))
    codes = codes.float() - 100
    whole = statistics(codes, 100)
    assert torch.equal(statistics(codes[list(order)], 100), whole[list(order)])
    assert torch.equal(torch.cat([statistics(row[None], 100) for row in codes]), whole)
    other = codes.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(statistics(other, 100), whole)


@pytest.mark.parametrize("value", [-128.0, 0.0, 127.0])
def test_many_equal_codes_are_counted_exactly(value):
    found = statistics(torch.full((1, 2, 3000), value), 128)
    assert found.tolist() == [[[value, 0.0, abs(value), 0.0]] * 2]
