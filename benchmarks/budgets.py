"""What each strategy finds within a budget: accuracy on the whole test split, and what it cost.

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.budgets [--only frontier] [--joint]

The published ResNet-20 on CIFAR-10, first and last layer at 8 bits, 256 calibration images, one
thread. By default weights of 2, 4 or 8 bits within a mean width, activations of 8 bits
(`cifar10-resnet20-weights`); with ``--joint`` weights and activations of 2 to 8 bits within the
bit operations of a uniform width. Every strategy has the same evaluations on 1,000 search images;
of what it measured, the allocation with the smallest loss there is the one reported. Seconds are
of the processor, on one thread: those of the strategy (calibration, sensitivity scores, solving,
screening), and those of its evaluations; of one budget, nothing reused from another.
"""

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.config import QuantizerConfig
from bitfront.searchers import Budget, Problem, build
from bitfront.spaces import BitAllocation, Measurement, objective
from bitfront.studies import StudySpec
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request
from bitfront.studies.workload import Prepared, prepare

EVALUATIONS = 8
MEAN_BITS = (3, 4, 5, 6)
UNIFORM = (4, 6)
QUANTIZERS: dict[str, dict[str, Any]] = {
    "mse": {},
    "output-mse": {"weight_observer": "output-mse"},
    "repaired": {"rounding": "adaround", "bias_correction": True},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {},
    "budget_loop": {},
    "greedy": {},
    "hawq": {"score_images": 32, "iterations": 40},
    "ilp kl": {"name": "ilp"},
    "ilp fisher": {"name": "ilp", "score": "fisher"},
    "optuna": {},
    "frontier": {"screens": 16.0},
}
JOINT = {
    ("space",): {},
    ("objectives",): ["accuracy", "bops"],
}


def main() -> None:
    """Print a table in Markdown for each quantizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="strategies whose name begins so")
    parser.add_argument("--quantizer", choices=QUANTIZERS, help="one quantizer alone")
    parser.add_argument("--joint", action="store_true", help="weights and activations, by BOPs")
    options = parser.parse_args()
    keep_freed_memory()
    overrides: dict[Any, Any] = {("strategies",): [{"name": "random"}]}
    prepared = prepare(
        StudySpec.load(
            "cifar10-resnet20-weights", {**overrides, **(JOINT if options.joint else {})}
        )
    )
    for name, settings in QUANTIZERS.items():
        if options.quantizer in (None, name):
            print_table(name, _with(prepared, settings), options.only, options.joint)


def _with(prepared: Prepared, settings: dict[str, Any]) -> Prepared:
    quantizer = QuantizerConfig(activation_observer="mse", **settings)
    return replace(prepared, workload=replace(prepared.workload, quantizer=quantizer))


def print_table(quantizer: str, prepared: Prepared, only: str, joint: bool) -> None:
    """Measure and print one table, a row as soon as it is there."""
    worker = Worker(prepared.workload)
    limits = list(_limits(prepared, joint))
    print(f"\n### Quantizer: {quantizer}\n")
    print(
        "| strategy | "
        + " | ".join(title for title, _ in limits)
        + " | s | evaluations, s | images |"
    )
    print("| --- |" + " ---: |" * (len(limits) + 3))
    uniforms = dict(_uniforms(prepared, joint))
    tested = _measure(worker, list(uniforms.values()), "test")
    said = ", ".join(
        f"{name} {100 * m.accuracy:.2f}" for name, m in zip(uniforms, tested, strict=True)
    )
    for label, settings in STRATEGIES.items():
        if not label.startswith(only):
            continue
        runs = [_run(label, settings, prepared, worker, limit) for _, limit in limits]
        tests = _measure(worker, [run[0] for run in runs], "test")
        accuracies = " | ".join(f"{100 * m.accuracy:.2f}" for m in tests)
        own, evaluating, images = (
            sum(values) / len(runs) for values in list(zip(*runs, strict=True))[1:]
        )
        print(
            f"| {label} | {accuracies} | {own:.1f} | {evaluating:.1f} | {images:,.0f} |", flush=True
        )
    print(f"\nUniform: {said}.", flush=True)


def _limits(prepared: Prepared, joint: bool) -> Iterator[tuple[str, dict[str, float]]]:
    if not joint:
        for bits in MEAN_BITS:
            yield str(bits), {"mean_weight_bits": float(bits)}
        return
    for bits in UNIFORM:
        uniform = prepared.space.uniform(bits)
        bops = prepared.workload.energy.costs(uniform).bops
        yield f"{bits} x {bits}", {"bops": float(bops)}


def _uniforms(prepared: Prepared, joint: bool) -> Iterator[tuple[str, BitAllocation]]:
    layers = prepared.space.layers
    names, inner = [layer.name for layer in layers], len(layers) - 2
    for bits in UNIFORM if joint else (2, *MEAN_BITS):
        activation = bits if joint else 8
        yield (
            f"{bits} x {activation}",
            BitAllocation(names, [8, *[bits] * inner, 8], [8, *[activation] * inner, 8]),
        )


def _run(
    label: str,
    settings: dict[str, Any],
    prepared: Prepared,
    worker: Worker,
    limits: dict[str, float],
) -> tuple[BitAllocation, float, float, int]:
    """Return what a strategy picks, its seconds, those of evaluations, and images forward."""
    workload, evaluating = prepared.workload, 0.0

    def evaluate(
        allocations: Sequence[BitAllocation], *, fidelity: float = 1.0
    ) -> list[Measurement]:
        nonlocal evaluating
        started = time.process_time()
        measured = _measure(worker, allocations, "search", fidelity)
        evaluating += time.process_time() - started
        return measured

    problem = Problem(
        prepared.space,
        workload.energy,
        evaluate,
        Budget(EVALUATIONS, limits),
        label=label,
        objectives=[objective("accuracy"), objective(next(iter(limits)))],
        model=workload,
    )
    strategy = build(settings.get("name", label), {k: settings[k] for k in settings if k != "name"})
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy.run(problem)
    seconds = time.process_time() - started
    best = min((m for m in problem.history if not m.failed), key=lambda m: m.loss)
    images = problem.images_forward + sum(m.samples for m in problem.history)
    return best.allocation, seconds - evaluating, evaluating, images


def _measure(
    worker: Worker, allocations: Sequence[BitAllocation], split: Any, fidelity: float = 1.0
) -> list[Measurement]:
    requests = [Request(allocation, split, fidelity) for allocation in allocations]
    answers = dict(worker.measure(requests))
    return [answers[index] for index in range(len(requests))]


if __name__ == "__main__":
    main()
