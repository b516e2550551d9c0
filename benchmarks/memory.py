"""Peak memory of a worker against that of the float network's own evaluation."""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bitfront.spaces import BitAllocation
from bitfront.studies.workload import Workload

from .cases import CASES, Loaded
from .record import Entry

REPEATS = 2
BATCHES = 2
ALLOCATIONS = 6
CACHE_BYTES = 256 * 2**20
"""The engine's bound on prepacked weights, by default."""


def measure(name: str) -> dict[str, Entry]:
    """Measure both in processes of their own, which are given the same weights and images.

    Args:
        name: Case.
    """
    loaded = Loaded(CASES[name])
    workload = loaded.workload(BATCHES * loaded.case.batch)
    allocations = [loaded.uniform, *loaded.allocations(ALLOCATIONS - 1)]
    fp32 = [_in_new_process(_evaluate_float, workload) for _ in range(REPEATS)]
    worker = [_in_new_process(_evaluate_allocations, workload, allocations) for _ in range(REPEATS)]
    mb = 2**20
    return {
        f"memory.{name}.fp32_mb": Entry.median_of([peak / mb for peak in fp32], "MiB"),
        f"memory.{name}.worker_mb": Entry.median_of([peak / mb for peak in worker], "MiB"),
        f"memory.{name}.vs_fp32": Entry.median_of(
            [ours / theirs for ours, theirs in zip(worker, fp32, strict=True)], "x"
        ),
        f"memory.{name}.of_allowance": Entry.median_of(
            [
                ours / (1.5 * theirs + CACHE_BYTES)
                for ours, theirs in zip(worker, fp32, strict=True)
            ],
            "x",
        ),
    }


def _in_new_process(function: Callable[..., int], *args: object) -> int:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def _evaluate_float(workload: Workload) -> int:
    import torch

    from bitfront.models.allocator import keep_freed_memory
    from bitfront.models.evaluate import evaluate

    keep_freed_memory()
    torch.set_num_threads(1)
    evaluate(workload.float_model(), workload.images["search"], workload.batch_size)
    return _peak_bytes()


def _evaluate_allocations(workload: Workload, allocations: list[BitAllocation]) -> int:
    from bitfront.models.allocator import keep_freed_memory
    from bitfront.studies.evaluation import Worker
    from bitfront.studies.requests import Request

    keep_freed_memory()
    worker = Worker(workload, threads=1)
    answers = worker.measure([Request(allocation) for allocation in allocations])
    failed = [measurement.error for _, measurement in answers if measurement.failed]
    assert not failed, failed
    return _peak_bytes()


def _peak_bytes() -> int:
    """Return the most memory this process has held.

    Of this program alone: ``getrusage`` also knows what the parent held when it started it.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))
