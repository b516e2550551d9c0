"""What share of an episode is the agent's own, and not the evaluation's?

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.overhead [--evaluations 40]

The strategies that learn, on the published ResNet-20 with 1,000 search images, weights by channel,
within 0.6 of the energy of uniform 8 bit, in one process on one thread. The clock starts when the
agents and what they know of the network are there, after the first two episodes.
"""

import argparse
import time
from collections.abc import Sequence

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.threads import fixed_threads
from bitfront.searchers import Budget, Problem, build
from bitfront.spaces import BitAllocation, Measurement, objective
from bitfront.studies import StudySpec
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request
from bitfront.studies.workload import prepare

STRATEGIES = ("haq", "autoq")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--updates", type=float, help="in place of the default of the strategies")
    options = parser.parse_args()
    keep_freed_memory()
    spec = StudySpec.load("cifar10-resnet20-learned")
    prepared = prepare(spec)
    worker = Worker(prepared.workload)
    print("| strategy | episode, s | of which evaluation, s | own share |")
    print("| --- | ---: | ---: | ---: |")
    for name in STRATEGIES:
        given = {} if options.updates is None else {"updates": options.updates}
        strategy, clock = build(name, given), _Clock(worker)
        problem = Problem(
            strategy.searched(prepared.space),
            prepared.workload.energy,
            clock,
            Budget(options.evaluations, {"energy": 0.6}),
            label=name,
            objectives=[objective(name) for name in spec.objectives],
            model=prepared.workload,
        )
        with fixed_threads(1):
            strategy.run(problem)
        count = len(problem.history) - clock.first
        whole, evaluating = clock.whole_s / count, clock.evaluating_s / count
        share = 1 - evaluating / whole
        print(f"| {name} | {whole:.3f} | {evaluating:.3f} | {share:.1%} |", flush=True)


class _Clock:
    """Measures allocations, and how long that takes; the first batch is not counted."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._started = 0.0
        self._ended = 0.0
        self.first = 0
        self.evaluating_s = 0.0

    @property
    def whole_s(self) -> float:
        """Seconds from the end of the first evaluations to the end of the last."""
        return self._ended - self._started

    def __call__(
        self, allocations: Sequence[BitAllocation], *, fidelity: float = 1.0
    ) -> list[Measurement]:
        """Return one measurement per allocation, in the same order."""
        began = time.perf_counter()
        requests = [Request(allocation, "search", fidelity) for allocation in allocations]
        answers = dict(self._worker.measure(requests))
        self._ended = time.perf_counter()
        if self._started == 0.0:
            self._started, self.first = self._ended, len(allocations)
        else:
            self.evaluating_s += self._ended - began
        return [answers[index] for index in range(len(allocations))]


if __name__ == "__main__":
    main()
