"""What each strategy of a study would have you deploy, within each of its budgets.

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.picks \\
        bitfront-runs/cifar10-resnet20-learned

A trial's pick is, of its front within its budget, what is best on the search split by the study's
first objective; its accuracy is that on the test split, measured now if the study has not done so.
Of several seeds the mean and half of its 95 % interval by Student's t are given; a deterministic
strategy has one trial. Images passed forward and backward, and seconds, are those of a whole trial.
Where strategies train, the energies at which their last epochs ended stand beside those of the
picks, which may be earlier and cheaper networks. Trials that have not ended are left out.
"""

import sys
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitfront.models.allocator import keep_freed_memory
from bitfront.spaces import Measurement, pareto_front
from bitfront.studies import StudySpec
from bitfront.studies.epochs import EPOCH
from bitfront.studies.evaluation import Worker
from bitfront.studies.findings import trace_of
from bitfront.studies.ledger import Ledger
from bitfront.studies.networks import NetworkFiles
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.requests import Request, held_networks
from bitfront.studies.runner import SPEC_FILE
from bitfront.studies.trials import Trial, planned
from bitfront.studies.workload import Prepared, Workload, prepare

from .intervals import mean_text


@dataclass(frozen=True)
class Pick:
    """What a trial would have one deploy.

    Attributes:
        search: On the search split.
        test: On the test split.
        forward: Images the trial passed forward.
        backward: Images it passed backward.
        wall_s: Seconds it took.
        last_energy: Energy of the widths of its last epoch; None if it did not train.
    """

    search: Measurement
    test: Measurement
    forward: int
    backward: int
    wall_s: float
    last_energy: float | None


def main() -> None:
    """Print a table in Markdown for each budget, the most accurate strategy first."""
    keep_freed_memory()
    folder = Path(sys.argv[1])
    spec = StudySpec.load(folder / SPEC_FILE)
    prepared = prepare(spec)
    rows: dict[str, dict[str, list[Pick]]] = defaultdict(lambda: defaultdict(list))
    with closing(Ledger(folder / LEDGER_FILE)) as ledger:
        ended = {row.id: row for row in ledger.trials() if row.state == "done"}
        found = {
            trial.id: pick
            for trial in planned(spec)
            if trial.id in ended and (pick := _pick(trial, ledger, prepared, spec)) is not None
        }
        networks = NetworkFiles(folder)
        tested = _tested(list(found.values()), ledger, prepared.workload, networks)
        for name, pick in found.items():
            row, history = ended[name], ledger.history(name)
            forward = sum(m.samples + m.images_forward for m in history) + row.own.images_forward
            backward = sum(m.images_backward for m in history) + row.own.images_backward
            test = tested[_test(pick)]
            trace = trace_of(row.own.findings)
            last = trace.last("energy") if trace and trace.step == EPOCH else None
            rows[row.budget][row.strategy].append(
                Pick(pick, test, forward, backward, row.wall_s, last)
            )
    for budget, strategies in rows.items():
        print(f"\n### {budget}\n")
        heads = "trials | accuracy, % | energy | last epoch | search loss | forward | backward | s"
        print(f"| strategy | {heads} |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, picks in sorted(strategies.items(), key=lambda item: -_accuracy(item[1])):
            accuracies = [100 * pick.test.accuracy for pick in picks]
            losses = [pick.search.loss for pick in picks]
            energy = np.mean([pick.test.energy_vs_w8a8 for pick in picks])
            forward = np.mean([pick.forward for pick in picks])
            backward = np.mean([pick.backward for pick in picks])
            wall_s = np.mean([pick.wall_s for pick in picks])
            print(
                f"| {name} | {len(picks)} | {mean_text(accuracies)} | {energy:.3f} | "
                f"{_span(picks)} | "
                f"{mean_text(losses, 4)} | {forward:,.0f} | {backward:,.0f} | {wall_s:,.0f} |"
            )


def _pick(trial: Trial, ledger: Ledger, prepared: Prepared, spec: StudySpec) -> Measurement | None:
    limits = trial.budget.limits
    within = [
        m
        for m in ledger.history(trial.id)
        if not m.failed and prepared.pricing.allows(m.allocation, limits)
    ]
    first = spec.compared[0]
    sign = -1 if first.maximize else 1
    return min(pareto_front(within, spec.compared), key=lambda m: sign * first.of(m), default=None)


def _test(pick: Measurement) -> Request:
    return Request(pick.allocation, "test", network=pick.network or "")


def _tested(
    picks: list[Measurement], ledger: Ledger, workload: Workload, networks: NetworkFiles
) -> dict[Request, Measurement]:
    """Return picks on the test split."""
    requests = list(dict.fromkeys(map(_test, picks)))
    known = ledger.get(workload.digest, requests)
    missing = [request for request in requests if request not in known]
    if missing:
        held = held_networks(missing, networks.get)
        for index, answer in Worker(workload).measure(missing, held):
            known[missing[index]] = answer
            ledger.put(workload.digest, [answer])
    return known


def _span(picks: list[Pick]) -> str:
    """Return from what to what energy the last epochs of trials ended."""
    found = [pick.last_energy for pick in picks if pick.last_energy is not None]
    ends = {f"{end:.3f}" for end in (min(found), max(found))} if found else set()
    return " to ".join(sorted(ends))


def _accuracy(picks: list[Pick]) -> float:
    return float(np.mean([pick.test.accuracy for pick in picks]))


if __name__ == "__main__":
    main()
