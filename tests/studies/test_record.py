"""What becomes of trained networks while a study runs."""

from contextlib import closing

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Budget, Pricing
from bitfront.searchers.checkpoint import Checkpoint
from bitfront.spaces import DEFAULT_OBJECTIVES, BitAllocation, Layer
from bitfront.studies.ledger import OwnWork
from bitfront.studies.record import Books, Record
from bitfront.studies.requests import Request, failed, measured
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
ENERGY = EnergyModel(load_table("horowitz-45nm"), LAYERS)
WIDE, NARROW = (BitAllocation.uniform(LAYERS, bits) for bits in (8, 4))


def eqat(label="eqat", evaluations=5, seed=0):
    return Trial(StrategySpec(name="eqat", label=label), Budget(evaluations), seed)


@pytest.fixture
def open_record(tmp_path):
    """Return a factory of records of trials, all of one study."""

    def open_(*trials):
        books = Books(tmp_path, "workload", Pricing(ENERGY), trials, DEFAULT_OBJECTIVES)
        return closing(Record(books))

    return open_


def hand_over(record, trial, name, *, allocation=WIDE, correct=9):
    """Let a trial ask about a network that it hands over, and answer; return the digest."""
    digest = name * 32
    request = Request(allocation, network=digest)
    record.put_networks({digest: name.encode()})
    record.charge(trial.id, [request])
    if record.find(request) is None:
        record.add(measured(request, ENERGY, correct=correct, loss_sum=1.0, samples=10, wall_s=0.0))
    return digest


def end(record, trial, error=None):
    record.end(trial.id, 1.0, error, OwnWork(trained=True))


def held(record):
    return {name for name in "abcdef" if record.network(name * 32) is not None}


OTHERS = [eqat("another"), eqat(evaluations=6), eqat(seed=1)]


@pytest.mark.parametrize("other", OTHERS, ids=lambda trial: trial.id)
def test_a_network_on_the_front_of_another_trial_that_ended_is_kept(open_record, other):
    first = eqat()
    with open_record(other, first) as record:
        for trial in (other, first):
            record.begin(trial.id)
        hand_over(record, other, "a", correct=7)
        end(record, other)
        hand_over(record, first, "a")
        hand_over(record, first, "b")  # as cheap, and better
        hand_over(record, first, "c", correct=5)
        end(record, first)
        assert held(record) == {"a", "b"}


@pytest.mark.parametrize("other", OTHERS, ids=lambda trial: trial.id)
def test_a_network_that_a_running_trial_asked_about_is_kept_until_it_ends(open_record, other):
    first = eqat()
    with open_record(first, other) as record:
        for trial in (first, other):
            record.begin(trial.id)
            hand_over(record, trial, "a", correct=7)
        record.charge(other.id, [Request(WIDE, network="c" * 32)])  # not answered yet
        record.put_networks({"c" * 32: b"c"})
        hand_over(record, first, "b")
        hand_over(record, first, "c", correct=6)
        end(record, first)
        assert held(record) == {"a", "b", "c"}
        hand_over(record, other, "d", correct=10)
        end(record, other)
        assert held(record) == {"b", "d"}


def test_a_network_that_a_trial_saved_is_kept_until_it_goes_on(open_record):
    first, other = eqat(), eqat(seed=1)
    saved = Checkpoint({}, ((WIDE, 1.0, "a" * 32),), {}, None, {}, 0, 0, 1.0).to_bytes()
    with open_record(first, other) as record:
        record.begin(other.id)
        hand_over(record, other, "a", correct=7)
        record.put_checkpoint(other.id, "signature", saved)
    with open_record(first, other) as record:  # of other, only the checkpoint is there now
        record.begin(first.id)
        hand_over(record, first, "a")
        hand_over(record, first, "b", correct=9)
        end(record, first, "it failed")
        assert held(record) == {"a", "b"}
    with open_record(first, other) as record:
        record.put_checkpoint(other.id, "signature", b"damaged")
        record.begin(first.id)
        hand_over(record, first, "a")
        hand_over(record, first, "b", correct=9)
        end(record, first)
        assert held(record) == {"b"}


def test_networks_that_nobody_needs_are_gone_when_the_trial_ends(open_record):
    trial = eqat()
    with open_record(trial, eqat(seed=1)) as record:
        record.begin(trial.id)
        hand_over(record, trial, "a", correct=9)
        hand_over(record, trial, "b", correct=8)
        hand_over(record, trial, "c", correct=8, allocation=NARROW)
        end(record, trial)
        assert held(record) == {"a", "c"}


def test_of_a_network_that_is_gone_a_failure_keeps_its_reason(open_record):
    trial, request = eqat(), Request(WIDE, network="a" * 32)
    fault = failed(request, ENERGY, "ran out of memory")
    with open_record(trial) as record:
        record.add(fault)
        assert record.find(request).error == fault.error
        assert record.find(Request(WIDE, network="b" * 32)) is None
        record.put_networks({"a" * 32: b"a"})
        assert record.find(request) is None  # it can be tried again
        plain = Request(WIDE)
        record.add(failed(plain, ENERGY, "ran out of memory"))
        assert record.find(plain) is None
