"""What the pool adds to an evaluation: requests one at a time, through Ray and the ledger.

    python benchmarks/pool.py

Prints JSON: milliseconds from asking to answer, less those the measurement took where it ran.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bitfront.energy import EnergyModel, load_table
from bitfront.models.config import DataConfig, QuantizerConfig
from bitfront.models.data import load_data
from bitfront.models.profile import profile
from bitfront.searchers import Budget
from bitfront.spaces import DEFAULT_OBJECTIVES, BitSpace
from bitfront.studies.ray_pool import ray_pool
from bitfront.studies.record import Books
from bitfront.studies.requests import Request
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Trial
from bitfront.studies.workload import Architecture, Workload

REQUESTS = 200
WARM_UP = 20


def tiny_workload() -> Workload:
    splits = load_data(DataConfig(calibration_images=32, search_images=32, test_images=32))
    architecture = Architecture("cnn5", splits.classes, splits.input_shape, {}, 0)
    model = architecture.build()
    energy = EnergyModel(load_table("horowitz-45nm"), profile(model, splits.input_shape))
    return Workload.of(
        model, architecture, splits, energy, quantizer=QuantizerConfig(), batch_size=32
    )


def overheads_ms(workers: int) -> list[float]:
    workload = tiny_workload()
    space = BitSpace.build(workload.layers)
    rng = np.random.default_rng(0)
    trial = Trial(StrategySpec(name="random"), Budget(REQUESTS), 0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder), workload.digest, workload.energy, (trial,), DEFAULT_OBJECTIVES)
        with ray_pool(workload, books, workers=workers, threads=1) as pool:
            for _ in range(WARM_UP + REQUESTS):
                started = time.perf_counter()
                (measurement,) = pool.evaluate([Request(space.sample(rng))], trial.id)
                elapsed_s = time.perf_counter() - started
                found.append(1000 * (elapsed_s - measurement.wall_s))
    return found[WARM_UP:]


def main() -> None:
    values = overheads_ms(workers=1)
    lower, _, upper = statistics.quantiles(values, n=4)
    print(
        json.dumps(
            {
                "pool.overhead_ms": round(statistics.median(values), 3),
                "pool.overhead_ms.quartiles": [round(lower, 3), round(upper, 3)],
                "pool.overhead_ms.n": len(values),
            }
        )
    )


if __name__ == "__main__":
    main()
