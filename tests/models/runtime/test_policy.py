"""Which level answers an input."""

import itertools

import numpy as np
import pytest
import torch

from bitfront.models.dynamic.cascade import confidence, route
from bitfront.models.runtime.policy import ConfidencePolicy, FixedPolicy
from bitfront.spaces import BitAllocation, DynamicAllocation, SpaceError


def logits_with(*shares: float) -> torch.Tensor:
    """Return logits of two classes by their top-1 probabilities."""
    p = torch.tensor(shares, dtype=torch.float64)
    return torch.stack([torch.log(p), torch.log1p(-p)], dim=1)


def test_a_fixed_policy_stays():
    assert FixedPolicy().next_levels(logits_with(0.5, 0.99), 1).tolist() == [1, 1]


def test_three_levels_are_chosen_by_two_thresholds():
    policy = ConfidencePolicy(3)
    assert policy.thresholds == (0.9, 0.6)
    found = policy.next_levels(logits_with(0.95, 0.91, 0.89, 0.61, 0.59), 0)
    assert found.tolist() == [0, 0, 1, 1, 2]
    assert policy.next_levels(logits_with(0.95, 0.61, 0.59), 1).tolist() == [1, 1, 2]


def test_of_two_levels_one_threshold_decides():
    policy = ConfidencePolicy(2, [0.7])
    assert policy.next_levels(logits_with(0.8, 0.6), 0).tolist() == [0, 1]


def test_it_is_the_rule_of_a_cascade():
    members = tuple(BitAllocation(["a"], [width], [width]) for width in (4, 6, 8))
    shares = np.array(list(itertools.product((0.55, 0.6, 0.7, 0.9, 0.95), repeat=2)))
    dynamic = DynamicAllocation(
        "cascade", members, thresholds=(0.9, 0.6), temperatures=(1.0, 1.0), classes=2
    )
    logits = [logits_with(*column) for column in shares.T]
    answered, _ = route(dynamic, [confidence(each) for each in logits])
    policy = ConfidencePolicy(3)
    first, second = (policy.next_levels(each, level) for level, each in enumerate(logits))
    assert np.where(first == 1, second, first).tolist() == answered.tolist()


def test_a_temperature_makes_a_level_less_sure():
    policy = ConfidencePolicy(2, [0.7], temperatures=[2.0])
    assert policy.next_levels(logits_with(0.8, 0.9), 0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("levels", "settings", "said"),
    [
        (3, {"thresholds": [0.6, 0.9]}, "thresholds of a cascade fall"),
        (3, {"thresholds": [0.9]}, "has 2 thresholds"),
        (2, {"thresholds": [1.5]}, r"in \[0, 1\]"),
        (2, {"temperatures": [0.0]}, "positive temperature"),
        (1, {}, "at least 2 levels"),
        (4, {}, "has 3 thresholds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(levels, settings, said):
    with pytest.raises(SpaceError, match=said):
        ConfidencePolicy(levels, **settings)
