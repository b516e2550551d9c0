"""The evaluation service of a study, and the one that measures in the driver's own process.

Trials and the driver bring requests to a pool. It looks in the ledger first, measures what is new,
records it, and charges each trial for all it asked. `ray_pool` has the one with many processes;
both give the same answers.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

from ..models.engine import EngineWarning
from ..models.threads import fixed_threads
from ..spaces import Measurement, Scores
from .desk import TrialDesk
from .evaluation import Worker
from .ledger import OwnWork, TrialRow
from .progress import ProgressCallback
from .record import Books, Record
from .requests import Request, held_networks
from .trials import Ground, Trial, run_trial
from .workload import Workload


class Pool(TrialDesk, Protocol):
    """What the driver runs a study with; it answers the driver's own requests, too."""

    def each(self, requests: Sequence[Request]) -> Iterator[Measurement]:
        """Yield answers in order, each as soon as it is there; nobody is charged."""
        ...

    def run(self, trials: Sequence[Trial], ground: Ground) -> None:
        """Run trials to their ends; one that fails leaves the others alone."""

    def keep_networks(self, digests: Collection[str]) -> None:
        """Delete all trained networks but these."""

    def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked."""
        ...

    def trials(self) -> list[TrialRow]:
        """Return how the trials went, in order."""
        ...

    def notes(self) -> list[str]:
        """Return what users should know of how was measured, each sentence once."""
        ...


class LocalPool:
    """A pool without processes: one trial after the other, one evaluation after the other.

    Args:
        workload: What is measured.
        record: The study's books.
        threads: Threads of torch, for evaluations and strategies.
        progress: Told after every answer of the search.
    """

    def __init__(
        self,
        workload: Workload,
        record: Record,
        *,
        threads: int = 1,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._workload = workload
        self._record = record
        self._threads = threads
        self._progress = progress
        self._worker: Worker | None = None

    def begin(self, trial: str) -> None:
        """Note that a trial starts."""
        self._record.begin(trial)

    def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""
        self._record.end(trial, wall_s, error, own)
        self._tell()

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        return self._record.scores(signature)

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""
        self._record.put_scores(scores)

    def checkpoint(self, trial: str, signature: str) -> bytes | None:
        """Return what a trial saved last, if it did so under this signature and never ended."""
        return self._record.checkpoint(trial, signature)

    def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before."""
        self._record.put_checkpoint(trial, signature, data)

    def evaluate(
        self,
        requests: Sequence[Request],
        trial: str | None = None,
        networks: Mapping[str, bytes] | None = None,
    ) -> list[Measurement]:
        """Answer requests in order, charged to a trial unless that is None."""
        self._record.put_networks(networks or {})
        if trial is not None:
            self._record.charge(trial, requests)
        answers = []
        for request in requests:
            answer = self._record.find(request) or self._measure(request)
            answers.append(answer)
            if trial is not None:
                self._record.answered(trial, answer)
                self._tell()
        return answers

    def each(self, requests: Sequence[Request]) -> Iterator[Measurement]:
        """Yield answers in order, each as soon as it is there; nobody is charged."""
        for request in requests:
            yield from self.evaluate([request])

    def run(self, trials: Sequence[Trial], ground: Ground) -> None:
        """Run trials to their ends, in order."""
        for trial in trials:
            with fixed_threads(self._threads):
                run_trial(trial, ground, self, self._workload)

    def keep_networks(self, digests: Collection[str]) -> None:
        """Delete all trained networks but these."""
        self._record.keep_networks(digests)

    def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked."""
        return self._record.history(trial)

    def trials(self) -> list[TrialRow]:
        """Return how the trials went, in order."""
        return self._record.trials()

    def notes(self) -> list[str]:
        """Return what users should know of how was measured, each sentence once."""
        return [] if self._worker is None else list(self._worker.notes)

    def _measure(self, request: Request) -> Measurement:
        if self._worker is None:
            self._worker = Worker(self._workload, self._threads)
            for note in self._worker.notes:
                warnings.warn(note, EngineWarning, stacklevel=2)
        held = held_networks([request], self._record.network)
        ((_, measurement),) = self._worker.measure([request], held)
        self._record.add(measurement)
        return measurement

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._record.progress())


@contextmanager
def local_pool(
    workload: Workload, books: Books, *, threads: int, progress: ProgressCallback | None = None
) -> Iterator[LocalPool]:
    """Open a pool in this process.

    Args:
        workload: What is measured.
        books: What to keep.
        threads: Threads of torch, for evaluations and strategies.
        progress: Told after every answer of the search.
    """
    with closing(Record(books)) as record:
        yield LocalPool(workload, record, threads=threads, progress=progress)
