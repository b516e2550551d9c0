import dataclasses
import io

import pytest
from rich.console import Console, Group

from bitfront.searchers.trace import Trace
from bitfront.studies.result import TrialRecord
from bitfront.studies.show_trials import trial_parts

SOLVER = [{"status": "optimal", "score": 0.5, "bound": 0.5, "gap": 0.0}]
PAIRS = ((1.0, 0.1), (2.0, 0.2), (3.0, 0.3))


def shown(result, *trials, width=80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Group(*trial_parts(dataclasses.replace(result, trials=trials))))
    return console.file.getvalue().splitlines()


@pytest.fixture
def record():
    return TrialRecord("ilp", 0, "30 evaluations", 30, 12_345, 1.25, images_backward=678)


def test_every_trial_has_its_costs(synthetic_result, record):
    other = dataclasses.replace(record, strategy="random", seed=1, images_backward=0)
    heading, first, second = shown(synthetic_result, record, other)
    assert heading.split() == ["trial", "evaluations", "images", "forward", "backward", "seconds"]
    assert first.split() == ["ilp,", "seed", "0", "30", "12,345", "678", "1.2"]
    assert second.split() == ["random,", "seed", "1", "30", "12,345", "0", "1.2"]


def test_budgets_are_named_where_there_are_several(synthetic_result, record):
    other = dataclasses.replace(record, budget="30 evaluations, energy <= 0.5")
    text = " ".join(shown(synthetic_result, record, other, width=120))
    assert "ilp, seed 0, 30 evaluations, energy <= 0.5" in text


def test_solvers_and_predictions_have_a_line_for_each_trial(synthetic_result, record):
    solved = dataclasses.replace(record, findings={"solver": SOLVER})
    predicting = dataclasses.replace(record, seed=1, findings={"predicts": "kl"}, predictions=PAIRS)
    lonely = dataclasses.replace(record, seed=2, predictions=PAIRS[:1])
    lines = shown(synthetic_result, record, solved, predicting, lonely, width=120)
    at = lines.index("exact solvers")
    assert lines[at + 1] == "  ilp, seed 0: 1 optimal; gap 0 (score 0.5, bound 0.5)"
    at = lines.index("predicted against the measured loss on the search split")
    assert lines[at + 1 :] == [
        "  ilp, seed 1: kl: 3 allocations, Kendall's tau 1.00, R² 1.00",
        "  ilp, seed 2: 1 allocation",
    ]


def test_what_was_logged_is_told_in_a_line(synthetic_result, make_synthetic_trace, record):
    trace = make_synthetic_trace(steps=150)
    short = Trace("epoch", ("fc",), {"loss": [0.5]}, [[8]], [[8]])
    logged = dataclasses.replace(record, findings={"trace": trace.to_dict()})
    epoch = dataclasses.replace(record, seed=1, findings={"trace": short.to_dict()})
    lines = shown(synthetic_result, record, logged, epoch, width=120)
    best = max(trace.metrics["accuracy"])
    assert lines[lines.index("logged step by step") + 1 :] == [
        f"  ilp, seed 0: 150 episodes, best accuracy {100 * best:.2f} %",
        "  ilp, seed 1: 1 epoch",
    ]


def test_without_findings_there_is_no_block(synthetic_result, record):
    text = " ".join(shown(synthetic_result, record))
    assert "solver" not in text
    assert "predicted" not in text
    assert "logged" not in text
