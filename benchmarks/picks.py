"""What each strategy of a finished study would have you deploy, within each of its budgets.

    python -m benchmarks.picks bitfront-runs/cifar10-resnet20-learned

A trial's pick is the finalist with the smallest loss on the search split; its accuracy is that on
the test split. Of several seeds the mean and half of its 95 % interval by Student's t are given; a
deterministic strategy has one trial. Images and seconds are those of a whole trial; what was
measured before, by another trial or run, took no seconds again.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from bitfront.studies.result import RESULT_FILE, Point, StudyResult, TrialRecord

from .intervals import mean_text


def main() -> None:
    """Print a table in Markdown for each budget, the most accurate strategy first."""
    result = StudyResult.load(Path(sys.argv[1]))
    print(f"From {sys.argv[1]}/{RESULT_FILE}; float {100 * result.float_test.accuracy:.2f} %.")
    for budget in dict.fromkeys(trial.budget for trial in result.trials):
        rows: dict[str, list[tuple[Point, TrialRecord]]] = defaultdict(list)
        for trial in result.trials:
            if trial.budget == budget and (point := _pick(result, trial)) is not None:
                rows[trial.strategy].append((point, trial))
        print(f"\n### {budget}\n")
        print("| strategy | trials | accuracy, % | energy | search loss | images | s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, found in sorted(rows.items(), key=lambda item: -_accuracy(item[1])):
            accuracies = [100 * point.test.accuracy for point, _ in found]
            energies = [point.test.energy_vs_w8a8 for point, _ in found]
            losses = [point.search.loss for point, _ in found]
            images = np.mean([trial.images_forward for _, trial in found])
            seconds = np.mean([trial.wall_s for _, trial in found])
            print(
                f"| {name} | {len(found)} | {mean_text(accuracies)} | {np.mean(energies):.3f} | "
                f"{mean_text(losses, 4)} | {images:,.0f} | {seconds:.0f} |"
            )


def _pick(result: StudyResult, trial: TrialRecord) -> Point | None:
    own = (trial.strategy, trial.seed, trial.budget)
    points = [p for p in result.points if (p.strategy, p.seed, p.budget) == own]
    return min(points, key=lambda point: point.search.loss, default=None)


def _accuracy(found: list[tuple[Point, TrialRecord]]) -> float:
    return float(np.mean([point.test.accuracy for point, _ in found]))


if __name__ == "__main__":
    main()
