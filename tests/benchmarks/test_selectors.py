import pytest

from bitfront.benchmarks.selectors import TABLES, overhead, profiled
from bitfront.searchers.learnprec import LearnPrec


@pytest.mark.parametrize("table", TABLES)
def test_choosing_costs_less_than_a_hundredth_of_a_small_layer(table):
    layers, known = profiled("resnet20")
    cost = overhead(layers, known, table, LearnPrec())
    assert (cost.operands, cost.left_out) == (18, 0)
    assert 0 < cost.network < cost.largest < 0.01


@pytest.mark.slow
def test_choosing_costs_next_to_nothing_of_a_large_network():
    layers, known = profiled("resnet18")
    for table in TABLES:
        cost = overhead(layers, known, table, LearnPrec())
        assert 0 < cost.compute < 0.0005 and cost.left_out == 0
        assert cost.network < 0.0005
