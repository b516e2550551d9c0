"""Handing requests to workers that may die, each answered once; plain asyncio, without Ray."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..spaces import EvaluationError, Measurement
from .requests import Request

MAX_BATCH = 16
"""Most requests in one call: those that can share work, and the most a lost worker loses."""

MAX_ATTEMPTS = 3
"""After so many lost workers a request is taken for what kills them."""


class WorkerLostError(Exception):
    """The worker died with the requests it had; another may answer them."""


class AsyncWorker(Protocol):
    """What measures, elsewhere."""

    async def ready(self) -> None:
        """Return once it can measure; called first, and again after every loss."""

    def measure(self, requests: Sequence[Request]) -> AsyncIterator[tuple[int, Measurement]]:
        """Yield the measurement of every request with its index, each as soon as it is there.

        Raises:
            WorkerLostError: If it died meanwhile; what it yielded before counts.
        """
        ...


@dataclass
class _Job:
    request: Request
    answer: "asyncio.Future[Measurement]"
    attempts: int = 0


class Dispatcher:
    """Keeps workers busy with what is asked.

    Requests go to whoever is free, several at once while many are waiting. Those that a lost worker
    had not answered go back to the head of the queue and are tried one at a time, so that a request
    that kills its worker takes no other with it.

    Args:
        workers: Who measures.
        give_up: Makes the answer to a request that lost `MAX_ATTEMPTS` workers.
    """

    def __init__(
        self, workers: Sequence[AsyncWorker], give_up: Callable[[Request], Measurement]
    ) -> None:
        self._workers = workers
        self._give_up = give_up
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._broken: Exception | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Let the workers begin; needs a running event loop."""
        self._serving = {asyncio.create_task(self._serve(worker)) for worker in self._workers}

    async def measure(self, request: Request) -> Measurement:
        """Return the measurement of a request.

        Raises:
            EvaluationError: If no worker can measure at all.
        """
        if self._broken is not None:
            raise self._broken
        job = _Job(request, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return await job.answer

    async def _serve(self, worker: AsyncWorker) -> None:
        try:
            await worker.ready()
            while True:
                jobs = await self._take()
                try:
                    async for index, answer in worker.measure([job.request for job in jobs]):
                        _resolve(jobs[index], answer)
                except WorkerLostError:
                    self._put_back([job for job in jobs if not job.answer.done()])
                    await worker.ready()
                except Exception as error:  # a fault of ours; those who asked must hear of it
                    _fail(jobs, error)
                else:
                    _fail(jobs, EvaluationError("the worker ended without an answer"))
        except Exception as error:  # it cannot be made ready
            self._retire(asyncio.current_task(), error)

    async def _take(self) -> list[_Job]:
        """Wait for work; return one job, or a share of many so that every worker has some."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        jobs = [self._waiting.popleft()]
        share = min(MAX_BATCH, len(self._waiting) // (2 * max(1, len(self._serving))))
        while len(jobs) < share and _fits(jobs[0]) and _fits(self._waiting[0]):
            jobs.append(self._waiting.popleft())
        return jobs

    def _put_back(self, jobs: Sequence[_Job]) -> None:
        for job in reversed(jobs):
            job.attempts += 1
            if job.attempts < MAX_ATTEMPTS:
                self._waiting.appendleft(job)
            else:
                _resolve(job, self._give_up(job.request))
        self._arrived.set()

    def _retire(self, task: "asyncio.Task[None] | None", error: Exception) -> None:
        self._serving = {serving for serving in self._serving if serving is not task}
        if not self._serving:
            is_ours = isinstance(error, ValueError)
            self._broken = error if is_ours else EvaluationError(f"no worker is left: {error}")
            _fail(self._waiting, self._broken)
            self._waiting.clear()


def _fits(job: _Job) -> bool:
    """Whether a job may be in a call with others: none that lost a worker or brings a network."""
    return job.attempts == 0 and not job.request.network


def _resolve(job: _Job, answer: Measurement) -> None:
    if not job.answer.done():  # who asked may have gone away
        job.answer.set_result(answer)


def _fail(jobs: Iterable[_Job], error: Exception) -> None:
    """Tell those who have no answer yet that there will be none."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
