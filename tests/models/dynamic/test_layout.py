import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.dynamic.layout import Layout, by_decision, layout_for
from bitfront.spaces import Layer, ModelError

sizes = st.lists(st.integers(1, 20), min_size=1, max_size=2)


@given(sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 80))
def test_a_regular_grid_of_so_many_values_in_the_middle(others, decisions, group, most):
    layout = Layout(-1, decisions, group, tuple(others))
    values = torch.arange(math.prod(others) * decisions * group).float()
    x = values.view(1, *others, decisions * group)
    found = by_decision(layout.sampled(x, most))
    assert found.shape == (1, decisions, layout.positions(most))
    assert layout.positions(most) <= min(most, layout.available)
    assert layout.positions(layout.positions(most)) == layout.positions(most)
    channel = found.long() % (decisions * group) // group
    assert (channel == torch.arange(decisions).view(1, -1, 1)).all()
    assert len(found.unique()) == found.numel()
    if most >= layout.available:
        assert found.numel() == x.numel()


def test_the_stride_is_the_smallest_with_at_most_so_many():
    layout = Layout(-3, 2, 1, (7, 5))
    assert [layout.positions(most) for most in (35, 34, 12, 11, 6, 5, 1)] == [
        35,
        12,
        12,
        6,
        6,
        4,
        1,
    ]
    x = torch.arange(70.0).view(1, 2, 7, 5)
    assert by_decision(layout.sampled(x, 12))[0, 0].tolist() == [
        0,
        2,
        4,
        10,
        12,
        14,
        20,
        22,
        24,
        30,
        32,
        34,
    ]
    assert by_decision(layout.sampled(x, 1))[0].tolist() == [[17], [52]]  # the middle


def test_a_linear_layer_of_one_token_has_one_value_per_feature():
    layout = Layout(-1, 4)
    assert layout.available == layout.positions(16) == 1
    found = by_decision(layout.sampled(torch.arange(8.0).view(2, 4), 16))
    assert found.shape == (2, 4, 1)


def test_spreading_is_undone_by_summing():
    layout = Layout(-1, 3, 2)
    decided = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    spread = layout.spread(decided, 3)
    assert spread.shape == (2, 1, 6) and spread[0, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert torch.equal(layout.summed(spread.expand(2, 5, 6)), 10 * decided)
    heads = Layout(-3, 3)
    assert heads.spread(decided, 4).shape == (2, 3, 1, 1)
    assert torch.equal(heads.summed(torch.ones(2, 3, 4, 5)), torch.full((2, 3), 20.0))
    assert torch.equal(Layout(-1, 3).summed(decided), decided)


def layer(kind="linear", channels=6):
    return Layer("fc", kind, 1, 1, 0, 1, 1, channels, 1)


def test_layouts_of_layers():
    assert layout_for(layer(), 6) == Layout(-1, 6)
    assert layout_for(layer(), 2) == Layout(-1, 2, 3)
    assert layout_for(layer("conv"), 6) == Layout(-3, 6)
    assert layout_for(layer("matmul"), 3) == Layout(-3, 3)
    with pytest.raises(ModelError, match="6 input channels, which do not come in 4 equal groups"):
        layout_for(layer(), 4)
    with pytest.raises(ModelError, match="a decision for each of its 6 channels, got 3"):
        layout_for(layer("conv"), 3)


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (4,), (4, 4)])
def test_another_operand_is_refused(shape):
    with pytest.raises(ModelError, match="4 channels on axis -3 was given an operand of shape"):
        Layout(-3, 4).sampled(torch.zeros(shape), 4)


def test_at_least_one_value_is_looked_at():
    with pytest.raises(ModelError, match="1 value at least, got 0"):
        Layout(-3, 4, 1, (2, 2)).positions(0)
