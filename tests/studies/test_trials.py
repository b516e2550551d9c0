import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from bitfront.energy import EnergyModel, EnergyOptions, load_table
from bitfront.searchers import Budget, Pricing
from bitfront.searchers.synthetic import tabular_problem
from bitfront.spaces import DEFAULT_OBJECTIVES, BitAllocation, Scores
from bitfront.studies.desk import SharedScores
from bitfront.studies.findings import trace_of
from bitfront.studies.ledger import OwnWork
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import (
    Ground,
    Trial,
    budget_label,
    planned,
    run_trial,
    saved_work,
    titles,
)

PROBLEM = tabular_problem()
BASELINE = PROBLEM._evaluator([BitAllocation.uniform(PROBLEM.space.layers, 32)])[0]
GROUND = Ground(PROBLEM.space, PROBLEM.pricing, DEFAULT_OBJECTIVES, BASELINE)


@dataclass
class Desk:
    """Answers by a formula and writes everything down."""

    log: list = field(default_factory=list)
    kept: dict = field(default_factory=dict)

    def begin(self, trial):
        self.log.append(("begin", trial))

    def evaluate(self, requests, trial=None):
        self.log.append(("evaluate", trial, len(requests)))
        return PROBLEM._evaluator([request.allocation for request in requests])

    def end(self, trial, wall_s, error, own):
        assert wall_s >= 0
        self.wall_s, self.own = wall_s, own
        self.log.append(("end", trial, error))

    def scores(self, signature):
        return self.kept.get(signature)

    def put_scores(self, scores):
        self.kept[scores.signature] = scores

    def checkpoint(self, trial, signature):
        return self.kept.get((trial, signature))

    def put_checkpoint(self, trial, signature, data):
        self.kept[trial, signature] = data


def trial(name="random", evaluations=5, seed=0, **settings):
    return Trial(StrategySpec(name=name, **settings), Budget(evaluations), seed)


def test_trials_are_strategy_by_budget_by_seed_unless_the_seed_makes_no_difference(tiny_study):
    budgets = [{"evaluations": 3}, {"evaluations": 5, "limits": {"energy": 0.8}}]
    trials = planned(tiny_study({("budgets",): budgets}))
    assert [t.id for t in trials] == [
        f"{strategy} | {budget} | {seed}"
        for strategy, seeds in (("uniform", (0,)), ("random", (0, 1)))
        for budget in ("3 evaluations", "5 evaluations, energy <= 0.8")
        for seed in seeds
    ]


def test_a_budget_is_told_in_words():
    assert budget_label(Budget(1)) == "1 evaluations"
    limits = {"energy": 0.6, "size": 20000}
    assert budget_label(Budget(30, limits)) == "30 evaluations, energy <= 0.6, size <= 20000"


def test_budgets_that_differ_in_a_late_digit_are_different_trials():
    bounds = (0.1 + 0.2, 0.3, 1234567.0, 1234568.0)
    assert len({budget_label(Budget(1, {"energy": bound})) for bound in bounds}) == len(bounds)


def test_people_are_shown_the_budget_where_a_strategy_has_several():
    limited = Trial(StrategySpec(name="random"), Budget(5, {"energy": 0.5}), 0)
    listed = [trial(), limited, trial(seed=1), trial("uniform", 9)]
    assert list(titles(listed).values()) == [
        "random, seed 0, 5 evaluations",
        "random, seed 0, 5 evaluations, energy <= 0.5",
        "random, seed 1, 5 evaluations",
        "uniform, seed 0",
    ]
    assert list(titles([trial(), trial(seed=1)]).values()) == [
        "random, seed 0",
        "random, seed 1",
    ]


def test_a_trial_begins_asks_and_ends():
    desk = Desk()
    run_trial(trial(), GROUND, desk, None)
    name = "random | 5 evaluations | 0"
    assert desk.log[0] == ("begin", name)
    assert desk.log[-1] == ("end", name, None)
    assert sum(entry[2] for entry in desk.log[1:-1]) == 5
    assert {entry[1] for entry in desk.log} == {name}


