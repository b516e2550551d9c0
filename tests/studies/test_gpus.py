"""Workers that are granted a share of a GPU, on a Ray that believes in one."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, BitSpace, StudyError
from bitfront.studies.record import Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Ground, Trial

pytestmark = pytest.mark.slow

TRIAL = Trial(StrategySpec(name="random"), Budget(4), 0)
TRAINERS = Path(__file__).parent.parent / "searchers"


@pytest.fixture(scope="module")
def one_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TRAINERS))
        patch.syspath_prepend(TRAINERS)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def open_pool(one_gpu, tiny_workload, tmp_path):
    from bitfront.studies.ray_pool import ray_pool

    workload = replace(tiny_workload, engine="reference")
    workload = replace(workload, train=workload.images["search"])

    def open_(gpus, trials=(TRIAL,), **options):
        pricing = Pricing(workload.energy)
        books = Books(tmp_path, workload.digest, pricing, trials, DEFAULT_OBJECTIVES)
        return ray_pool(workload, books, workers=2, threads=1, gpus=gpus, **options)

    return open_


def test_more_of_a_gpu_than_any_node_has_is_refused(open_pool):
    with pytest.raises(StudyError, match=r"gpus_per_worker is 2, .* has more than 1 GPUs"):
        open_pool(2).__enter__()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a node without CUDA")
def test_a_node_whose_torch_has_no_cuda_is_named(open_pool, tiny_workload):
    request = Request(BitSpace.build(tiny_workload.layers).sample(np.random.default_rng(0)))
    with pytest.raises(StudyError, match=r"on the node .* finds no CUDA"), open_pool(0.5) as pool:
        list(pool.each([request]))


def test_workers_that_leave_nothing_for_a_trial_that_trains_are_refused(open_pool):
    training = Trial(StrategySpec(name="trainers:Stepping"), Budget(4), 0)
    with pytest.raises(StudyError, match=r"gpus_per_trial is 0\.5 and all workers .* have 1 GPUs"):
        open_pool(0.5, (training,), gpus_per_trial=0.5).__enter__()


def test_trials_that_train_have_their_share_and_others_none(open_pool, tiny_workload):
    names = ("trainers:Telling", "trainers:Asking")
    trials = tuple(Trial(StrategySpec(name=name), Budget(4), 0) for name in names)
    space = BitSpace.build(tiny_workload.layers, weights=[4, 8], activations=[4, 8])
    with open_pool(0, trials, gpus_per_trial=0.5) as pool:
        (baseline,) = pool.evaluate([Request(space.uniform(8))])
        ground = Ground(space, Pricing(tiny_workload.energy), DEFAULT_OBJECTIVES, baseline, "t")
        pool.run(trials, ground)
        rows = pool.trials()
    assert [row.error for row in rows] == [None, None]
    assert [row.own.findings["gpus"] for row in rows] == ["0", None]


def free_gpus(expected):
    """Free GPUs once they are as many as expected, or after a minute."""
    deadline = time.monotonic() + 60
    while (free := ray.available_resources().get("GPU", 0)) != expected:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return free


def test_two_workers_with_half_a_gpu_each_have_all_of_it(open_pool):
    assert free_gpus(1) == 1
    with open_pool(0.5):
        assert free_gpus(0) == 0
