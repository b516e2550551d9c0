import asyncio
from collections import Counter

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, EvaluationError, Layer, ModelError
from bitfront.studies.dispatch import MAX_ATTEMPTS, MAX_BATCH, Dispatcher, WorkerLostError
from bitfront.studies.requests import Request, failed, measured

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
ENERGY = EnergyModel(load_table("horowitz-45nm"), LAYERS)
POISON = Request(BitAllocation.uniform(LAYERS, 2))


def request(number):
    return Request(BitAllocation.uniform(LAYERS, 8), fidelity=(number + 1) / 1000)


def answer(asked):
    return measured(asked, ENERGY, correct=1, loss_sum=1.0, samples=2, wall_s=0.0)


class Worker:
    """Answers after a turn of the loop; dies of poison, and on the calls it is told to."""

    def __init__(self, dies_on=(), cannot_start=None):
        self.batches = []
        self.starts = 0
        self.dies_on = set(dies_on)
        self.cannot_start = cannot_start

    async def ready(self):
        self.starts += 1
        if self.cannot_start is not None:
            raise self.cannot_start

    async def measure(self, requests):
        self.batches.append(list(requests))
        await asyncio.sleep(0)
        if POISON in requests or len(self.batches) in self.dies_on:
            raise WorkerLostError
        return [answer(asked) for asked in requests]


def ask(workers, requests):
    """Return the answers to requests asked all at once; exceptions in place."""

    async def main():
        dispatcher = Dispatcher(workers, lambda asked: failed(asked, ENERGY, "gave up"))
        dispatcher.start()
        asked = (dispatcher.measure(r) for r in requests)
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)

    return asyncio.run(main())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_answers_come_in_the_order_asked_each_measured_once(count):
    workers = [Worker() for _ in range(count)]
    requests = [request(i) for i in range(100)]
    assert ask(workers, requests) == [answer(r) for r in requests]
    measured_requests = Counter(r for w in workers for batch in w.batches for r in batch)
    assert set(measured_requests.values()) == {1}
    assert all(w.batches for w in workers)


def test_batches_are_shares_that_shrink_to_one():
    workers = [Worker(), Worker()]
    ask(workers, [request(i) for i in range(100)])
    sizes = [len(batch) for w in workers for batch in w.batches]
    assert max(sizes) == MAX_BATCH
    assert min(sizes) == 1


def test_what_a_lost_worker_had_is_answered_by_another_or_after_its_return():
    workers = [Worker(dies_on={1}), Worker(dies_on={1, 2})]
    requests = [request(i) for i in range(50)]
    assert ask(workers, requests) == [answer(r) for r in requests]
    assert [w.starts for w in workers] == [2, 3]


def test_a_request_that_kills_its_workers_fails_alone():
    workers = [Worker(), Worker()]
    requests = [*(request(i) for i in range(40)), POISON, *(request(i) for i in range(40, 80))]
    answers = ask(workers, requests)
    assert [r for r, a in zip(requests, answers, strict=True) if a.failed] == [POISON]
    assert sum(POISON in batch for w in workers for batch in w.batches) == MAX_ATTEMPTS


def test_one_worker_that_cannot_start_is_done_without():
    workers = [Worker(cannot_start=RuntimeError("no node")), Worker()]
    requests = [request(i) for i in range(10)]
    assert ask(workers, requests) == [answer(r) for r in requests]


def test_an_error_that_keeps_all_workers_from_starting_reaches_who_asked():
    error = ModelError("layer 'fc' has weights that are not finite")
    assert ask([Worker(cannot_start=error)], [request(0), request(1)]) == [error, error]
    (lost,) = ask([Worker(cannot_start=RuntimeError("no node"))], [request(0)])
    assert isinstance(lost, EvaluationError)
    assert str(lost) == "no worker is left: no node"


def test_a_fault_in_a_call_reaches_who_asked_and_no_one_else():
    class Faulty(Worker):
        async def measure(self, requests):
            if POISON in requests:
                raise KeyError("fault")
            return await super().measure(requests)

    first, second = ask([Faulty()], [POISON, request(0)])
    assert isinstance(first, KeyError)
    assert second == answer(request(0))
