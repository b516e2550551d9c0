"""What the pool adds to an evaluation, and what a second worker gains."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray

from bitfront.energy import EnergyModel, load_table
from bitfront.models.config import DataConfig, QuantizerConfig
from bitfront.models.data import load_data
from bitfront.models.profile import profile
from bitfront.searchers import Budget, Pricing
from bitfront.spaces import DEFAULT_OBJECTIVES, BitSpace
from bitfront.studies.ray_pool import RayPool, ray_pool
from bitfront.studies.record import Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial
from bitfront.studies.workload import Architecture, Workload

from .cases import CASES, Loaded
from .record import Entry

WARM_UP = 20
REQUESTS = 200
MANY = 500
IMAGES = 384
SEARCH = 64
SEARCHES = 4
POOLS = 2


def overhead() -> dict[str, Entry]:
    """Measure requests one at a time: the time to the answer, less what the measurement took."""
    workload = _tiny_workload()
    space, rng = BitSpace.build(workload.layers), np.random.default_rng(0)
    found = []
    with _opened(workload, workers=1, requests=WARM_UP + REQUESTS) as (pool, trial):
        for _ in range(WARM_UP + REQUESTS):
            started = time.perf_counter()
            (measurement,) = pool.evaluate([Request(space.sample(rng))], trial)
            found.append(1000 * (time.perf_counter() - started - measurement.wall_s))
    return {"pool.overhead_ms": Entry.median_of(found[WARM_UP:], "ms")}


def saturation() -> dict[str, Entry]:
    """Measure the pool with hardly any work behind an answer: what the coordinator can take."""
    workload = _tiny_workload()
    space, rng = BitSpace.build(workload.layers), np.random.default_rng(0)
    rates, cpu_ms = [], []
    with _opened(workload, workers=2, requests=MANY * (1 + SEARCHES)) as (pool, trial):
        for number in range(1 + SEARCHES):
            requests = [Request(space.sample(rng), fidelity=1 / 32) for _ in range(MANY)]
            cpu_before, started = _cpu_s(pool), time.perf_counter()
            pool.evaluate(requests, trial)
            if number > 0:  # the first waits for the workers
                rates.append(MANY / (time.perf_counter() - started))
                cpu_ms.append(1000 * (_cpu_s(pool) - cpu_before) / MANY)
    return {
        "pool.answers_per_s": Entry.median_of(rates, "/s", note="2 workers, 1 image"),
        "pool.coordinator_ms": Entry.median_of(cpu_ms, "ms", note=f"{MANY} asked at once"),
    }


def two_workers() -> dict[str, Entry]:
    """Compare the evaluations a second of two workers with those of one, pools taking turns.

    Random allocations of a ResNet-20, as many at once as a generation of a search has.
    """
    workload = Loaded(CASES["resnet20"]).workload(IMAGES)
    space, rng = BitSpace.build(workload.layers), np.random.default_rng(0)
    rates: dict[int, list[float]] = {1: [], 2: []}
    alone_ms: list[float] = []
    for _ in range(POOLS):
        for workers, found in rates.items():
            asked = SEARCH * (1 + SEARCHES)
            with _opened(workload, workers, asked) as (pool, trial):
                for number in range(1 + SEARCHES):
                    requests = [Request(space.sample(rng)) for _ in range(SEARCH)]
                    started = time.perf_counter()
                    answers = pool.evaluate(requests, trial)
                    assert not any(answer.failed for answer in answers)
                    if number > 0:  # the first waits for the workers
                        found.append(SEARCH / (time.perf_counter() - started))
                        if workers == 1:
                            alone_ms += [1000 * answer.wall_s for answer in answers]
    one = statistics.median(rates[1])
    note = f"{SEARCH} allocations at once, {IMAGES} images"
    return {
        "pool.two_workers_vs_one": Entry.median_of(
            [rate / one for rate in rates[2]], "x", note=note
        ),
        "pool.evaluation_ms": Entry.median_of(alone_ms, "ms", note=note),
        "pool.one_worker_per_s": Entry.median_of(rates[1], "/s", note=note),
        "pool.two_workers_per_s": Entry.median_of(rates[2], "/s", note=note),
    }


def _cpu_s(pool: RayPool) -> float:
    """Return the CPU time of the coordinator's process so far."""
    seconds: float = ray.get(pool.coordinator.__ray_call__.remote(lambda _: time.process_time()))
    return seconds


@contextmanager
def _opened(workload: Workload, workers: int, requests: int) -> Iterator[tuple[RayPool, str]]:
    trial = Trial(StrategySpec(name="random"), Budget(requests), 0)
    with tempfile.TemporaryDirectory() as folder:
        pricing = Pricing(workload.energy)
        books = Books(Path(folder), workload.digest, pricing, (trial,), DEFAULT_OBJECTIVES)
        with ray_pool(workload, books, workers=workers, threads=1) as pool:
            yield pool, trial.id


def _tiny_workload() -> Workload:
    splits = load_data(DataConfig(calibration_images=32, search_images=32, test_images=32))
    architecture = Architecture("cnn5", splits.classes, splits.input_shape, {}, 0)
    model = architecture.build()
    energy = EnergyModel(load_table("horowitz-45nm"), profile(model, splits.input_shape))
    return Workload.of(
        model, architecture, splits, energy, quantizer=QuantizerConfig(), batch_size=32
    )
