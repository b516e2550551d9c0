import asyncio
from collections import Counter
from dataclasses import replace

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
    """Answers one a turn of the loop; dies of poison, and at the end of calls it is told to.

    In a call that it dies of it answers all but the last request.
    """

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
        dies = len(self.batches) in self.dies_on
        for index, asked in enumerate(requests):
            await asyncio.sleep(0)
            if asked == POISON or (dies and index == len(requests) - 1):
                raise WorkerLostError
            yield index, answer(asked)


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


def test_a_request_that_brings_a_network_is_in_a_call_of_its_own():
    workers = [Worker()]
    requests = [request(i) for i in range(50)]
    requests[20:40] = [replace(r, network="ab" * 16) for r in requests[20:40]]
    assert ask(workers, requests) == [answer(r) for r in requests]
    batches = workers[0].batches
    assert all(len(batch) == 1 for batch in batches if any(r.network for r in batch))
    assert max(map(len, batches)) > 1


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


def test_what_a_worker_answered_before_it_was_lost_is_not_measured_again():
    worker = Worker(dies_on={1})
    requests = [request(i) for i in range(50)]
    assert ask([worker], requests) == [answer(r) for r in requests]
    first = worker.batches[0]
    assert len(first) == MAX_BATCH
    assert worker.batches[1] == first[-1:]
    times = Counter(r for batch in worker.batches for r in batch)
    assert [r for r in requests if times[r] > 1] == first[-1:]


def test_an_answer_arrives_while_the_worker_is_at_the_next():
    class Slow(Worker):
        def __init__(self):
            super().__init__()
            self.may_end = asyncio.Event()

        async def measure(self, requests):
            async for answered in super().measure(requests):
                yield answered
                if len(requests) > 1:
                    await self.may_end.wait()

    async def main():
        worker = Slow()
        dispatcher = Dispatcher([worker], lambda asked: failed(asked, ENERGY, "gave up"))
        dispatcher.start()
        asked = [asyncio.create_task(dispatcher.measure(request(i))) for i in range(5)]
        assert await asyncio.wait_for(asked[0], 5) == answer(request(0))
        assert len(worker.batches[0]) == 2
        assert not asked[1].done()
        worker.may_end.set()
        await asyncio.wait_for(asyncio.gather(*asked), 5)

    asyncio.run(main())


def test_a_worker_that_ends_without_an_answer_is_a_fault():
    class Forgetful(Worker):
        async def measure(self, requests):
            for index, asked in enumerate(requests[:-1]):
                yield index, answer(asked)

    (fault,) = ask([Forgetful()], [request(0)])
    assert isinstance(fault, EvaluationError)


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
            async for answered in super().measure(requests):
                yield answered

    first, second = ask([Faulty()], [POISON, request(0)])
    assert isinstance(first, KeyError)
    assert second == answer(request(0))
