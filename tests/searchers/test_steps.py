import numpy as np

from bitfront.searchers import steps
from bitfront.searchers.testing import synthetic_layers
from bitfront.spaces import BitSpace


def space_of(count=2, **options):
    options = {"weights": (2, 4), "activations": (4, 8), "first_last": None, **options}
    return BitSpace.build(synthetic_layers(count), **options)


def test_a_state_is_an_allocation():
    space = space_of()
    allocation = space.uniform(4, 8).replace("conv1", weight=2)
    state = steps.widths_of(allocation)
    assert state.tolist() == [[4, 8], [2, 8]]
    assert steps.allocation_of(space, state) == allocation


def test_the_ends_of_a_space():
    assert steps.widest(space_of()).tolist() == [[4, 8]] * 2
    assert steps.narrowest(space_of()).tolist() == [[2, 4]] * 2


def test_the_ends_are_in_the_space():
    space = space_of(forbid=[(4, 8), (2, 4)])
    for end in (steps.widest(space), steps.narrowest(space)):
        assert space.contains(steps.allocation_of(space, end))


def test_a_step_changes_all_slots_of_a_variable_and_not_the_state_before():
    space = space_of(ties=[["conv0.weight", "conv1.weight"]])
    (tied,) = (v for v in space.variables if len(v.slots) == 2)
    before = steps.widest(space)
    after = steps.with_width(space, before, tied, 2)
    assert before.tolist() == [[4, 8], [4, 8]]
    assert after.tolist() == [[2, 8], [2, 8]]
    assert (steps.width_of(before, tied), steps.width_of(after, tied)) == (4, 2)


def test_a_step_into_a_forbidden_pair_is_none():
    space = space_of(forbid=[(2, 4)])
    weight, activation = space.variables[:2]
    lower = steps.with_width(space, steps.widest(space), weight, 2)
    assert lower is not None
    assert steps.with_width(space, lower, activation, 4) is None


def test_the_cost_of_a_state_is_that_of_its_pairs():
    costs = np.full((2, 33, 33), np.nan)
    costs[0, 4, 8], costs[1, 2, 8] = 3.0, 0.5
    assert steps.cost_of(costs, np.array([[4, 8], [2, 8]])) == 3.5
    assert np.isnan(steps.cost_of(costs, np.array([[4, 8], [4, 8]])))
