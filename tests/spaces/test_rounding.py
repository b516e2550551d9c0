import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.spaces import BitAllocation, BitSpace, SpaceError
from bitfront.spaces.rounding import nearest_allocation, preferred_allocation

from .conftest import conv

LAYERS = [conv("stem"), conv("a", source="t"), conv("b", source="t"), conv("head")]
NAMES = [layer.name for layer in LAYERS]
TIES = ([], ["weights=activations"], ["shared-input"], [["a.weight", "b.weight"]])
bits = st.lists(st.floats(1, 9), min_size=4, max_size=4)


def test_every_operand_takes_its_nearest_choice_and_the_wider_of_two_as_near():
    space = BitSpace.build(LAYERS, weights=[2, 4, 8], activations=[4, 8], first_last=None)
    near = nearest_allocation(space, [2.9, 3.0, 5.9, 6.0], [1.0, 5.9, 6.1, 40.0])
    assert near == BitAllocation(NAMES, [2, 4, 4, 8], [4, 4, 8, 8])


def test_pins_hold():
    space = BitSpace.build(LAYERS, first_last=8, pins={"a": {"weight": 32}})
    near = nearest_allocation(space, [2.0] * 4, [3.2] * 4)
    assert near == BitAllocation(NAMES, [8, 32, 2, 8], [8, 3, 3, 8])


def test_tied_operands_count_as_one_at_their_mean_distance():
    space = BitSpace.build(LAYERS, first_last=None, ties=[["a.weight", "b.weight"]])
    near = nearest_allocation(space, [4, 2.2, 5.8, 4], [8] * 4)
    assert near.weights[1] == near.weights[2]
    assert 2 <= near.weights[1] <= 6


@given(weights=bits, activations=bits, ties=st.sampled_from(TIES))
@settings(max_examples=25, deadline=None)
def test_nothing_in_the_space_is_nearer(weights, activations, ties):
    options = {"weights": [2, 5, 8], "activations": [2, 5, 8], "first_last": 8}
    space = BitSpace.build(LAYERS, **options, ties=ties, forbid=[(2, 2), (5, 5)])
    if "weights=activations" in ties:
        space = BitSpace.build(LAYERS, **options, ties=ties, forbid=[(5, 5)])
        activations = weights
    if ties == ["shared-input"]:
        activations[2] = activations[1]
    if ties and len(ties[0]) == 2:
        weights[2] = weights[1]
    near = nearest_allocation(space, weights, activations)
    assert space.contains(near)

    def weighed(allocation):
        total = 0.0
        for variable in space.variables:
            slot = variable.slots[0]
            wish = (weights, activations)[slot.operand == "activation"][slot.layer]
            width = (allocation.weights, allocation.activations)[slot.operand == "activation"]
            total += abs(width[slot.layer] - wish)
        return total

    best = min(weighed(allocation) for allocation in space.enumerate())
    assert weighed(near) == pytest.approx(best, abs=1e-6)


def test_the_preferred_allocation_has_the_smallest_sum_of_costs():
    space = BitSpace.build(LAYERS, weights=[2, 4], activations=[4, 8], first_last=None)
    costs = np.ones((2, 4, 33))
    costs[0, :, 4] = [0.5, 2, 0.5, 2]
    costs[1, :, 8] = [2, 0.5, 0.5, 2]
    near = preferred_allocation(space, *costs)
    assert near == BitAllocation(NAMES, [4, 2, 4, 2], [4, 8, 8, 4])


@pytest.mark.parametrize("wrong", [[8.0] * 3, [8.0, 8.0, 8.0, np.nan]])
def test_one_finite_width_per_operand_is_expected(wrong):
    with pytest.raises(SpaceError, match="one finite activation width for each of 4 layers"):
        nearest_allocation(BitSpace.build(LAYERS), [8.0] * 4, wrong)


def test_a_space_per_channel_is_refused():
    with pytest.raises(SpaceError, match="granularity 'layer', got 'channel'"):
        nearest_allocation(BitSpace.build(LAYERS, granularity="channel"), [8.0] * 4, [8.0] * 4)
