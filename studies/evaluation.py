"""Measuring allocations: the one place where accuracies come from."""

import time
from collections.abc import Iterator, Sequence

from ..models.evaluate import evaluate, first_nonfinite
from ..models.images import ImageSet
from ..models.threads import fixed_threads
from ..spaces import Measurement
from .requests import Request, failed, measured
from .workload import Workload


class Worker:
    """Measures requests on one quantized network, which it builds and calibrates once.

    Its answers depend on the workload, the request and the number of threads, not on what it
    measured before nor on where it runs: any number of workers gives the same results.

    Args:
        workload: What is measured.
        threads: Threads of torch, in every call.
    """

    def __init__(self, workload: Workload, threads: int = 1) -> None:
        self._workload = workload
        self._threads = threads
        with fixed_threads(threads):
            self._model = workload.quantized_model()

    def measure(self, requests: Sequence[Request]) -> Iterator[tuple[int, Measurement]]:
        """Yield the measurement of every request with its index, each as soon as it is there.

        What cannot be measured comes back as a measurement that `Measurement.failed`.
        """
        for index, request in enumerate(requests):
            with fixed_threads(self._threads):  # not while whoever takes the answer computes
                answer = self._measure(request)
            yield index, answer

    def _measure(self, request: Request) -> Measurement:
        energy, started = self._workload.energy, time.perf_counter()
        images = self._workload.images[request.split]
        limit = images_used(len(images), request.fidelity)
        try:
            self._model.set_allocation(request.allocation)
            counts = evaluate(self._model, images, self._workload.batch_size, limit)
            if counts.finite:
                return measured(
                    request,
                    energy,
                    correct=counts.correct,
                    loss_sum=counts.loss_sum,
                    samples=counts.samples,
                    wall_s=time.perf_counter() - started,
                )
            samples, reason = counts.samples, self._what_is_not_finite(images, limit)
        except Exception as error:  # a study outlives whatever one allocation may cause
            samples, reason = 0, f"could not be measured: {type(error).__name__}: {error}"
        wall_s = time.perf_counter() - started
        return failed(request, energy, reason, samples=samples, wall_s=wall_s)

    def _what_is_not_finite(self, images: ImageSet, limit: int) -> str:
        for batch, _ in images.batches(self._workload.batch_size, limit):
            if (module := first_nonfinite(self._model, batch)) is not None:
                name = module.removeprefix("network.").removesuffix(".inner")
                return f"gives values that are not finite, first in layer {name!r}"
        return "gives logits that are not finite"


def images_used(count: int, fidelity: float) -> int:
    """Return how many images a share of a split's ``count`` comes to; at least one.

    Examples:
        >>> images_used(360, 0.5), images_used(3, 0.01)
        (180, 1)
    """
    return max(1, round(count * fidelity))
