import enum
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from bitfront.searchers.trace import Trace
from bitfront.spaces import BitAllocation, Measurement
from bitfront.studies.findings import (
    agreement,
    notes_of,
    plain,
    predictions,
    solver_text,
    trace_of,
    without_trace,
)


def measurement(bits, loss, **fields):
    allocation = BitAllocation(["fc"], [bits], [bits])
    return Measurement(
        allocation, 0.5, 0.01, loss, 0.1, 0.5, None, "table", 100, 10, bits, bits, 50, 0.1, **fields
    )


def key(bits):
    return BitAllocation(["fc"], [bits], [bits]).key


def test_predictions_meet_the_losses_of_what_was_measured_in_whole_once():
    history = [
        measurement(2, 0.9),
        measurement(4, 0.4, fidelity=0.5),
        measurement(3, 0.7),
        measurement(2, 0.9),
        measurement(5, math.nan, error="broke"),
        measurement(6, 0.2),  # nobody predicted it
        measurement(8, 0.1),
    ]
    predicted = {key(bits): 1 / bits for bits in (2, 3, 4, 5, 7)} | {key(8): None}
    assert predictions({"predicted": predicted}, history) == ((1 / 2, 0.9), (1 / 3, 0.7))


@pytest.mark.parametrize("findings", [{}, {"predicted": None}, {"predicted": [1, 2]}])
def test_without_predictions_there_is_nothing_to_compare(findings):
    assert predictions(findings, [measurement(2, 0.9)]) == ()


def test_agreement_is_kendalls_tau_and_the_r2_of_a_straight_line():
    # One of six pairs of pairs is discordant: tau = (5 - 1) / 6.
    found = agreement([(1, 10), (2, 30), (3, 20), (4, 40)])
    assert found.count == 4
    assert found.tau == pytest.approx(4 / 6)
    # The line y = 5 + 8 x leaves 180 of a total of 500.
    assert found.r2 == pytest.approx(1 - 180 / 500)
    assert str(found) == "Kendall's tau 0.67, R² 0.64"


def test_a_score_that_orders_the_other_way_round_is_told_by_its_sign():
    found = agreement([(1, 3), (2, 2), (3, 1)])
    assert (found.tau, found.r2) == (pytest.approx(-1), pytest.approx(1))


def test_too_little_to_compare_is_not_a_number():
    assert agreement([(1, 1), (2, 2)]) is None
    constant = agreement([(1, 1), (1, 2), (1, 3)])
    assert (constant.tau, constant.r2) == (None, None)
    assert str(constant) == "Kendall's tau unknown, R² unknown"


def test_what_solvers_said_is_one_phrase():
    optimal = {"status": "optimal", "score": 2.0, "bound": 2.0, "gap": 0.0}
    cut_off = {"status": "feasible", "score": 3.0, "bound": 2.25, "gap": 0.25}
    assert solver_text({"solver": [optimal]}) == "1 optimal; gap 0 (score 2, bound 2)"
    assert solver_text({"solver": [optimal, cut_off, optimal]}) == (
        "2 optimal, 1 feasible; largest gap 0.25 (score 3, bound 2.25)"
    )
    rounded = {"status": "optimal", "score": 2.0, "bound": 2.0, "gap": 1.2e-16}
    assert solver_text({"solver": [rounded]}) == "1 optimal; gap 0 (score 2, bound 2)"
    assert solver_text({"solver": [{"status": "infeasible"}]}) == "1 infeasible"


@pytest.mark.parametrize("said", [None, [], "optimal", [1, 2]])
def test_what_is_no_word_of_a_solver_is_not_shown(said):
    assert solver_text({"solver": said}) == ""


def test_what_was_logged_is_read_back():
    trace = Trace("epoch", ("fc",))
    trace.add(BitAllocation(["fc"], [4], [8]), {"loss": 0.5})
    assert trace_of({"trace": json.loads(json.dumps(trace.to_dict()))}) == trace


@pytest.mark.parametrize("logged", [None, "all well", [1.0], {}, {"step": "epoch"}])
def test_what_is_no_trace_is_not_drawn(logged):
    assert trace_of({"trace": logged}) is None
    assert trace_of({}) is None


def test_findings_without_the_trace_are_all_others():
    assert without_trace({"notes": ["a"], "trace": {"step": "epoch"}}) == {"notes": ["a"]}
    assert without_trace({}) == {}


def test_notes_are_sentences():
    assert notes_of({"notes": ["Three rewards were not finite.", 3]}) == [
        "Three rewards were not finite.",
        "3",
    ]


@pytest.mark.parametrize("said", [None, "a sentence", {"a": "sentence"}])
def test_what_is_no_list_of_notes_is_not_shown(said):
    assert notes_of({"notes": said}) == notes_of({}) == []


class Colour(enum.StrEnum):
    RED = "red"


@dataclass
class Odd:
    def __repr__(self):
        return "odd"


def test_whatever_a_strategy_reports_becomes_plain():
    given = {
        1: np.float32(0.5),
        "nested": [(np.int64(2), {3}), np.array([[1.0, math.inf]])],
        "flag": np.True_,
        "colour": Colour.RED,
        "odd": Odd(),
        "none": None,
    }
    made = plain(given)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made == {
        "1": 0.5,
        "nested": [[2, [3]], [[1.0, None]]],
        "flag": True,
        "colour": "red",
        "odd": "odd",
        "none": None,
    }
    assert type(made["colour"]) is str
