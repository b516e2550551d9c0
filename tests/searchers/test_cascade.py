from bitfront.searchers import Cascade
from bitfront.searchers.testing import SearcherConformance


class TestCascade(SearcherConformance):
    make = Cascade


class TestCascadeOfThree(SearcherConformance):
    @staticmethod
    def make():
        return Cascade(stages=3, calibrate=False, tolerance=0.05, screen_images=8)


class TestCascadeOfGivenMembers(SearcherConformance):
    @staticmethod
    def make():
        return Cascade(members=(2, (4, 6), 8), thresholds=(0.8, 0.4))
