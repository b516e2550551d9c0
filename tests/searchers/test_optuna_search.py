from functools import partial

import pytest

from bitfront.searchers.optuna_search import OptunaSearch
from bitfront.searchers.testing import SearcherConformance


class TestNsga2(SearcherConformance):
    make = OptunaSearch


class TestNsga2FromNothing(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, warm_start=False))


class TestNsga3(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="nsga3"))


class TestTpe(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="tpe"))


class TestCmaes(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="cmaes"))


@pytest.mark.slow
class TestGp(SearcherConformance):
    """Per layer only, where there are few free widths: the Gaussian process takes its time."""

    evaluations = 14
    make = staticmethod(partial(OptunaSearch, sampler="gp"))

    def _options(self, **options):
        for chosen in super()._options(**options):
            if chosen["granularity"] == "layer":
                yield chosen
