"""Widths of channels that follow the input."""

from bitfront.searchers import LearnPrec
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
