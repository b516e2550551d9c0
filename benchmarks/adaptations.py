"""What adapting a network to an allocation before it is measured buys, and what it costs.

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.adaptations [--only batch-norm]

The network, data and quantizer of a ready study, ``--study``; by default the published ResNet-20 on
CIFAR-10. The first and the last layer have 8 bits and all others one width. Accuracy is that on the
test images, with integer kernels on one thread; seconds are processor seconds of one evaluation on
the search images, of the first of the allocations.
"""

import argparse
import time

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.config import AdaptationConfig
from bitfront.spaces import BitAllocation, Split
from bitfront.studies import StudySpec
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request
from bitfront.studies.workload import Workload, prepare

WIDTHS = ((2, 8), (3, 3), (3, 8), (4, 4), (4, 8))
ADAPTATIONS = {
    "none": AdaptationConfig(),
    "batch-norm": AdaptationConfig(method="batch-norm"),
    "fine-tune, 2,000 images": AdaptationConfig(method="fine-tune", images=2000),
    "fine-tune, 9,000 images": AdaptationConfig(method="fine-tune"),
}


def main() -> None:
    """Print a row of a table in Markdown for each adaptation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="adaptations whose name begins so")
    parser.add_argument("--study", default="cifar10-resnet20", help="a ready study")
    options = parser.parse_args()
    keep_freed_memory()
    print("| adaptation | s | " + " | ".join(f"w{w}a{a}" for w, a in WIDTHS) + " |")
    print("| --- |" + " ---: |" * (len(WIDTHS) + 1))
    for name, adaptation in ADAPTATIONS.items():
        if name.startswith(options.only):
            print_row(name, _workload(options.study, adaptation))


def _workload(study: str, adaptation: AdaptationConfig) -> Workload:
    spec = StudySpec.load(study)
    return prepare(spec.model_copy(update={"adaptation": adaptation})).workload


def print_row(name: str, workload: Workload) -> None:
    """Measure with one adaptation."""
    worker = Worker(workload)
    layers = [layer.name for layer in workload.layers]
    inner = len(layers) - 2
    allocations = [
        BitAllocation(layers, [8, *[w] * inner, 8], [8, *[a] * inner, 8]) for w, a in WIDTHS
    ]
    if workload.fine_tuning is None:  # weights are quantized, and batch norms watched, once
        _accuracy(worker, allocations[0], "search")
    started = time.process_time()
    _accuracy(worker, allocations[0], "search")
    seconds = time.process_time() - started
    accuracies = [_accuracy(worker, allocation, "test") for allocation in allocations]
    cells = " | ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    print(f"| {name} | {seconds:.2f} | {cells} |", flush=True)


def _accuracy(worker: Worker, allocation: BitAllocation, split: Split) -> float:
    ((_, measurement),) = worker.measure([Request(allocation, split)])
    return measurement.accuracy


if __name__ == "__main__":
    main()
