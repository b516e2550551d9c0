import math
from dataclasses import replace

import pytest

from bitfront.searchers import Budget
from bitfront.searchers.budget import respects
from bitfront.searchers.synthetic import tabular_problem
from bitfront.spaces import StudyError


@pytest.mark.parametrize("evaluations", [0, -1])
def test_a_budget_must_have_something_to_spend(evaluations):
    with pytest.raises(StudyError, match=f"at least 1 evaluation, got {evaluations}"):
        Budget(evaluations)


@pytest.mark.parametrize("evaluations", [1.5, "9", True])
def test_evaluations_are_a_whole_number(evaluations):
    with pytest.raises(StudyError, match="whole number"):
        Budget(evaluations)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"enrgy": 0.5}, "did you mean 'energy'"),
        ({"accuracy": 0.5}, "only costs known before measuring"),
        ({"energy": 0}, "positive number, got 0"),
        ({"energy": math.nan}, "positive number, got nan"),
        ({"size": "small"}, "positive number, got 'small'"),
    ],
)
def test_limits_are_checked(limits, message):
    with pytest.raises(StudyError, match=message):
        Budget(5, limits)


def test_a_cost_that_is_not_known_respects_no_limit():
    problem = tabular_problem()
    (measured,) = problem.evaluate([problem.space.uniform(4)])
    assert respects(measured, {"energy": 1.0, "size": 10**9})
    assert not respects(replace(measured, energy_vs_w8a8=math.nan), {"energy": 1.0})
