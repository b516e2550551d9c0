"""Does HAQ learn? On its own latency table, with a synthetic accuracy whose optimum is known.

    python -m benchmarks.latency [--ratio 0.6] [--evaluations 150] [--seeds 5]

The layers of MobileNetV2, priced by HAQ's latency table; every operand loses accuracy by itself
(`searchers.synthetic.AdditiveLandscape`), so that an integer programme knows the best allocation
within the latency. Each seed has sensitivities of its own. All strategies have the same
evaluations; intervals are Student's, at 95 %. Seconds are of the processor.
"""

import argparse
import time
from typing import Any

import numpy as np

from bitfront.energy import EnergyModel, load_table
from bitfront.models.profile import profile
from bitfront.models.zoo import build_model
from bitfront.searchers import Problem, build
from bitfront.searchers.additive import AdditiveModel
from bitfront.searchers.synthetic import AdditiveLandscape, tabular_problem

from .intervals import mean_text

TABLE = "haq-cloud-latency"
STRATEGIES: dict[str, dict[str, Any]] = {
    "uniform": {},
    "random": {},
    "budget_loop": {},
    "haq": {},
    "haq (not learning)": {"name": "haq", "updates": 0.0},
    "haq (as published)": {
        "name": "haq",
        **{"warmup": 20, "sigma": 0.5, "sigma_end": 0.0015, "actors": 1},
        **{"reward": "accuracy", "trim": "loop", "gamma": 1.0, "actor_every": 1, "actor_lr": 1e-4},
    },
}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.6, help="latency relative to 8 bit")
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="strategies whose name begins so")
    options = parser.parse_args()
    layers = profile(
        build_model("mobilenetv2_100", classes=1000, input_shape=(3, 224, 224)), (3, 224, 224)
    )
    energy = EnergyModel(load_table(TABLE), layers)
    print(f"MobileNetV2, latency <= {options.ratio} of 8 bit, {options.evaluations} evaluations\n")
    print("| strategy | accuracy, % | below the optimum | s |")
    print("| --- | ---: | ---: | ---: |")
    best = [optimum(problem(energy, seed, options), seed) for seed in range(options.seeds)]
    print(f"| optimum | {mean_text(best)} | 0 | |", flush=True)
    for label, settings in STRATEGIES.items():
        if label.startswith(options.only):
            found, started = [], time.process_time()
            for seed in range(options.seeds):
                asked = problem(energy, seed, options)
                chosen = {k: v for k, v in settings.items() if k != "name"}
                build(settings.get("name", label), chosen).run(asked)
                found.append(max(100 * m.accuracy for m in asked.history if asked.within(m)))
            seconds = (time.process_time() - started) / options.seeds
            below = mean_text(np.subtract(best, found).tolist())
            print(f"| {label} | {mean_text(found)} | {below} | {seconds:.1f} |", flush=True)


def problem(energy: EnergyModel, seed: int, options: argparse.Namespace) -> Problem:
    """Return the problem of a seed."""
    return tabular_problem(
        energy=energy,
        evaluations=options.evaluations,
        seed=seed,
        limits={"energy": options.ratio},
        widths=range(2, 9),
        landscape_seed=seed,
    )


def optimum(asked: Problem, seed: int) -> float:
    """Return the best accuracy within the limit, in percent."""
    landscape = AdditiveLandscape(asked.energy, seed)
    losses = landscape.sensitivity[:, :, None] * 4.0 ** -np.arange(33.0)
    scores = losses[0][:, :, None] + losses[1][:, None, :]
    limits = {"energy": (asked.layer_costs("energy"), asked.budget.limits["energy"])}
    solution = AdditiveModel(asked.space, scores).solve(limits)
    return 100 * landscape.accuracy(solution.allocation)


if __name__ == "__main__":
    main()
