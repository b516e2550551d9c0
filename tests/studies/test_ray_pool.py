import dataclasses
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, BitAllocation, BitSpace, ModelError, StudyError
from bitfront.studies.cluster import connected
from bitfront.studies.record import Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial
from bitfront.studies.workload import Workload

pytestmark = pytest.mark.slow

TRIAL = Trial(StrategySpec(name="random"), Budget(100), 0)


@pytest.fixture(scope="module")
def ray_started():
    """A local Ray for all tests here: starting one takes seconds."""
    with connected(None, cpus=2, store_bytes=2**24):
        yield


@pytest.fixture
def open_pool(ray_started, tiny_workload, tmp_path):
    from bitfront.studies.ray_pool import ray_pool

    def open_(workload=tiny_workload, *, workers=2, **options):
        books = Books(
            tmp_path, workload.digest, Pricing(workload.energy), (TRIAL,), DEFAULT_OBJECTIVES
        )
        return ray_pool(workload, books, workers=workers, **{"threads": 1, **options})

    return open_


@pytest.fixture
def requests(tiny_workload):
    space = BitSpace.build(tiny_workload.layers)
    rng = np.random.default_rng(0)
    return [Request(space.sample(rng)) for _ in range(40)]


def worker_processes():
    """Return the processes of the live worker actors; the public list wants Ray's dashboard."""
    from ray._private import state

    actors = state.actors().values()
    alive = (a for a in actors if a["ActorClassName"] == "_WorkerActor" and a["State"] == "ALIVE")
    return [actor["Pid"] for actor in alive]


def test_killed_workers_cost_no_answer_and_no_charge(open_pool, requests, tiny_workload):
    from bitfront.studies.evaluation import Worker

    with open_pool() as pool, ThreadPoolExecutor() as thread:
        answers = thread.submit(pool.evaluate, requests, TRIAL.id)
        while len(pool.history(TRIAL.id)) < 3:
            assert not answers.done()
        killed = worker_processes()
        for process in killed:
            os.kill(process, signal.SIGKILL)
        history = answers.result(timeout=60)
        assert pool.history(TRIAL.id) == history
        assert set(worker_processes()).isdisjoint(killed)
    expected = [measurement for _, measurement in Worker(tiny_workload).measure(requests)]
    assert [replace(m, wall_s=0.0) for m in history] == [replace(m, wall_s=0.0) for m in expected]


def test_killed_workers_get_the_networks_they_had_again(open_pool, tiny_workload):
    from bitfront.studies.evaluation import Worker
    from tests.searchers.trainers import trained_network

    networks = []
    for number in range(8):
        model = tiny_workload.float_model()
        model.fc1.bias.data += 0.1 * number
        allocation = BitAllocation.uniform(tiny_workload.layers, 4)
        networks.append(trained_network(model, tiny_workload.layers, allocation))
    requests = [Request(n.allocation, network=n.digest) for n in networks]
    held = {network.digest: network.to_bytes() for network in networks}
    with open_pool() as pool, ThreadPoolExecutor() as thread:
        answers = thread.submit(pool.evaluate, requests, TRIAL.id, held)
        while len(pool.history(TRIAL.id)) < 2:
            assert not answers.done()
        for process in worker_processes():
            os.kill(process, signal.SIGKILL)
        history = answers.result(timeout=60)
        tested = list(pool.each([replace(request, split="test") for request in requests[:2]]))
        (lost,) = pool.evaluate([replace(requests[0], network="ab" * 16)])
    expected = [measurement for _, measurement in Worker(tiny_workload).measure(requests, held)]
    assert [replace(m, wall_s=0.0) for m in history] == [replace(m, wall_s=0.0) for m in expected]
    assert [(m.network, m.samples, m.failed) for m in tested] == [
        (request.network, 50, False) for request in requests[:2]
    ]
    assert "is not in the study's folder any more" in lost.error


def test_workers_that_die_idle_come_back_ready(open_pool, requests):
    with open_pool() as pool:
        pool.evaluate(requests[:20])
        killed = worker_processes()
        for process in killed:
            os.kill(process, signal.SIGKILL)
        while len(set(worker_processes()) - set(killed)) < len(killed):
            time.sleep(0.1)
        time.sleep(1)  # until the coordinator has heard of the new processes
        assert not any(answer.failed for answer in pool.evaluate(requests))


def test_answers_come_one_by_one_in_order(open_pool, requests):
    with open_pool() as pool:
        answers = list(pool.each(requests[:6]))
        assert [answer.allocation for answer in answers] == [r.allocation for r in requests[:6]]
        assert pool.evaluate(requests[:6]) == answers
        assert pool.history(TRIAL.id) == []


def test_what_keeps_workers_from_starting_is_told_as_it_is(open_pool, requests, tiny_workload):
    name = next(name for name in tiny_workload.state if name.endswith("weight"))
    broken = {**tiny_workload.state, name: np.full_like(tiny_workload.state[name], np.nan)}
    with (
        pytest.raises(ModelError, match="has weights that are not finite") as raised,
        open_pool(replace(tiny_workload, state=broken)) as pool,
    ):
        list(pool.each(requests[:2]))
    assert "Traceback" not in str(raised.value)


def test_more_threads_than_any_node_has_is_refused(open_pool):
    with pytest.raises(StudyError, match="no node of the Ray cluster has more than 2 CPUs"):
        open_pool(threads=3).__enter__()


def test_more_of_a_gpu_than_any_node_has_is_refused(open_pool):
    with pytest.raises(StudyError, match=r"gpus_per_worker is 0\.5, .* more than 0 GPUs"):
        open_pool(gpus=0.5).__enter__()


class Branching(Workload):
    """A network whose control flow depends on values, which the integer engine cannot follow."""

    def float_model(self):
        model = super().float_model()
        whole = type(model)

        class Careful(whole):
            def forward(self, x):
                if not x.isfinite().all():
                    raise ValueError("not finite")
                return whole.forward(self, x)

        model.__class__ = Careful
        return model


def test_what_workers_note_is_a_warning_in_the_driver(open_pool, requests, tiny_workload):
    from ray import cloudpickle

    from bitfront.models.engine import EngineWarning

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    fields = {f.name: getattr(tiny_workload, f.name) for f in dataclasses.fields(tiny_workload)}
    with (
        pytest.warns(EngineWarning, match="the network is not traced") as warned,
        open_pool(Branching(**fields)) as pool,
    ):
        answers = list(pool.each(requests[:2]))
        (note,) = pool.notes()
    assert not any(answer.failed for answer in answers)
    assert [str(warning.message) for warning in warned] == [note]
