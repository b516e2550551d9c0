"""What each strategy of a study would have you deploy, within each of its budgets.

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.picks \\
        bitfront-runs/cifar10-resnet20-learned

A trial's pick is what it found within its budget with the smallest loss on the search split; its
accuracy is that on the test split, measured now if the study has not done so. Of several seeds the
mean and half of its 95 % interval by Student's t are given; a deterministic strategy has one trial.
Images are those of a whole trial. Trials that have not ended are left out.
"""

import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np

from bitfront.models.allocator import keep_freed_memory
from bitfront.spaces import Measurement
from bitfront.studies import StudySpec
from bitfront.studies.evaluation import Worker
from bitfront.studies.ledger import Ledger
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.requests import Request
from bitfront.studies.runner import SPEC_FILE
from bitfront.studies.trials import Trial, planned
from bitfront.studies.workload import Prepared, Workload, prepare

from .intervals import mean_text

Row = tuple[Measurement, Measurement, int]
"""A pick on the search split and on the test split, and the images of its trial."""


def main() -> None:
    """Print a table in Markdown for each budget, the most accurate strategy first."""
    keep_freed_memory()
    folder = Path(sys.argv[1])
    spec = StudySpec.load(folder / SPEC_FILE)
    prepared = prepare(spec)
    rows: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    with closing(Ledger(folder / LEDGER_FILE)) as ledger:
        ended = {row.id: row for row in ledger.trials() if row.state == "done"}
        found = {
            trial.id: pick
            for trial in planned(spec)
            if trial.id in ended and (pick := _pick(trial, ledger, prepared)) is not None
        }
        tested = _tested(list(found.values()), ledger, prepared.workload)
        for name, pick in found.items():
            row = ended[name]
            images = row.own.images_forward + sum(m.samples for m in ledger.history(name))
            rows[row.budget][row.strategy].append((pick, tested[pick.allocation.key], images))
    for budget, strategies in rows.items():
        print(f"\n### {budget}\n")
        print("| strategy | trials | accuracy, % | energy | search loss | images |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, picks in sorted(strategies.items(), key=lambda item: -_accuracy(item[1])):
            accuracies = [100 * test.accuracy for _, test, _ in picks]
            losses = [search.loss for search, _, _ in picks]
            energy = np.mean([test.energy_vs_w8a8 for _, test, _ in picks])
            images = np.mean([images for *_, images in picks])
            print(
                f"| {name} | {len(picks)} | {mean_text(accuracies)} | {energy:.3f} | "
                f"{mean_text(losses, 4)} | {images:,.0f} |"
            )


def _pick(trial: Trial, ledger: Ledger, prepared: Prepared) -> Measurement | None:
    limits = trial.budget.limits
    within = [
        m
        for m in ledger.history(trial.id)
        if not m.failed and prepared.pricing.allows(m.allocation, limits)
    ]
    return min(within, key=lambda m: m.loss, default=None)


def _tested(picks: list[Measurement], ledger: Ledger, workload: Workload) -> dict[str, Measurement]:
    """Return picks on the test split, by the keys of their allocations."""
    requests = list(dict.fromkeys(Request(pick.allocation, "test") for pick in picks))
    known = ledger.get(workload.digest, requests)
    missing = [request for request in requests if request not in known]
    if missing:
        for index, answer in Worker(workload).measure(missing):
            known[missing[index]] = answer
            ledger.put(workload.digest, [answer])
    return {request.allocation.key: answer for request, answer in known.items()}


def _accuracy(picks: list[Row]) -> float:
    return float(np.mean([test.accuracy for _, test, _ in picks]))


if __name__ == "__main__":
    main()
