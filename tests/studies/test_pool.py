from dataclasses import replace

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.models.engine import EngineWarning
from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, BitAllocation
from bitfront.studies.ledger import Ledger, OwnWork
from bitfront.studies.pool import local_pool
from bitfront.studies.record import LEDGER_FILE, Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial

ONE, TWO = (Trial(StrategySpec(name="random"), Budget(9), seed) for seed in (0, 1))


@pytest.fixture
def open_pool(tiny_workload, tmp_path):
    def open_(workload=tiny_workload, **options):
        books = Books(
            tmp_path, workload.digest, Pricing(workload.energy), (ONE, TWO), DEFAULT_OBJECTIVES
        )
        return local_pool(workload, books, threads=1, **options)

    return open_


@pytest.fixture
def requests(tiny_workload):
    return [Request(BitAllocation.uniform(tiny_workload.layers, bits)) for bits in (8, 4)]


def test_strategies_share_evaluations_and_are_charged_for_what_they_asked(open_pool, requests):
    a, b = requests
    with open_pool() as pool:
        first = pool.evaluate([a, b, a], ONE.id)
        second = pool.evaluate([b], TWO.id)
        assert first[0] == first[2]
        assert second == [first[1]]  # the very same, wall time and all
        assert pool.history(ONE.id) == first
        assert pool.history(TWO.id) == second


def test_what_the_driver_asks_is_charged_to_nobody(open_pool, requests):
    events = []
    with open_pool(progress=events.append) as pool:
        pool.evaluate(requests)
        assert pool.history(ONE.id) == []
    assert events == []


def test_a_second_run_measures_nothing_again(open_pool, requests, monkeypatch):
    with open_pool() as pool:
        first = pool.evaluate(requests, ONE.id)
    monkeypatch.setattr("bitfront.studies.pool.Worker", pytest.fail)
    with open_pool() as pool:
        assert pool.history(ONE.id) == []
        assert pool.evaluate(requests, ONE.id) == first


def test_what_a_trial_saved_is_there_in_a_second_run_on_the_same_network(open_pool, tiny_workload):
    with open_pool() as pool:
        assert pool.checkpoint(ONE.id, "s") is None
        pool.put_checkpoint(ONE.id, "s", b"saved")
        assert pool.checkpoint(TWO.id, "s") is None
    with open_pool() as pool:
        assert pool.checkpoint(ONE.id, "s") == b"saved"
    with open_pool(replace(tiny_workload, batch_size=31)) as pool:
        assert pool.checkpoint(ONE.id, "s") is None
    with open_pool() as pool:
        pool.end(ONE.id, 0.1, None, OwnWork())
        assert pool.checkpoint(ONE.id, "s") is None


def test_under_another_table_only_prices_are_new(open_pool, requests, tiny_workload, tmp_path):
    with open_pool() as pool:
        (first,) = pool.evaluate(requests[:1], ONE.id)
    bitfusion = EnergyModel(load_table("bitfusion"), tiny_workload.layers)
    with open_pool(replace(tiny_workload, energy=bitfusion)) as pool:
        (second,) = pool.evaluate(requests[:1], ONE.id)
    assert (second.accuracy, second.wall_s) == (first.accuracy, first.wall_s)
    assert second.energy_table == "bitfusion"
    ledger = Ledger(tmp_path / LEDGER_FILE)
    (row,) = ledger.rows()
    ledger.close()
    assert row["energy_pj"] == second.energy_pj


def test_progress_is_told_after_every_answer(open_pool, requests):
    events = []
    with open_pool(progress=events.append) as pool:
        pool.evaluate(requests, ONE.id)
        pool.end(ONE.id, 0.1, None, OwnWork())
    assert [(event.done, event.total) for event in events] == [(1, 18), (2, 18), (2, 11)]


def test_what_was_answered_before_an_interruption_is_kept(open_pool, requests, tmp_path):
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_pool(progress=interrupt) as pool:
        pool.evaluate(requests, ONE.id)
    ledger = Ledger(tmp_path / LEDGER_FILE)
    assert len(ledger.history(ONE.id)) == 1
    ledger.close()


def test_what_the_worker_notes_is_a_warning(open_pool, requests, monkeypatch):
    monkeypatch.setattr("bitfront.models.engine.engine.available", lambda: "no such instruction")
    with open_pool() as pool, pytest.warns(EngineWarning, match="no integer kernels: no such"):
        pool.evaluate(requests)
