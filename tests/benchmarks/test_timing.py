"""The arithmetic of ratios, with clocks that tick as told."""

import pytest

from bitfront.benchmarks.timing import Sample, Timings, interleaved


class Machine:
    """Calls that take a given time; every ``busy_every``-th waits as long again."""

    def __init__(self, busy_every: int = 0) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.busy_every = busy_every
        self.log: list[str] = []

    def call(self, name, seconds):
        def run():
            self.log.append(name)
            waits = self.busy_every and len(self.log) % self.busy_every == 0
            self.cpu_s += seconds
            self.wall_s += 2 * seconds if waits else seconds

        return run

    def measure(self, times, rounds):
        calls = {name: self.call(name, seconds) for name, seconds in times.items()}
        return interleaved(calls, rounds, wall=lambda: self.wall_s, cpu=lambda: self.cpu_s)


def timings(slow, fast, disturbed=0):
    return Timings(
        {"slow": [Sample(*s) for s in slow], "fast": [Sample(*s) for s in fast]}, disturbed
    )


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    found = timings([(6, 6), (9, 9), (4, 4)], [(2, 2), (1, 1), (2, 2)])
    entry = found.times_as_fast("fast", "slow")  # 3, 9 and 2; of medians it would be 6 / 2 too
    assert (entry.amount, entry.spread, entry.n, entry.unit) == (3, (2.5, 6), 3, "x")
    assert entry.by_cpu is None
    assert found.times_as_fast("slow", "fast").amount == pytest.approx(1 / 3)


def test_the_fastest_variant_has_the_smallest_median():
    found = timings([(6, 6), (1, 1), (6, 6)], [(5, 5), (9, 9), (5, 5)])
    assert found.fastest(["slow", "fast"]) == "fast"


def test_a_ratio_that_is_another_by_cpu_time_says_so():
    entry = timings([(8, 4)] * 3, [(2, 2)] * 3, disturbed=3).times_as_fast("fast", "slow")
    assert (entry.amount, entry.by_cpu, entry.disturbed) == (4, 2, 3)


def test_a_rate_counts_the_items_of_a_call():
    entry = timings([(2, 2)] * 3, [(1, 1)] * 3).rate("slow", 128, "/s")
    assert (entry.amount, entry.unit) == (64, "/s")


def test_variants_take_turns_in_alternating_order():
    machine = Machine()
    found = machine.measure({"a": 0.1, "b": 0.2}, rounds=4)
    assert machine.log == list("ab" * 2 + "abba" * 2)  # two rounds to warm up
    assert found.seconds("a") == pytest.approx(0.1)
    assert found.disturbed == 0


def test_short_calls_are_repeated_until_they_can_be_timed():
    machine = Machine()
    found = machine.measure({"short": 0.01}, rounds=3)
    assert len(machine.log) == 2 + 3 * 5
    assert found.seconds("short") == pytest.approx(0.01)


def test_a_disturbed_round_is_measured_again():
    machine = Machine(busy_every=4)
    found = machine.measure({"a": 0.1}, rounds=3)
    assert found.disturbed == 0
    assert len(machine.log) == 2 + 4
    assert [sample.wall_s for sample in found.samples["a"]] == pytest.approx([0.1] * 3)


def test_on_a_machine_that_stays_busy_rounds_are_kept_and_counted():
    machine = Machine(busy_every=1)
    found = machine.measure({"a": 0.1}, rounds=3)
    assert len(machine.log) == 2 + 6
    assert (len(found.samples["a"]), found.disturbed) == (3, 3)
