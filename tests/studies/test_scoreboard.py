from dataclasses import replace

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, OBJECTIVES, BitAllocation, Layer, Measurement
from bitfront.studies.scoreboard import Scoreboard
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
PRICING = Pricing(
    EnergyModel(load_table("horowitz-45nm"), LAYERS),
    {"bitfusion": EnergyModel(load_table("bitfusion"), LAYERS)},
)
FIRST = Trial(StrategySpec(name="random"), Budget(4, {"energy": 0.8}), 0)
SECOND = Trial(StrategySpec(name="uniform"), Budget(6), 1)


def measurement(accuracy, energy, bits=2, **fields):
    allocation = BitAllocation(["fc"], [bits], [bits])
    costs = (energy / 4, energy, None, "table", 100, 10, 8, 8)
    return Measurement(allocation, accuracy, 0.01, 0.5, *costs, 50, 0.1, **fields)


@pytest.fixture
def board():
    return Scoreboard([FIRST, SECOND], DEFAULT_OBJECTIVES, PRICING)


def test_nothing_is_known_at_first(board):
    event = board.event()
    assert (event.phase, event.done, event.total) == ("search", 0, 10)
    assert (event.best, event.hypervolume, event.note) == (None, None, "")


def test_answers_are_counted_and_the_front_is_common(board):
    board.add(FIRST.id, measurement(0.5, 0.5))
    board.add(SECOND.id, measurement(0.8, 0.75))
    event = board.event()
    assert (event.done, event.trial, event.best) == (2, "uniform, seed 1", 0.8)
    # 0.5 x (1 - 0.5) + (0.8 - 0.5) x (1 - 0.75)
    assert event.hypervolume == pytest.approx(0.325)


@pytest.mark.parametrize(
    "answer",
    [
        measurement(0.9, 0.5, bits=8),  # beyond its trial's limit
        measurement(0.9, 0.5, fidelity=0.5),
        measurement(0.9, 0.5, error="broke"),
    ],
)
def test_what_cannot_be_a_result_is_counted_only(board, answer):
    board.add(FIRST.id, answer)
    assert (board.event().done, board.event().best) == (1, None)


def test_a_trial_that_ends_early_is_not_waited_for(board):
    board.add(FIRST.id, measurement(0.5, 0.5))
    board.end(FIRST.id, None)
    assert board.event().total == 1 + 6
    assert board.event().note == ""


def test_a_failed_trial_is_noted(board):
    board.end(SECOND.id, "ValueError: no")
    assert board.event().note == "uniform, seed 1 failed: ValueError: no"


def test_a_trial_that_begins_again_is_counted_anew(board):
    board.add(FIRST.id, measurement(0.5, 0.5))
    board.begin(FIRST.id)
    assert board.event().done == 0


def test_a_limit_may_be_on_a_further_table():
    trial = replace(SECOND, budget=Budget(6, {"energy:bitfusion": 0.5}))
    board = Scoreboard([trial], DEFAULT_OBJECTIVES, PRICING)
    board.add(trial.id, measurement(0.9, 0.5, bits=8))
    assert board.event().best is None
    board.add(trial.id, measurement(0.8, 0.5, bits=2))
    assert board.event().best == 0.8


@pytest.mark.parametrize("other", ["size", "mean_weight_bits"])
def test_no_hypervolume_without_a_standard_reference(other):
    board = Scoreboard([FIRST], [OBJECTIVES["accuracy"], OBJECTIVES[other]], PRICING)
    board.add(FIRST.id, replace(measurement(0.5, 0.5)))
    assert board.event().hypervolume is None
