import math

import pytest

from bitfront.searchers import Budget
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


def test_a_limit_may_name_another_table_and_mean_widths():
    limits = {"energy:jouppi-7nm": 0.5, "mean_weight_bits": 4, "mean_activation_bits": 6.5}
    assert Budget(5, limits).limits == limits
