import json
import math

import numpy as np
import pytest

from bitfront.searchers.synthetic import tabular_problem
from bitfront.searchers.trace import Trace
from bitfront.spaces import BitAllocation, StudyError

LAYERS = ("conv", "fc")


def allocation(weights=(8, 4), activations=(8, 2)):
    return BitAllocation(LAYERS, list(weights), list(activations))


def trace_of(*steps) -> Trace:
    trace = Trace("episode", LAYERS)
    for metrics in steps:
        trace.add(allocation(), metrics)
    return trace


def test_a_step_adds_its_metrics_and_the_mean_widths():
    trace = Trace("episode", LAYERS)
    assert len(trace) == 0
    trace.add(allocation(), {"reward": 1})
    trace.add(allocation([2, [2, 4, 4]], [[8, 4], 3]), {"reward": 2.5})
    assert len(trace) == 2
    assert trace.metrics == {"reward": [1.0, 2.5]}
    assert trace.weight_bits == [[8, 4], [2, 3.333]]
    assert trace.activation_bits == [[8, 2], [6.0, 3]]


def test_a_metric_that_comes_late_or_is_missing_has_no_value_there():
    trace = trace_of({"reward": 1.0}, {"reward": 2.0, "loss": 3.0}, {"loss": 4.0}, {})
    assert trace.metrics == {"reward": [1.0, 2.0, None, None], "loss": [None, 3.0, 4.0, None]}


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_value(value):
    assert trace_of({"reward": value}).metrics == {"reward": [None]}


@pytest.mark.parametrize("value", ["high", [1.0, 2.0], {}])
def test_what_is_no_number_is_refused_and_adds_nothing(value):
    trace = trace_of({"reward": 1.0})
    with pytest.raises(StudyError, match="metric 'reward' must be a number"):
        trace.add(allocation(), {"loss": 1.0, "reward": value})
    assert trace == trace_of({"reward": 1.0})


def test_the_last_value_is_the_last_there_is():
    trace = trace_of({"reward": 1.0}, {"reward": 2.0}, {"reward": None}, {"loss": None})
    assert (trace.last("reward"), trace.last("loss"), trace.last("size")) == (2.0, None, None)


def test_an_allocation_of_other_layers_is_refused():
    with pytest.raises(StudyError, match="other layers"):
        trace_of().add(BitAllocation(["a"], [8], [8]), {})


def test_learned_widths_stand_in_place_of_the_allocations():
    trace = Trace("epoch", LAYERS)
    trace.add(allocation(), {}, weight_bits=np.float32([7.1, 4.24999]), activation_bits=[8, 2.5])
    trace.add(allocation(), {}, weight_bits=(6.5, 3))
    assert trace.weight_bits == [[7.1, 4.25], [6.5, 3.0]]
    assert trace.activation_bits == [[8.0, 2.5], [8, 2]]
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace


@pytest.mark.parametrize(
    "widths", [[8.0], [8.0, 4.0, 2.0], [8.0, math.nan], [8.0, None], 8.0, "84?"]
)
def test_widths_that_are_not_one_for_each_layer_are_refused_and_add_nothing(widths):
    trace = trace_of({"reward": 1.0})
    with pytest.raises(StudyError, match="activation_bits must"):
        trace.add(allocation(), {"reward": 2.0}, activation_bits=widths)
    assert trace == trace_of({"reward": 1.0})


def test_json_gives_it_back():
    trace = trace_of({"reward": math.nan}, {"loss": 2.0})
    trace.add(allocation([2, [2, 4, 4]]), {"reward": 0.1})
    text = json.dumps(trace.to_dict(), allow_nan=False)
    assert Trace.from_dict(json.loads(text)) == trace
    assert '"weight_bits": [[8, 4], [8, 4], [2, 3.333]]' in text  # whole widths stay short


def test_plain_values_are_a_copy():
    trace = trace_of({"reward": 1.0})
    values = trace.to_dict()
    trace.add(allocation(), {"reward": 2.0})
    assert Trace.from_dict(values) == trace_of({"reward": 1.0})


@pytest.mark.parametrize(
    "damage",
    [
        {"layers": None},
        {"metrics": [1.0]},
        {"metrics": {"reward": [1.0, 2.0]}},
        {"metrics": {"reward": ["high"]}},
        {"weight_bits": [[8, 4, 4]]},
        {"activation_bits": []},
        {"activation_bits": [["wide", 4]]},
    ],
)
def test_values_that_are_no_trace_are_refused(damage):
    with pytest.raises(StudyError, match=r"no trace|must be a number"):
        Trace.from_dict({**trace_of({"reward": 1.0}).to_dict(), **damage})


def test_a_missing_column_is_refused():
    values = trace_of({"reward": 1.0}).to_dict()
    del values["step"]
    with pytest.raises(StudyError, match="no trace: KeyError"):
        Trace.from_dict(values)


def test_a_search_logs_learned_widths_and_the_prices_of_what_is_deployed():
    problem = tabular_problem()
    four = problem.space.uniform(4)
    learned = [4.3] * len(four.layers)
    problem.log("epoch", four, weight_bits=learned, activation_bits=learned, accuracy=0.5)
    assert problem.trace.weight_bits == problem.trace.activation_bits == [learned]
    assert problem.trace.metrics["energy"] == [problem.price(four)]
    assert problem.trace.metrics["mean_weight_bits"] == [problem.price(four, "mean_weight_bits")]
    assert "weight_bits" not in problem.trace.metrics
