import itertools

import numpy as np
import pytest

from bitfront.searchers.flips import (
    apply_flips,
    cheapest_harm_first,
    rank_flips,
    saved,
    score_of_state,
)
from bitfront.searchers.steps import allocation_of, widths_of
from bitfront.searchers.testing import synthetic_layers
from bitfront.spaces import BitSpace, Scores
from bitfront.spaces.scores import blank_values

BITS = np.arange(33.0)


def space_of(count=2, **options):
    options = {"weights": (2, 4, 8), "activations": (8,), "first_last": None, **options}
    return BitSpace.build(synthetic_layers(count), **options)


def scores_of(space, *weights, activations=()):
    """Scores from one dictionary of widths per layer; those of 8 bits are 0."""
    choices = [
        (space.weight_choices(i), space.activation_choices(i)) for i in range(len(space.layers))
    ]
    values = blank_values(space.layers, choices)
    for column, operand in enumerate((weights, activations)):
        for row, given in enumerate(operand):
            values[row, column, 8] = 0.0
            for bits, score in given.items():
                values[row, column, bits] = score
    return Scores({"kind": "sqnr"}, "", tuple(x.name for x in space.layers), values)


def per_bit(*prices):
    """Every weight bit of a layer costs its price, whatever the activation."""
    return np.array([np.outer(price * BITS, np.ones(33)) for price in prices])


def weights_of(states):
    return [state[:, 0].tolist() for state in states]


def ranked(space, scores, costs):
    return [(flip.group // 2, flip.bits) for flip in rank_flips(space, scores, costs)]


# Ranked once, as AIMET does


def test_the_path_by_hand():
    space = space_of()
    scores = scores_of(space, {4: 1.0, 2: 5.0}, {4: 2.0, 2: 3.0})
    costs = per_bit(1, 1)
    assert ranked(space, scores, costs) == [(0, 4), (1, 4), (1, 2), (0, 2)]
    path = list(apply_flips(space, rank_flips(space, scores, costs)))
    assert weights_of(path) == [[8, 8], [4, 8], [4, 4], [4, 2], [2, 2]]
    assert [score_of_state(scores, state) for state in path] == [0.0, 1.0, 3.0, 4.0, 8.0]


def test_equal_scores_go_by_width_then_by_saving_then_by_group():
    space = space_of(3)
    even = {4: 1.0, 2: 1.0}
    expected = [(1, 4), (0, 4), (2, 4), (1, 2), (0, 2), (2, 2)]
    assert ranked(space, scores_of(space, even, even, even), per_bit(1, 2, 1)) == expected


def test_a_later_flip_overrides_an_earlier_one_even_to_more_bits():
    space = space_of(1)
    path = apply_flips(space, rank_flips(space, scores_of(space, {4: 2.0, 2: 1.0}), per_bit(1)))
    assert weights_of(path) == [[8], [2], [4]]


def test_a_group_flips_as_one_and_its_scores_add_up():
    space = space_of(3, ties=[["conv0.weight", "conv2.weight"]])
    scores = scores_of(space, {4: 1.0, 2: 9.0}, {4: 3.0, 2: 4.5}, {4: 3.0, 2: 9.0})
    path = apply_flips(space, rank_flips(space, scores, per_bit(1, 1, 1)))
    # conv1 alone scores 3 and 4.5, the other two together 4 and 18.
    assert weights_of(path) == [[8, 8, 8], [8, 4, 8], [4, 4, 4], [4, 2, 4], [2, 2, 2]]


def test_a_forbidden_flip_is_left_out():
    space = space_of(1, activations=(4, 8), forbid=[(4, 8)])
    scores = scores_of(space, {4: 1.0, 2: 3.0}, activations=[{4: 2.0}])
    path = apply_flips(space, rank_flips(space, scores, per_bit(1)))
    assert [state.tolist() for state in path] == [[[8, 8]], [[8, 4]], [[2, 4]]]


def test_nothing_to_flip_is_a_path_of_one():
    space = space_of(weights=(8,))
    scores = scores_of(space)
    assert rank_flips(space, scores, per_bit(1, 1)) == []
    assert weights_of(apply_flips(space, [])) == [[8, 8]]
    assert weights_of(cheapest_harm_first(space, scores, per_bit(1, 1))) == [[8, 8]]


# The least score for what it saves


def test_least_harm_for_the_saving_by_hand():
    space = space_of()
    scores = scores_of(space, {4: 1.0, 2: 5.0}, {4: 2.0, 2: 3.0})
    # A bit of the first layer costs ten times as much:
    #   from 8 8: 1/40 and 5/60, 2/4 and 3/6; from 4 8: 4/20, 2/4 and 3/6;
    #   from 2 8: 2/4 and 3/6, equal, so to more bits; from 2 4: 1/2.
    path = cheapest_harm_first(space, scores, per_bit(10, 1))
    assert weights_of(path) == [[8, 8], [4, 8], [2, 8], [2, 4], [2, 2]]


def test_a_width_that_saves_nothing_is_passed_over():
    space = space_of(1)
    costs = per_bit(0.1)
    costs[:, 4] = costs[:, 8]  # stored in bytes
    path = cheapest_harm_first(space, scores_of(space, {4: 1.0, 2: 3.0}), costs)
    assert weights_of(path) == [[8], [2]]


def test_the_saving_depends_on_the_other_operand():
    space = space_of(1, weights=(4, 8), activations=(4, 8))
    product = np.outer(BITS, BITS)[None]
    scores = scores_of(space, {4: 1.0}, activations=[{4: 1.5}])
    path = list(cheapest_harm_first(space, scores, product))
    assert [state.tolist() for state in path] == [[[8, 8]], [[4, 8]], [[4, 4]]]
    assert [saved(product, *pair) for pair in itertools.pairwise(path)] == [32.0, 16.0]


def landscape(seed):
    """A space with forbidden pairs and a tie, random monotone scores, and costs of products."""
    rng = np.random.default_rng(seed)
    space = space_of(
        4,
        activations=(2, 4, 8),
        forbid=[(2, 8), (8, 2)],
        ties=[["conv0.weight", "conv3.weight"]],
    )
    steps = np.sort(rng.random((2, 4, 2)))
    rows = [[{4: low, 2: high} for low, high in operand] for operand in steps]
    costs = np.outer(BITS, BITS) * rng.random((4, 1, 1))
    return space, scores_of(space, *rows[0], activations=rows[1]), costs


@pytest.mark.parametrize("seed", range(5))
def test_its_cost_falls_from_state_to_state_and_stays_in_the_space(seed):
    space, scores, costs = landscape(seed)
    path = list(cheapest_harm_first(space, scores, costs))
    assert len(path) > 4
    assert all(saved(costs, *pair) > 0 for pair in itertools.pairwise(path))
    assert all(space.contains(allocation_of(space, state)) for state in path)


@pytest.mark.parametrize("seed", range(5))
def test_each_step_is_the_best_of_all_there_are(seed):
    space, scores, costs = landscape(seed)
    *path, end = cheapest_harm_first(space, scores, costs)

    def ratios(state):
        here = allocation_of(space, state)
        lower = (
            other
            for other in (widths_of(neighbour) for neighbour in space.neighbours(here))
            if (other <= state).all() and saved(costs, state, other) > 0
        )
        harm = score_of_state(scores, state)
        return {
            other.tobytes(): (score_of_state(scores, other) - harm) / saved(costs, state, other)
            for other in lower
        }

    for state, after in itertools.pairwise([*path, end]):
        offers = ratios(state)
        assert offers[after.tobytes()] == pytest.approx(min(offers.values()))
    assert not ratios(end)
