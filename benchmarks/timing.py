"""Timing variants of the same work against each other, on a machine that may be busy.

The variants take turns in one process, so that whatever slows the machine down slows all of them
down, and a ratio is taken within each round. A round in which the process did not get its
processor is one in which wall time runs ahead of CPU time; it is measured again, a limited number
of times.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .record import Entry

ROUNDS = 7
WARM_UP_ROUNDS = 2
SHORTEST_SAMPLE_S = 0.05
DISTURBED = 1.1

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """The time of one call: of the clock on the wall, and of the processor for this process."""

    wall_s: float
    cpu_s: float

    @property
    def is_disturbed(self) -> bool:
        """Whether the process waited for its processor a tenth of the time or more."""
        return self.wall_s > DISTURBED * self.cpu_s


@dataclass(frozen=True)
class Timings:
    """The times of all variants.

    Attributes:
        samples: By variant, one per round.
        disturbed: How many of the rounds are disturbed.
    """

    samples: Mapping[str, Sequence[Sample]]
    disturbed: int

    def fastest(self, variants: Sequence[str]) -> str:
        """Return the variant with the smallest median."""
        return min(variants, key=self.seconds)

    def seconds(self, variant: str) -> float:
        """Return the median wall time of a call."""
        return statistics.median(sample.wall_s for sample in self.samples[variant])

    def times_as_fast(self, variant: str, than: str, note: str = "") -> Entry:
        """Return how many times a variant is as fast as another: the median of the rounds' ratios.

        Where the ratio of CPU times is another by more than a tenth, the entry has it, too.
        """
        pairs = list(zip(self.samples[variant], self.samples[than], strict=True))
        ratios = [slow.wall_s / fast.wall_s for fast, slow in pairs]
        by_cpu = statistics.median(slow.cpu_s / fast.cpu_s for fast, slow in pairs)
        differs = not 1 / DISTURBED <= by_cpu / statistics.median(ratios) <= DISTURBED
        return Entry.median_of(
            ratios, "x", note=note, disturbed=self.disturbed, by_cpu=by_cpu if differs else None
        )

    def rate(self, variant: str, items: int, unit: str, note: str = "") -> Entry:
        """Return how many items a second a variant handles that handles ``items`` in a call."""
        rates = [items / sample.wall_s for sample in self.samples[variant]]
        return Entry.median_of(rates, unit, note=note, disturbed=self.disturbed)


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    *,
    wall: Clock = time.perf_counter,
    cpu: Clock = time.process_time,
) -> Timings:
    """Time variants in turns.

    Args:
        variants: Calls by name; short ones are called several times for one sample.
        rounds: Samples of each. A disturbed round is replaced, but no more than as many again.
        wall: The clock on the wall.
        cpu: The processor time of this process.
    """

    def sample(call: Callable[[], object], calls: int) -> Sample:
        wall_0, cpu_0 = wall(), cpu()
        for _ in range(calls):
            call()
        return Sample((wall() - wall_0) / calls, (cpu() - cpu_0) / calls)

    calls = dict.fromkeys(variants, 1)
    for _ in range(WARM_UP_ROUNDS):
        for name, call in variants.items():
            calls[name] = math.ceil(SHORTEST_SAMPLE_S / max(sample(call, 1).wall_s, 1e-9))
    quiet: list[dict[str, Sample]] = []
    disturbed: list[dict[str, Sample]] = []
    while len(quiet) < rounds and len(quiet) + len(disturbed) < 2 * rounds:
        # Every other round runs backwards, so that no variant always follows the same one.
        names = list(variants)[:: -1 if (len(quiet) + len(disturbed)) % 2 else 1]
        found = {name: sample(variants[name], calls[name]) for name in names}
        is_disturbed = any(one.is_disturbed for one in found.values())
        (disturbed if is_disturbed else quiet).append(found)
    kept = [*quiet, *disturbed][:rounds]
    samples = {name: tuple(one[name] for one in kept) for name in variants}
    return Timings(samples, disturbed=len(kept) - min(len(quiet), rounds))
