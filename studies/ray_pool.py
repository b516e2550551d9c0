"""The evaluation service of a study, as Ray actors.

One coordinator on the driver's node keeps the books and hands out the work; trials, which run
anywhere, and the driver ask it. Workers hold the network; they take weights and images from the
object store, where a node has them once.
"""

import asyncio
import platform
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..spaces import Measurement, Scores, StudyError
from .cluster import connected
from .dispatch import MAX_ATTEMPTS, Dispatcher, WorkerLostError
from .ledger import OwnWork, TrialRow
from .progress import ProgressCallback, ProgressEvent
from .record import Books, Record
from .requests import Request, failed, held_networks
from .trials import Ground, Trial, saved_work

if TYPE_CHECKING:  # torch stays out of processes that hold no network
    from torch import nn

    from ..models.images import ImageSet
    from ..models.quantized import QuantizedModel
    from .evaluation import Worker
    from .workload import Workload

TRIALS_FOLDER = "trials"

_LOST = (RayActorError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""What is raised for a worker, or an answer of it, that is gone with its process or node."""

_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Before a lost worker is tried again. Until Ray takes a node for dead, which may be a minute after
it left, it sends calls there instead of starting the worker elsewhere."""

_CALLS_AT_ONCE = 10_000
"""Of the coordinator: one for every trial, and one from the driver."""


class _WorkerActor:
    """Measures requests in a process of its own."""

    def __init__(self, workload: "Workload", threads: int, gpus: float) -> None:
        self._workload = workload
        self._threads = threads
        self._device = "cuda" if gpus > 0 else "cpu"
        self._worker: Worker | None = None

    def prepare(self) -> tuple[str, ...]:
        """Build and calibrate the network; apart from the constructor, so that errors travel.

        Returns:
            What a user should know of this worker.
        """
        import torch

        from ..models.allocator import keep_freed_memory
        from .evaluation import Worker

        if self._device == "cuda" and not torch.cuda.is_available():
            raise StudyError(
                f"execution.gpus_per_worker is above 0, and PyTorch {torch.__version__} on the "
                f"node {platform.node()} finds no CUDA; install a build with CUDA there, or remove "
                f"the key"
            )
        keep_freed_memory()
        self._worker = Worker(self._workload, self._threads, self._device)
        return self._worker.notes

    def _prepared(self) -> "Worker":
        if self._worker is None:  # the process is new, and nobody knew that the old one was gone
            self.prepare()
        assert self._worker is not None
        return self._worker

    def measure(self, requests: Sequence[Request]) -> Iterator[tuple[int, Measurement]]:
        """Yield measurements with the indices of their requests; Ray streams what is yielded."""
        for answered in self._prepared().measure(requests):  # noqa: UP028 - Ray sends into it
            yield answered

    def measure_one(self, request: Request, networks: Mapping[str, bytes]) -> Measurement:
        """Return the measurement of a request: one answer comes faster than a stream of one."""
        ((_, measurement),) = self._prepared().measure([request], networks)
        return measurement


class _RemoteWorker:
    """A worker actor as the dispatcher sees it.

    Args:
        actor: The actor.
        note: Told what a user should know.
        network: Returns the trained network of a digest, or None.
    """

    def __init__(
        self, actor: Any, note: Callable[[str], None], network: Callable[[str], bytes | None]
    ) -> None:
        self._actor = actor
        self._note = note
        self._network = network

    async def ready(self) -> None:
        """Return once the actor runs, for the first time or again, and has its network."""
        for pause_s in (*_PAUSES_S, None):
            try:
                notes = await self._actor.prepare.remote()
            except RayTaskError as error:
                raise error.cause from None
            except _LOST:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
            else:
                for note in notes:
                    self._note(note)
                return

    async def measure(self, requests: Sequence[Request]) -> AsyncIterator[tuple[int, Measurement]]:
        """Yield measurements as they are there, or say that the actor is lost."""
        try:
            if len(requests) == 1:  # as all that are for a trained network
                held = held_networks(requests, self._network)
                yield 0, await self._actor.measure_one.remote(requests[0], held)
                return
            async for reference in self._actor.measure.remote(requests):
                yield await reference
        except _LOST as error:
            raise WorkerLostError from error
        except RayTaskError as error:
            raise error.cause from None


class _Coordinator:
    """Keeps the books of a study and hands its requests to the workers; an asyncio actor.

    Args:
        books: What to keep.
        workload: Reference to the workload, in a list so that Ray does not fetch it here.
        workers: How many.
        threads: CPUs and threads of torch of each.
        gpus: Share of a GPU of each.
    """

    def __init__(
        self, books: Books, workload: list[Any], workers: int, threads: int, gpus: float
    ) -> None:
        energy = books.pricing.energy
        self._record = Record(books)
        self._notes: dict[str, None] = {}
        # Ray sets OMP_NUM_THREADS to the CPUs of an actor. Workers are bound to no cores: two that
        # are get no more done, and one that is cannot move away from whoever else takes its core.
        actor = ray.remote(_WorkerActor).options(num_cpus=threads, num_gpus=gpus, max_restarts=-1)
        self._dispatcher = Dispatcher(
            [
                _RemoteWorker(
                    actor.remote(workload[0], threads, gpus), self._note, self._record.network
                )
                for _ in range(workers)
            ],
            lambda request: failed(request, energy, f"lost its worker {MAX_ATTEMPTS} times"),
        )
        self._measuring: dict[Request, asyncio.Task[Measurement]] = {}

    async def start(self) -> None:
        """Let the workers begin."""
        self._dispatcher.start()

    def _note(self, note: str) -> None:
        self._notes[note] = None

    async def notes(self) -> list[str]:
        """Return what users should know of the workers, each sentence once."""
        return list(self._notes)

    async def evaluate(
        self,
        requests: Sequence[Request],
        trial: str | None = None,
        networks: Mapping[str, bytes] | None = None,
    ) -> list[Measurement]:
        """Answer requests in order, charged to a trial unless that is None."""
        self._record.put_networks(networks or {})
        if trial is not None:
            self._record.charge(trial, requests)
        return await asyncio.gather(*(self._answer(request, trial) for request in requests))

    async def _answer(self, request: Request, trial: str | None) -> Measurement:
        answer = self._record.find(request)
        if answer is None:
            # Who asks for what is being measured waits for it, and whoever goes away while waiting
            # takes nothing from the others.
            if request not in self._measuring:
                self._measuring[request] = asyncio.create_task(self._measure(request))
            answer = await asyncio.shield(self._measuring[request])
        if trial is not None:
            self._record.answered(trial, answer)
        return answer

    async def _measure(self, request: Request) -> Measurement:
        try:
            measurement = await self._dispatcher.measure(request)
            self._record.add(measurement)
            return measurement
        finally:
            del self._measuring[request]

    async def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""
        self._record.begin(trial)

    async def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""
        self._record.end(trial, wall_s, error, own)

    async def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        return self._record.scores(signature)

    async def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""
        self._record.put_scores(scores)

    async def checkpoint(self, trial: str, signature: str) -> bytes | None:
        """Return what a trial saved last, if it did so under this signature and never ended."""
        return self._record.checkpoint(trial, signature)

    async def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before."""
        self._record.put_checkpoint(trial, signature, data)

    async def progress(self) -> ProgressEvent:
        """Return where the search stands."""
        return self._record.progress()

    async def keep_networks(self, digests: Collection[str]) -> None:
        """Delete all trained networks but these."""
        self._record.keep_networks(digests)

    async def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked."""
        return self._record.history(trial)

    async def trials(self) -> list[TrialRow]:
        """Return how the trials went, in order."""
        return self._record.trials()

    async def close(self) -> None:
        """Close the books."""
        self._record.close()


@dataclass(frozen=True)
class RemoteDesk:
    """Brings requests to the coordinator, from any process.

    What a trial saves is on its way while the trial goes on. The next that it saves, and its end,
    wait until it has arrived: calls of an actor may overtake each other.
    """

    coordinator: Any
    _saving: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""
        _get(self.coordinator.begin.remote(trial))

    def evaluate(
        self,
        requests: Sequence[Request],
        trial: str | None = None,
        networks: Mapping[str, bytes] | None = None,
    ) -> list[Measurement]:
        """Answer requests in order, charged to a trial unless that is None."""
        sent = self.coordinator.evaluate.remote(list(requests), trial, networks)
        answers: list[Measurement] = _get(sent)
        return answers

    def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""
        self._arrived(trial)
        _get(self.coordinator.end.remote(trial, wall_s, error, own))

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        found: Scores | None = _get(self.coordinator.scores.remote(signature))
        return found

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""
        _get(self.coordinator.put_scores.remote(scores))

    def checkpoint(self, trial: str, signature: str) -> bytes | None:
        """Return what a trial saved last, if it did so under this signature and never ended."""
        found: bytes | None = _get(self.coordinator.checkpoint.remote(trial, signature))
        return found

    def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Send what a trial saves, to be kept in place of what it saved before."""
        self._arrived(trial)
        sent = self.coordinator.put_checkpoint.remote(trial, signature, data)
        self._saving[trial] = sent

    def _arrived(self, trial: str) -> None:
        """Wait until what a trial saved last is kept; raise what kept it from being."""
        if (sent := self._saving.pop(trial, None)) is not None:
            _get(sent)


@dataclass(frozen=True)
class RemoteNetwork:
    """The network of a study, fetched from the object store by the strategies that want it.

    Attributes:
        workload: Reference to the workload, in a list so that it travels as a reference.
        threads: Threads of torch of the process that fetches it.
        device: Where a strategy is to train.
    """

    workload: list[Any]
    threads: int
    device: str

    @property
    def digest(self) -> str:
        """A name of the network with its weights, its quantizers and the images."""
        return self._fetch().digest

    def quantized_model(self) -> "QuantizedModel":
        """Return a fresh, calibrated copy of the network."""
        return self._fetch().quantized_model()

    def calibration(self) -> Any:
        """Return the calibration set as batches of images and labels."""
        return self._fetch().calibration()

    def float_model(self, initial: bool = False) -> "nn.Module":
        """Return a fresh copy of the float network; with its initial weights if asked."""
        return self._fetch().float_model(initial)

    def training(self) -> "ImageSet":
        """Return the images to train on."""
        return self._fetch().training()

    def _fetch(self) -> "Workload":
        import torch

        from ..models.allocator import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(self.threads)  # for good: the strategy computes after this, too
        workload: Workload = ray.get(self.workload[0])
        return workload


@dataclass(frozen=True)
class RayPool(RemoteDesk):
    """A pool of worker processes; made by `ray_pool`.

    Attributes:
        network: What strategies get that look into the network.
        folder: Where Tune keeps its files.
        at_once: Trials that run at the same time.
        gpus_per_trial: Share of a GPU of each trial that trains.
        progress: Told of the search a few times a second.
        warned: What the user was warned of.
    """

    network: RemoteNetwork
    folder: Path
    at_once: int
    gpus_per_trial: float
    progress: ProgressCallback | None
    warned: set[str] = field(default_factory=set)

    def each(self, requests: Sequence[Request]) -> Iterator[Measurement]:
        """Yield answers in order, each as soon as it is there; nobody is charged."""
        for answers in [self.coordinator.evaluate.remote([request]) for request in requests]:
            yield from _get(answers)
        self.warn()

    def warn(self) -> None:
        """Warn of what workers have noted since the last time."""
        from ..models.engine import EngineWarning

        for note in self.notes():
            if note not in self.warned:
                self.warned.add(note)
                warnings.warn(note, EngineWarning, stacklevel=2)

    def run(self, trials: Sequence[Trial], ground: Ground) -> None:
        """Run trials to their ends; one that fails leaves the others alone."""
        from .tune_trials import run_tune_trials

        died = run_tune_trials(
            trials,
            ground,
            RemoteDesk(self.coordinator),
            self.network,
            folder=self.folder,
            at_once=self.at_once,
            gpus=self.gpus_per_trial,
            look=self._look,
        )
        ran = {trial.id: trial for trial in trials}
        for row in self.trials():
            if row.state not in ("done", "failed"):
                saved = self.checkpoint(row.id, ground.signature(ran[row.id]))
                wall_s, own = saved_work(saved)
                self.end(row.id, wall_s, f"its process died: {died}", own)
        self._look()

    def keep_networks(self, digests: Collection[str]) -> None:
        """Delete all trained networks but these."""
        _get(self.coordinator.keep_networks.remote(digests))

    def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked."""
        answers: list[Measurement] = _get(self.coordinator.history.remote(trial))
        return answers

    def trials(self) -> list[TrialRow]:
        """Return how the trials went, in order."""
        rows: list[TrialRow] = _get(self.coordinator.trials.remote())
        return rows

    def notes(self) -> list[str]:
        """Return what users should know of how was measured, each sentence once."""
        said: list[str] = _get(self.coordinator.notes.remote())
        return said

    def _look(self) -> None:
        if self.progress is not None:
            self.progress(_get(self.coordinator.progress.remote()))


@contextmanager
def ray_pool(
    workload: "Workload",
    books: Books,
    *,
    workers: int,
    threads: int,
    gpus: float = 0.0,
    gpus_per_trial: float = 0.0,
    address: str | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[RayPool]:
    """Open a pool of worker processes, on this machine or on a cluster.

    Args:
        workload: What is measured.
        books: What the coordinator keeps.
        workers: Worker processes.
        threads: CPUs and threads of torch of each.
        gpus: Share of a GPU of each, at most 1; 0 measures on CPUs.
        gpus_per_trial: Share of a GPU of each trial that trains, at most 1; 0 trains on CPUs.
        address: A running cluster; None starts one on this machine, and stops it at the end.
        progress: Told of the search a few times a second.

    Raises:
        StudyError: If the cluster cannot be reached, or has not that many CPUs and GPUs.
    """
    with connected(address, cpus=workers * threads, store_bytes=2 * workload.size_bytes):
        _require("threads_per_worker", threads, "CPU")
        _require("gpus_per_worker", gpus, "GPU")
        if any(trial.trains for trial in books.trials):
            _require("gpus_per_trial", gpus_per_trial, "GPU")
            _require_gpus_beside(workers * gpus, gpus_per_trial)
        shared = [ray.put(workload)]
        here = ray.get_runtime_context().get_node_id()
        coordinator: Any = (
            ray.remote(_Coordinator)
            .options(
                num_cpus=0,
                max_concurrency=_CALLS_AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
            )
            .remote(books, shared, workers, threads, gpus)
        )
        network = RemoteNetwork(shared, threads, "cuda" if gpus_per_trial > 0 else "cpu")
        try:
            _get(coordinator.start.remote())
            folder, at_once = books.folder / TRIALS_FOLDER, trials_at_once(books.trials, workers)
            pool = RayPool(coordinator, network, folder, at_once, gpus_per_trial, progress)
            yield pool
            pool.warn()
            _get(coordinator.close.remote())
        finally:
            ray.kill(coordinator)  # and with it the workers, which are its own


def trials_at_once(trials: Sequence[Trial], workers: int) -> int:
    """Return how many trials of a study run at the same time.

    Trials that only ask are at least two, so that one can think while another is answered. One that
    trains keeps as many threads busy as a worker does, and workers have little to do meanwhile.
    """
    return workers if any(trial.trains for trial in trials) else max(2, workers)


def _require(key: str, amount: float, resource: str) -> None:
    """Check that some node has what every worker needs."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    most = max(node["Resources"].get(resource, 0) for node in nodes if node["Alive"])
    if most < amount:
        raise StudyError(
            f"execution.{key} is {amount:g}, and no node of the Ray cluster has more than "
            f"{most:g} {resource}s"
        )


def _require_gpus_beside(workers_gpus: float, trial_gpus: float) -> None:
    """Check that workers leave what a trial that trains needs: it would wait for ever."""
    total = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if trial_gpus > 0 and workers_gpus + trial_gpus > total + 1e-6:
        raise StudyError(
            f"execution.gpus_per_trial is {trial_gpus:g} and all workers together have "
            f"{workers_gpus:g} GPUs, which is more than the {total:g} of the Ray cluster; lower "
            f"'workers', 'gpus_per_worker' or 'gpus_per_trial'"
        )


def _get(reference: Any) -> Any:
    """Return a result, or raise what was raised where it was computed, without Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
