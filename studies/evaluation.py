"""Measuring allocations: the one place where accuracies come from."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch

from ..models.adaptation.batch_norm import BatchNorms
from ..models.adaptation.fine_tune import fine_tune
from ..models.dynamic.network import DynamicNetwork
from ..models.engine import Engine, EngineWarning, NonFiniteError
from ..models.evaluate import Counts, evaluate, evaluate_each, first_nonfinite
from ..models.quantized import QuantizedModel
from ..models.quantizers import CONTAINER_BITS
from ..models.reconstruct import reconstruct
from ..models.threads import fixed_threads
from ..spaces import BitAllocation, BitfrontError, Measurement, Split
from .adapting import images_passed, is_adapted
from .choosing import Choosing, Setting
from .deployed import Network, deployed, handed_over
from .memory import is_out_of_memory
from .requests import Request, failed, measured
from .workload import Workload

_EXAMPLE_IMAGES = 8
"""Most images on which the integer engine compares itself with the reference."""


class Worker:
    """Measures requests on one quantized network, which it builds and calibrates once.

    Allocations that the network is adapted to before they are measured, finalists that are
    reconstructed, and trained networks are measured alone. Where weights are learned that is on a
    copy of their own.

    Its answers depend on the workload, the request and the number of threads, not on what it
    measured before nor with what else nor on where it runs: any number of workers gives the same
    results. The exception is a request for which memory runs out, which is measured in batches of
    half the size.

    Args:
        workload: What is measured.
        threads: Threads of torch, in every call.
        device: Where the reference runs; the integer engine runs on the CPU.

    Attributes:
        notes: What a user should know of how this worker measures, a sentence each.
    """

    def __init__(self, workload: Workload, threads: int = 1, device: str = "cpu") -> None:
        self._workload = workload
        self._threads = threads
        self._device = device
        self._engine: Engine | None = None
        self._networks: Mapping[str, bytes] = {}
        self._value: tuple[tuple[str, BitAllocation], Network] | None = None
        self._deployed: tuple[str, QuantizedModel, Engine | None] | None = None
        self._choosing = Choosing(workload)
        self.notes: tuple[str, ...] = ()
        with fixed_threads(threads):
            if device != "cpu":
                _require_exact_products()
            self._model = workload.quantized_model()
            if workload.engine == "integer":
                self._engine, self.notes = _integer_engine(self._model, workload)
            else:
                self._model.to(device)

    def measure(
        self, requests: Sequence[Request], networks: Mapping[str, bytes] | None = None
    ) -> Iterator[tuple[int, Measurement]]:
        """Yield the measurement of every request with its index, each as soon as it is there.

        What cannot be measured comes back as a measurement that `Measurement.failed`.

        Args:
            requests: What to measure.
            networks: The trained networks that requests are for, by their digests.
        """
        self._networks = networks or {}
        for group in self._groups(requests):
            with fixed_threads(self._threads):  # not while whoever takes the answers computes
                answers = self._measure([requests[index] for index in group])
            yield from zip(group, answers, strict=True)

    def _groups(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Yield which requests to measure together: same images, and network layers in common."""
        alike: dict[tuple[Split, float], list[int]] = {}
        for index, request in enumerate(requests):
            if self._is_reconstructed(request) or self._is_adapted(request) or request.network:
                yield [index]
                continue
            alike.setdefault((request.split, request.fidelity), []).append(index)
        for indices in alike.values():
            for group in self._together([requests[index].allocation for index in indices]):
                yield [indices[number] for number in group]

    def _together(self, allocations: Sequence[BitAllocation]) -> list[list[int]]:
        alone = [[number] for number in range(len(allocations))]
        if self._engine is None or len(allocations) == 1:
            return alone
        try:
            return self._engine.together(allocations)
        except Exception:  # whatever is wrong with one of them is found when it is measured
            return alone

    def _measure(self, requests: Sequence[Request]) -> list[Measurement]:
        """Measure requests for the same images together; if that fails, each alone."""
        if len(requests) > 1:
            started = time.perf_counter()
            try:
                counts = self._count(requests, self._workload.batch_size)
            except Exception:  # whose fault it is, each alone will show
                pass
            else:
                wall_s = (time.perf_counter() - started) / len(requests)
                return [
                    self._answer(request, count, wall_s)
                    for request, count in zip(requests, counts, strict=True)
                ]
        return [self._measure_alone(request) for request in requests]

    def _measure_alone(self, request: Request) -> Measurement:
        started, size = time.perf_counter(), self._workload.batch_size
        counts = self._tried(request, size)
        may_shrink = size > 1 and not self._follows_batch(request)
        if isinstance(counts, Exception) and is_out_of_memory(counts) and may_shrink:
            del counts  # and with it what the pass that failed still holds
            size = -(-size // 2)
            counts = self._tried(request, size)
        wall_s = time.perf_counter() - started
        if isinstance(counts, Counts):
            return self._answer(request, counts, wall_s)
        if is_out_of_memory(counts):
            reason = f"ran out of memory in batches of {size} images: {counts}"
        elif isinstance(counts, NonFiniteError):
            reason = self._what_is_not_finite(request) or f"cannot be computed: {counts}"
        elif isinstance(counts, BitfrontError):
            reason = f"could not be measured: {counts}"
        else:
            reason = f"could not be measured: {type(counts).__name__}: {counts}"
        return self._failed(request, reason, wall_s)

    def _follows_batch(self, request: Request) -> bool:
        """Whether what is measured depends on the size of batches."""
        if not request.network:
            return False
        try:
            network = self._handed_over(request)
        except BitfrontError:
            return False
        return isinstance(network, DynamicNetwork) and network.per == "batch"

    def _tried(self, request: Request, batch_size: int) -> Counts | Exception:
        """Return the counts of a request, or why there are none."""
        try:
            (counts,) = self._count([request], batch_size)
        except Exception as error:  # a study outlives whatever one allocation may cause
            return error
        return counts

    def _count(self, requests: Sequence[Request], batch_size: int) -> list[Counts]:
        """Run the network over the images of requests that share them."""
        images = self._workload.images[requests[0].split]
        limit = images_used(len(images), requests[0].fidelity)
        with self._network(requests[0]) as (model, engine):
            network = self._handed_over(requests[0]) if requests[0].network else None
            if isinstance(network, DynamicNetwork):
                setting = Setting(model, engine, self._device, images, limit, batch_size)
                chosen = self._choosing.count(network, requests[0].split, setting)
                return [chosen]
            if engine is not None:
                allocations = [request.allocation for request in requests]
                return evaluate_each(engine, allocations, images, batch_size, limit)
            found = []
            for request in requests:
                model.set_allocation(request.allocation)
                found.append(evaluate(model, images, batch_size, limit))
            return found

    @contextmanager
    def _network(self, request: Request) -> Iterator[tuple[QuantizedModel, Engine | None]]:
        """Give the network that a request, and others like it, is measured on; and its engine."""
        if request.network:
            yield self._trained(request)
        elif self._is_reconstructed(request):
            yield self._runnable(self._reconstructed(request.allocation))
        elif not self._is_adapted(request):
            yield self._model, self._engine
        elif self._workload.adaptation.method == "fine-tune":
            yield self._runnable(self._fine_tuned(request.allocation))
        else:
            with self._batch_norms.corrected(request.allocation, self._engine):
                yield self._model, self._engine

    def _handed_over(self, request: Request) -> Network:
        """Return the network of a request, as a value; it is kept for its next use."""
        asked = request.network, request.allocation
        if self._value is None or self._value[0] != asked:
            self._value = asked, handed_over(request, self._networks.get(request.network))
        return self._value[1]

    def _trained(self, request: Request) -> tuple[QuantizedModel, Engine | None]:
        """Return what the network of a request runs on; if trained, it is kept for the next one."""
        network = self._handed_over(request)
        backbone = network.backbone if isinstance(network, DynamicNetwork) else network
        if backbone is None:
            return self._model, self._engine
        if self._deployed is None or self._deployed[0] != request.network:
            self._deployed = None  # free its memory first
            model = deployed(self._workload, network)
            self._deployed = (request.network, *self._runnable(model))
        return self._deployed[1:]

    def _runnable(self, model: QuantizedModel) -> tuple[QuantizedModel, Engine | None]:
        """Return a network where it is to run, and an engine if that is how it runs."""
        if self._engine is None:
            return model.to(self._device), None
        return model, _integer_engine(model, self._workload)[0]

    def _is_adapted(self, request: Request) -> bool:
        return is_adapted(request, self._workload.adaptation)

    @cached_property
    def _batch_norms(self) -> BatchNorms:
        workload = self._workload
        return BatchNorms(self._model, workload.adaptation_images, workload.batch_size)

    def _fine_tuned(self, allocation: BitAllocation) -> QuantizedModel:
        """Return a fresh network trained for an allocation."""
        workload = self._workload
        model = workload.quantized_model(repaired=False).to(self._device)
        fine_tune(
            model,
            allocation,
            workload.adaptation_images,
            workload.images["calibration"],
            workload.adaptation,
            batch_size=workload.batch_size,
            seed=allocation_seed(allocation),
            threads=self._threads,
        )
        return model

    def _is_reconstructed(self, request: Request) -> bool:
        """Whether a request is for a finalist that is reconstructed before it is measured."""
        allocation = request.allocation
        return (
            request.split == "test"
            and not request.network
            and self._workload.quantizer.reconstruction != "none"
            and min(map(np.min, (*allocation.weights, *allocation.activations))) < CONTAINER_BITS
        )

    def _reconstructed(self, allocation: BitAllocation) -> QuantizedModel:
        """Return a fresh network reconstructed for an allocation."""
        workload = self._workload
        method = workload.quantizer.reconstruction
        assert method != "none"
        model = workload.quantized_model()
        reconstruct(
            model,
            allocation,
            workload.calibration(),
            method,
            steps=workload.quantizer.reconstruction_steps,
            generator=torch.Generator().manual_seed(allocation_seed(allocation)),
        )
        return model

    def _answer(self, request: Request, counts: Counts, wall_s: float) -> Measurement:
        if counts.finite:
            return measured(
                request,
                self._workload.energy,
                correct=counts.correct,
                loss_sum=counts.loss_sum,
                samples=counts.samples,
                wall_s=wall_s,
                adaptation_images=self._further_images(request, counts),
                usage=counts.usage,
            )
        reason = self._what_is_not_finite(request) or "gives logits that are not finite"
        return self._failed(request, reason, wall_s, counts.samples)

    def _failed(
        self, request: Request, reason: str, wall_s: float, samples: int = 0
    ) -> Measurement:
        """Return a failed answer, charged with the whole adaptation however far that came."""
        return failed(
            request,
            self._workload.energy,
            reason,
            samples=samples,
            wall_s=wall_s,
            adaptation_images=self._further_images(request),
        )

    def _further_images(self, request: Request, counts: Counts | None = None) -> tuple[int, int]:
        """Return how many images were passed forward and backward besides those measured on."""
        if counts is not None and counts.usage is not None and counts.usage.ran:
            # Members of a cascade after the first pass images forward again.
            return round(counts.samples * (sum(counts.usage.ran) - 1)), 0
        if not self._is_adapted(request):
            return 0, 0
        workload = self._workload
        estimated = len(workload.images["calibration"]) if self._model.normalized else 0
        return images_passed(workload.adaptation, len(workload.adaptation_images), estimated)

    def _what_is_not_finite(self, request: Request) -> str | None:
        """Return what the reference says of values that are not finite; None if it has none."""
        images = self._workload.images[request.split]
        limit = images_used(len(images), request.fidelity)
        try:
            model = self._trained(request)[0] if request.network else self._model
            model.set_allocation(request.allocation)
            device = next(model.parameters()).device
            for batch, _ in images.batches(self._workload.batch_size, limit):
                if (module := first_nonfinite(model, batch.to(device))) is not None:
                    name = module.removeprefix("network.").removesuffix(".inner")
                    return f"gives values that are not finite, first in layer {name!r}"
        except Exception:  # looking more closely takes more memory
            pass
        return None


def _integer_engine(model: QuantizedModel, workload: Workload) -> tuple[Engine, tuple[str, ...]]:
    """Return an engine, and what it warned of."""
    example, _ = next(workload.images["calibration"].batches(_EXAMPLE_IMAGES))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EngineWarning)
        engine = Engine(model, example)
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, EngineWarning))
    for other in caught:
        if not issubclass(other.category, EngineWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return engine, notes


def _require_exact_products() -> None:
    """Let this process multiply in float32: TF32 rounds what quantizers put on their grids."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def allocation_seed(allocation: BitAllocation) -> int:
    """Return the seed of what is drawn while the network is fitted to an allocation.

    It follows from the allocation alone, so that every worker draws the same.
    """
    return int(allocation.key[:15], 16)


def images_used(count: int, fidelity: float) -> int:
    """Return how many images a share of a split's ``count`` comes to; at least one.

    Examples:
        >>> images_used(360, 0.5), images_used(3, 0.01)
        (180, 1)
    """
    return max(1, round(count * fidelity))
