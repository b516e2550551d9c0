import math
from dataclasses import replace

import pytest

from bitfront.searchers import Budget, check_feasible, smallest_cost
from bitfront.searchers.budget import respects
from bitfront.searchers.synthetic import tabular_problem
from bitfront.spaces import InfeasibleError, StudyError


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


@pytest.mark.parametrize("name", ["energy", "size", "bops"])
def test_smallest_cost_is_that_of_the_cheapest_member(name):
    problem = tabular_problem(widths=(3, 5, 8), forbid=[(3, 3)])
    every = [problem.price(a, name) for a in problem.space.enumerate()]
    assert smallest_cost(problem.space, problem.energy, name) == min(every)


def test_numbers_in_a_refusal_are_written_out():
    problem = tabular_problem()
    with pytest.raises(InfeasibleError, match=r"bops <= 1 \(.*achievable is \d+: raise"):
        check_feasible(problem.space, problem.energy, {"bops": 1.0})


def test_the_smallest_cost_is_a_limit_that_can_be_asked_for():
    problem = tabular_problem()
    with pytest.raises(InfeasibleError, match=r"energy <= 0.001") as refused:
        check_feasible(problem.space, problem.energy, {"energy": 0.001})
    shown = float(str(refused.value).split("achievable is ")[1].split(":")[0])
    check_feasible(problem.space, problem.energy, {"energy": shown})
    assert shown == pytest.approx(smallest_cost(problem.space, problem.energy, "energy"), rel=1e-3)
