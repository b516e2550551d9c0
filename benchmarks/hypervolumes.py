"""Hypervolume of every strategy of a finished study, on the test split, over its seeds.

    python -m benchmarks.hypervolumes bitfront-runs/cifar10-resnet20-strategies

A trial's volume is that of its finalists, chosen on the search split and measured on the test
split, up to the standard reference (accuracy 0 at the energy of uniform 8 bit). Of several seeds
the mean and its 95 % interval by Student's t are given; a deterministic strategy has one trial.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from bitfront.spaces import OBJECTIVES, as_costs, hypervolume, reference_point
from bitfront.studies.result import RESULT_FILE, StudyResult

from .intervals import mean_text


def main() -> None:
    """Print a table in Markdown, the largest volume first."""
    result = StudyResult.load(Path(sys.argv[1]))
    objectives = [OBJECTIVES[name] for name in result.spec["objectives"]]
    reference = reference_point(objectives)
    volumes = defaultdict(list)
    for trial in result.trials:
        mine = [
            point.test
            for point in result.points
            if (point.strategy, point.seed, point.budget)
            == (trial.strategy, trial.seed, trial.budget)
        ]
        volumes[trial.strategy].append(hypervolume(as_costs(mine, objectives), reference))
    images, seconds = defaultdict(list), defaultdict(list)
    for trial in result.trials:
        images[trial.strategy].append(trial.images_forward)
        seconds[trial.strategy].append(trial.wall_s)
    print(f"From {sys.argv[1]}/{RESULT_FILE}.\n")
    print("| strategy | trials | hypervolume | images forward | s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in sorted(volumes.items(), key=lambda item: -np.mean(item[1])):
        print(
            f"| {name} | {len(found)} | {mean_text(found, 4)} | "
            f"{np.mean(images[name]):,.0f} | {np.mean(seconds[name]):.0f} |"
        )


if __name__ == "__main__":
    main()
