import numpy as np

from bitfront.searchers.cost_axis import CostAxis
from bitfront.searchers.improvement import most_promising
from bitfront.searchers.synthetic import model_problem


def axis(lowest=0.0, highest=1.0):
    made = CostAxis.of(model_problem())
    return type(made)(
        made.space, made.costs, (), made.allowed, lowest, highest, highest + 0.1, False
    )


def test_the_expected_improvement_is_the_area_under_the_staircase():
    # A front of two steps: value 1 from cost 0.2 on, 0 from 0.6 on. A sure candidate at cost 0.4
    # of value 0.5 adds 0.2 x 0.5; one at 0.2 of value 0.9 adds 0.4 x 0.1.
    staircase = np.array([0.2, 0.6]), np.array([1.0, 0.0])
    sure = np.full(3, 1e-9)
    costs, means = np.array([0.2, 0.4, 0.7]), np.array([0.9, 0.5, 0.5])
    assert most_promising(costs, means, sure, staircase, axis(), 3)[:2] == [1, 0]


def test_of_equal_means_the_uncertain_one_promises_more():
    staircase = np.array([0.1]), np.array([0.0])
    costs, means = np.array([0.3, 0.3]), np.array([0.5, 0.5])
    chosen = most_promising(costs, means, np.array([0.1, 1.0]), staircase, axis(), 1)
    assert chosen == [1]


def test_what_was_chosen_is_believed_before_the_next_choice():
    staircase = np.array([0.1]), np.array([1.0])
    costs, means = np.array([0.3, 0.31, 0.8]), np.array([0.2, 0.2, -0.2])
    chosen = most_promising(costs, means, np.full(3, 1e-9), staircase, axis(), 2)
    assert chosen == [0, 2]


def test_candidates_beyond_the_limit_are_never_chosen():
    staircase = np.array([0.1]), np.array([1.0])
    costs, means = np.array([0.3, 0.9]), np.array([0.9, -5.0])
    assert most_promising(costs, means, np.ones(2), staircase, axis(highest=0.5), 2) == [0]
