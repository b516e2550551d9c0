"""Widths of channels that follow the input."""

from bitfront.searchers import LearnPrec, LearnPrecJoint
from bitfront.searchers.testing import SearcherConformance

TINY = {
    "max_overhead": 1.0,  # its layers are tiny
    "positions": 8,
    "epochs": 1,
    "batch_size": 8,
    "points": 3,
    "directions": 1,
    "regression_steps": 5,
}


class TestLearnPrec(SearcherConformance):
    @staticmethod
    def make():
        return LearnPrec(**TINY)


JOINT = {
    **{name: TINY[name] for name in ("max_overhead", "positions", "directions")},
    "regression_steps": 5,
    "epochs": 3,
    "images": 32,
    "batch_size": 16,
    "selectors_from": 1,
}


class TestLearnPrecJoint(SearcherConformance):
    test_same_seed_asks_the_same_in_a_second_process = None  # that takes its time

    @staticmethod
    def make():
        return LearnPrecJoint(**JOINT, evaluate_every=3)
