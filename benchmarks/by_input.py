"""What a study's dynamic networks gain over its static ones at equal energy.

    python -m benchmarks.by_input bitfront-runs/dynamic-cifar10

Everything is on the test split. Each finalist whose widths follow the input is compared at its own
mean energy with

- the straight line between uniform 4 and uniform 8 bit,
- the front of all static finalists, straight between its points, which no single network reaches,
- the best static finalist of at most that energy, and the cheapest one that is as accurate,
- itself with the choices of each channel replaced by their mean, and with those made for another
  input, where that was measured.

Finalists of several seeds are put together by their rank in energy: mean and half of the 95 %
interval by Student's t. Differences are in points of accuracy.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bitfront.spaces import Measurement, Usage, pareto_front
from bitfront.studies.result import Point, StudyResult

from .intervals import mean_text

LOW_BITS = 4.0
HEADINGS = (
    "seeds",
    "energy",
    "accuracy, %",
    "over the line of uniform 4 and 8",
    "over the static front",
    "over the best static one as cheap",
    "energy of the cheapest as accurate",
    "over mean choices",
    "over shuffled ones",
)


def main() -> None:
    """Print a table in Markdown for every strategy that has dynamic finalists."""
    result = StudyResult.load(Path(sys.argv[1]))
    static = pareto_front([p.test for p in result.points if p.test.dynamic is None])
    line = _line(result)
    for strategy, budget in dict.fromkeys((p.strategy, p.budget) for p in result.points):
        own = [p for p in result.points if (p.strategy, p.budget) == (strategy, budget)]
        if not (groups := by_rank(own)):
            continue
        print(f"\n**{strategy}**, {budget}\n\n| {' | '.join(HEADINGS)} |")
        print(f"{'| ---: ' * len(HEADINGS)}|")
        for group in groups:
            cells = [
                f"{np.mean([m.energy_vs_w8a8 for m in group]):.3f}",
                mean_text([100 * m.accuracy for m in group]),
                _gains(group, line),
                _gains(group, lambda m: interpolated(static, m.energy_vs_w8a8)),
                _gains(group, lambda m: as_cheap(static, m.energy_vs_w8a8)),
                energy_text([as_accurate(static, m.accuracy) for m in group]),
                _gains(group, lambda m: ablated(m, "static")),
                _gains(group, lambda m: ablated(m, "shuffled")),
            ]
            print(f"| {len(group)} | {' | '.join(cells)} |")


def by_rank(points: Sequence[Point]) -> list[list[Measurement]]:
    """Return the dynamic finalists of one trial's seeds, those with one rank together."""
    seeds: dict[int, list[Measurement]] = defaultdict(list)
    for point in points:
        if point.test.dynamic is not None and not point.test.failed:
            seeds[point.seed].append(point.test)
    ranked = [sorted(each, key=lambda m: m.energy_vs_w8a8) for each in seeds.values()]
    count = max(map(len, ranked), default=0)
    return [[each[rank] for each in ranked if rank < len(each)] for rank in range(count)]


def interpolated(front: Sequence[Measurement], energy: float) -> float:
    """Return the accuracy of a front at an energy, straight between its points; NaN outside."""
    ordered = sorted(front, key=lambda m: m.energy_vs_w8a8)
    energies = [m.energy_vs_w8a8 for m in ordered]
    accuracies = [m.accuracy for m in ordered]
    return float(np.interp(energy, energies, accuracies, left=np.nan))


def as_cheap(front: Sequence[Measurement], energy: float) -> float:
    """Return the highest accuracy of at most an energy; NaN if nothing is that cheap."""
    return max((m.accuracy for m in front if m.energy_vs_w8a8 <= energy), default=float("nan"))


def as_accurate(front: Sequence[Measurement], accuracy: float) -> float:
    """Return the lowest energy with at least an accuracy; NaN if nothing is that accurate."""
    fitting = (m.energy_vs_w8a8 for m in front if m.accuracy >= accuracy)
    return min(fitting, default=float("nan"))


def energy_text(energies: Sequence[float]) -> str:
    """Return the mean of energies; nothing if one is not known."""
    return "" if np.isnan(energies).any() else f"{np.mean(energies):.3f}"


def _line(result: StudyResult) -> Callable[[Measurement], float]:
    low = next(
        (
            point.test
            for point in result.points
            if point.test.dynamic is None
            and point.strategy == "uniform"
            and LOW_BITS in _most_common(point.test)
        ),
        None,
    )
    high = result.uniform_w8a8
    if low is None:
        return lambda m: float("nan")
    ends = [low.energy_vs_w8a8, high.energy_vs_w8a8], [low.accuracy, high.accuracy]
    return lambda m: float(np.interp(m.energy_vs_w8a8, *ends, left=np.nan))


def _most_common(measurement: Measurement) -> tuple[float, ...]:
    """Return the width that most operands have, if all but a few have it."""
    both = [*measurement.allocation.weights, *measurement.allocation.activations]
    if not all(isinstance(bits, int) for bits in both):
        return ()
    values, counts = np.unique(both, return_counts=True)
    return (float(values[counts.argmax()]),)


def ablated(measurement: Measurement, name: str) -> float:
    usage: Usage | None = measurement.dynamic
    assert usage is not None
    found = (ablation.accuracy for ablation in usage.ablations if ablation.name == name)
    return next(found, float("nan"))


def _gains(group: Sequence[Measurement], other: Callable[[Measurement], float]) -> str:
    gains = [100 * (m.accuracy - other(m)) for m in group]
    return "" if np.isnan(gains).any() else mean_text(gains)


if __name__ == "__main__":
    main()
