"""A pool on a cluster of several nodes, all of them on this machine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, BitSpace
from bitfront.studies.cluster import connected
from bitfront.studies.record import Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial

pytestmark = pytest.mark.slow

TRIAL = Trial(StrategySpec(name="random"), Budget(40), 0)
STORE_BYTES = 2**27


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two nodes with one CPU each; the driver is at home on the first."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        yield cluster, cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    finally:
        cluster.shutdown()


@pytest.fixture
def workload(tiny_workload):
    """Enough images for an evaluation to take a tenth of a second."""
    images = tiny_workload.images["search"]
    many = images.subset(np.resize(np.arange(len(images)), 4000))
    return replace(tiny_workload, images={**tiny_workload.images, "search": many})


def nodes_of_workers():
    """Return the nodes of the live worker actors; the public list wants Ray's dashboard."""
    from ray._private import state

    actors = state.actors().values()
    alive = (a for a in actors if a["ActorClassName"] == "_WorkerActor" and a["State"] == "ALIVE")
    return {actor["Address"]["NodeID"] for actor in alive}


def test_a_node_that_leaves_takes_no_evaluation_with_it(cluster, workload, tmp_path):
    from bitfront.studies.evaluation import Worker
    from bitfront.studies.ray_pool import ray_pool

    nodes, second = cluster
    space, rng = BitSpace.build(workload.layers), np.random.default_rng(0)
    requests = [Request(space.sample(rng)) for _ in range(40)]
    books = Books(tmp_path, workload.digest, Pricing(workload.energy), (TRIAL,), DEFAULT_OBJECTIVES)
    with (
        connected(nodes.address, cpus=2, store_bytes=STORE_BYTES),
        ray_pool(workload, books, workers=2, threads=1) as pool,
        ThreadPoolExecutor() as thread,
    ):
        answers = thread.submit(pool.evaluate, requests, TRIAL.id)
        while len(pool.history(TRIAL.id)) < 5 or len(nodes_of_workers()) < 2:
            assert not answers.done(), answers.exception()
        assert second.node_id in nodes_of_workers()
        nodes.remove_node(second, allow_graceful=False)
        history = answers.result(timeout=60)
        assert pool.history(TRIAL.id) == history
    expected = [answer for _, answer in Worker(workload).measure(requests)]
    assert [replace(m, wall_s=0.0) for m in history] == [replace(m, wall_s=0.0) for m in expected]
