"""Evaluations per hour against workers, from what was measured: a model on paper.

A worker takes ``evaluation_s`` for an evaluation and ``handling_s`` between two of them; the
coordinator takes ``coordinator_s`` of one CPU for every answer, one after another. Evaluations do
not depend on each other, and weights and images lie in the object store of every node once. So
``workers / (evaluation_s + handling_s)`` evaluations a second are made until the coordinator takes
no more, at ``1 / coordinator_s``. Where workers and coordinator share the cores of one machine,
``cores / (evaluation_s + handling_s + coordinator_s)`` is a limit, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .record import Record

WORKERS = (1, 2, 8, 32, 128, 512, 2048)
CASES = {"resnet20": 1000, "efficientnet_lite0": 300}
"""Images of an evaluation: those of the search split in the studies of these networks."""


@dataclass(frozen=True)
class Pool:
    """The constants of the model.

    Attributes:
        evaluation_s: Of one core.
        handling_s: Of a worker, between two evaluations.
        coordinator_s: Of the coordinator, for an answer.
    """

    evaluation_s: float
    handling_s: float
    coordinator_s: float

    def per_second(self, workers: int, cores: int | None = None) -> float:
        """Return the evaluations a second.

        Args:
            workers: Of one core each.
            cores: Of the one machine that all run on; None for as many as are wanted.
        """
        busy_s = self.evaluation_s + self.handling_s
        rates = [workers / busy_s, 1 / self.coordinator_s]
        if cores is not None:
            rates.append(cores / (busy_s + self.coordinator_s))
        return min(rates)

    @property
    def saturation(self) -> int:
        """The number of workers from which on more are of no use."""
        return round((self.evaluation_s + self.handling_s) / self.coordinator_s)


def is_possible(record: Record) -> bool:
    """Whether a record has all that the model is made of."""
    pool = ("two_workers_vs_one", "one_worker_per_s", "evaluation_ms", "coordinator_ms")
    needed = {f"pool.{name}" for name in pool}
    return needed | {f"engine.{name}.mixed_images_per_s" for name in CASES} <= set(record.entries)


def pool_of(record: Record, evaluation_s: float) -> Pool:
    """Return the constants of a record for evaluations of a given length."""
    entries = record.entries
    alone_s = 1 / entries["pool.one_worker_per_s"].amount
    handling_s = max(alone_s - entries["pool.evaluation_ms"].amount / 1000, 0.0)
    return Pool(evaluation_s, handling_s, entries["pool.coordinator_ms"].amount / 1000)


def markdown(record: Record) -> str:
    """Return the table of evaluations per hour, and the check of the model."""
    return "\n".join(_lines(record))


def _lines(record: Record) -> Iterator[str]:
    entries = record.entries
    pools = {
        name: pool_of(record, images / entries[f"engine.{name}.mixed_images_per_s"].amount)
        for name, images in CASES.items()
    }
    names = [f"{name}, {images:,} images" for name, images in CASES.items()]
    yield f"| workers | {' | '.join(names)} |"
    yield f"| ---: |{' ---: |' * len(names)}"
    for workers in WORKERS:
        rates = [f"{3600 * pool.per_second(workers):,.0f}" for pool in pools.values()]
        yield f"| {workers:,} | {' | '.join(rates)} |"
    yield f"| saturated from | {' | '.join(f'{p.saturation:,}' for p in pools.values())} |"
    measured = entries["pool.two_workers_vs_one"].amount
    check = pool_of(record, entries["pool.evaluation_ms"].amount / 1000)
    cores = int(record.machine["cores"])
    gain = check.per_second(2, cores) / check.per_second(1, cores)
    yield ""
    yield (
        f"Check, on the evaluations of `pool.two_workers_vs_one` "
        f"({1000 * check.evaluation_s:.0f} ms each) and {cores} cores: the model says that two "
        f"workers are {gain:.2f} times as fast as one; measured: {measured:.2f} times."
    )