REPORTING = """
import numpy as np
from bitfront.searchers import Searcher

class Reporting(Searcher):
    def search(self, problem):
        problem.charge(forward=7)
        problem.charge(forward=3, backward=2)
        problem.findings["predicted"] = {"a": np.float64(0.5), "b": float("nan")}
        problem.findings["what"] = {1: (np.arange(2), object)}
        problem.log("episode", problem.space.uniform(4), reward=np.float32(0.5))
        raise RuntimeError("no idea")
"""


def test_what_a_strategy_did_by_itself_is_told_even_if_it_fails(tmp_path, monkeypatch):
    (tmp_path / "reporting.py").write_text(REPORTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reporting", raising=False)
    desk = Desk()
    run_trial(trial("reporting:Reporting"), GROUND, desk, None)
    assert desk.log[-1][2] == "RuntimeError: no idea"
    assert (desk.own.images_forward, desk.own.images_backward) == (10, 2)
    trace = trace_of(desk.own.findings)
    assert (trace.step, len(trace), trace.metrics["reward"]) == ("episode", 1, [0.5])
    assert desk.own.findings == {
        "trace": trace.to_dict(),
        "predicted": {"a": 0.5, "b": None},
        "what": {"1": [[0, 1], "<class 'object'>"]},
    }


def test_a_problem_reaches_the_desks_scores_and_the_further_tables():
    desk = Desk()
    values = np.zeros((len(PROBLEM.space.layers), 2, 33))
    scores = Scores({"kind": "kl"}, "s", tuple(x.name for x in PROBLEM.space.layers), values)
    SharedScores(desk).put(scores)
    assert SharedScores(desk).get("s") is scores
    assert SharedScores(desk).get("t") is None
    tables = {"bitfusion": EnergyModel(load_table("bitfusion"), PROBLEM.space.layers)}
    ground = replace(GROUND, pricing=Pricing(PROBLEM.energy, tables))
    limited = Trial(StrategySpec(name="random"), Budget(1, {"energy:bitfusion": 0.5}), 0)
    problem = ground.problem(limited, PROBLEM._evaluator, None, desk)
    assert problem.price(PROBLEM.space.uniform(8), "energy:bitfusion") == 1.0
    assert not problem.allows(PROBLEM.space.uniform(8))


def test_a_trial_searches_the_part_of_the_space_that_its_strategy_can_and_is_told_to():
    channel = tabular_problem(granularity="channel").space
    ground = replace(GROUND, space=channel)

    def searched(*args, **settings):
        problem = ground.problem(trial(*args, **settings), PROBLEM._evaluator, None, Desk())
        return problem.space

    assert searched("random") is channel
    assert searched("random", granularity="channel") is channel
    assert searched("random", granularity="layer").size == PROBLEM.space.size
    assert searched("budget_loop").size == PROBLEM.space.size


def test_seed_and_label_decide_what_is_asked():
    def asked(**fields):
        keys = []

        class Listening(Desk):
            def evaluate(self, requests, trial=None):
                keys.extend(request.allocation.key for request in requests)
                return super().evaluate(requests, trial)

        run_trial(trial(**fields), GROUND, Listening(), None)
        return keys

    assert asked(seed=1) == asked(seed=1)
    assert asked(seed=1) != asked(seed=2)
    assert asked(seed=1) != asked(seed=1, label="another")


def test_a_signature_tells_trials_apart_by_all_that_decides_what_they_ask():
    channel = tabular_problem(granularity="channel").space
    bitfusion = EnergyModel(load_table("bitfusion"), PROBLEM.space.layers)
    doubled = replace(PROBLEM.energy, options=EnergyOptions(mac_scale=2.0))
    trials = [
        trial(),
        trial("percentile"),
        trial("percentile", probe_bits=3),
        trial(evaluations=6),
        trial(seed=1),
        trial(label="another"),
        *(Trial(StrategySpec(name="random"), Budget(5, {"energy": e}), 0) for e in (0.5, 0.6)),
    ]
    grounds = [
        {"space": tabular_problem(widths=(2, 4)).space},
        {"space": tabular_problem(ties=["weights=activations"]).space},
        {"space": tabular_problem(forbid=[(2, 8)]).space},
        {"space": channel},
        {"pricing": Pricing(PROBLEM.energy, {"bitfusion": bitfusion})},
        {"pricing": Pricing(doubled)},
        {"objectives": tuple(reversed(DEFAULT_OBJECTIVES))},
    ]
    signatures = [
        *(GROUND.signature(other) for other in trials),
        *(replace(GROUND, **other).signature(trial()) for other in grounds),
    ]
    assert len(set(signatures)) == len(signatures)
    assert GROUND.signature(trial()) == signatures[0]
    by_layer = replace(GROUND, space=channel).signature(trial(granularity="layer"))
    assert by_layer == signatures[0]  # the same space, whatever it is a part of


SAVING = """
from bitfront.searchers import Searcher

class Saving(Searcher):
    def search(self, problem):
        start = problem.saved["episode"] if problem.saved else 0
        for episode in range(start, problem.budget.evaluations):
            problem.evaluate([problem.space.sample(problem.rng)])
            problem.findings.setdefault("episodes", []).append(episode)
            problem.save({"episode": episode + 1})
"""


class Short(Desk):
    """Is interrupted at the fourth question."""

    def evaluate(self, requests, trial=None):
        if sum(entry[0] == "evaluate" for entry in self.log) == 3:
            raise KeyboardInterrupt
        return super().evaluate(requests, trial)


@pytest.fixture
def saving(tmp_path, monkeypatch):
    """A trial of a strategy that saves after every question."""
    (tmp_path / "saving.py").write_text(SAVING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "saving", raising=False)
    return trial("saving:Saving")


def test_a_trial_that_was_interrupted_goes_on_and_one_of_other_code_does_not(saving, tmp_path):
    short = Short()
    with pytest.raises(KeyboardInterrupt):
        run_trial(saving, GROUND, short, None)
    again = Desk(kept=dict(short.kept))
    run_trial(saving, GROUND, again, None)
    assert [entry[2] for entry in again.log[1:-1]] == [3, 1, 1]
    assert again.own.findings == {"episodes": [0, 1, 2, 3, 4]}
    (tmp_path / "saving.py").write_text(SAVING + "# better now")
    anew = Desk(kept=dict(short.kept))
    run_trial(saving, GROUND, anew, None)
    assert [entry[2] for entry in anew.log[1:-1]] == [1] * 5


def test_a_trial_that_died_has_what_it_had_saved(saving):
    short = Short()
    with pytest.raises(KeyboardInterrupt):
        run_trial(saving, GROUND, short, None)
    (data,) = short.kept.values()
    wall_s, own = saved_work(data)
    assert wall_s > 0
    assert own == OwnWork(findings={"episodes": [0, 1, 2]})
    assert saved_work(None) == saved_work(data[:100]) == (0.0, OwnWork())


def test_the_seconds_of_a_trial_are_those_of_all_its_parts(saving, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ask = Desk.evaluate

    def evaluate(self, requests, trial=None):
        nonlocal now
        now += 1
        return ask(self, requests, trial)

    monkeypatch.setattr(Desk, "evaluate", evaluate)
    short = Short()
    with pytest.raises(KeyboardInterrupt):
        run_trial(saving, GROUND, short, None)
    now += 1000
    again = Desk(kept=short.kept)
    run_trial(saving, GROUND, again, None)
    assert [entry[2] for entry in again.log[1:-1]] == [3, 1, 1]
    assert again.wall_s == 3 + 3


@pytest.mark.parametrize("raised", ["RuntimeError('no idea')", "SystemExit('no idea')"])
def test_whatever_a_strategy_raises_ends_its_trial_with_the_reason(raised, tmp_path, monkeypatch):
    (tmp_path / "broken_strategy.py").write_text(
        "from bitfront.searchers import Searcher\n"
        "class Broken(Searcher):\n"
        "    def search(self, problem):\n"
        "        problem.evaluate([problem.space.uniform(8)])\n"
        f"        raise {raised}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_strategy", raising=False)
    desk = Desk()
    run_trial(trial("broken_strategy:Broken"), GROUND, desk, None)
    assert [entry[0] for entry in desk.log] == ["begin", "evaluate", "end"]
    assert desk.log[-1][2] == raised.replace("('", ": ").removesuffix("')")


def test_ctrl_c_is_not_a_strategys_failure():
    class Interrupted(Desk):
        def evaluate(self, requests, trial=None):
            raise KeyboardInterrupt

    desk = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial(), GROUND, desk, None)
    assert [entry[0] for entry in desk.log] == ["begin"]
