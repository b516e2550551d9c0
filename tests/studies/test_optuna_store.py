"""A finished study in the file that Optuna's dashboard opens."""

import dataclasses
import json
import math
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from typer.testing import CliRunner

from bitfront.spaces import BitAllocation, StudyError
from bitfront.studies import optuna_store
from bitfront.studies.cli import app
from bitfront.studies.ledger import Ledger, TrialRow
from bitfront.studies.optuna_store import OPTUNA_FILE, write_optuna
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.requests import Request
from bitfront.studies.result import StudyResult
from bitfront.studies.runner import run_study

BUDGET = "30 evaluations, energy <= 0.5"


@pytest.fixture
def finished(tmp_path, synthetic_result):
    """A study's folder with a result and a ledger: per trial, its finalists and what else is."""
    folder = tmp_path / "synthetic"
    folder.mkdir()
    spec = {
        **synthetic_result.spec,
        "objectives": ["accuracy", "energy"],
        "budgets": [{"evaluations": 30, "limits": {"energy": 0.5}}],
    }
    points = tuple(dataclasses.replace(point, budget=BUDGET) for point in synthetic_result.points)
    ledger = Ledger(folder / LEDGER_FILE)
    rows = [
        TrialRow(f"{label} | {BUDGET} | {seed}", label, BUDGET, seed)
        for label in ("percentile", "random", "uniform")
        for seed in (0, 1)
    ]
    ledger.plan(rows)
    trials = []
    for row in rows:
        found = [p.search for p in points if (p.strategy, p.seed) == (row.strategy, row.seed)]
        lost = dataclasses.replace(
            found[0],
            allocation=BitAllocation(found[0].allocation.layers, [8, 7, 7, 7, 8], [8] * 5),
            accuracy=math.nan,
            accuracy_se=math.nan,
            error="the worker died",
        )
        glimpsed = dataclasses.replace(found[1], fidelity=0.25)
        history = [lost, glimpsed, *found]
        ledger.put("0" * 32, history)
        ledger.charge(row.id, "0" * 32, [Request.answered_by(m) for m in history])
        trials.append(
            dataclasses.replace(
                synthetic_result.trials[0],
                strategy=row.strategy,
                seed=row.seed,
                budget=BUDGET,
                evaluations=len(history),
            )
        )
    ledger.close()
    dataclasses.replace(synthetic_result, spec=spec, points=points, trials=tuple(trials)).save(
        folder
    )
    return folder


def test_a_ledger_of_a_run_that_did_not_end_is_refused(finished):
    ledger = opened_ledger(finished)
    ledger.plan([TrialRow("uniform | 99 evaluations | 0", "uniform", "99 evaluations", 0)])
    ledger.close()
    with pytest.raises(StudyError, match="later run that did not end"):
        write_optuna(finished)
    assert not (finished / OPTUNA_FILE).exists()


def opened(path):
    return JournalStorage(JournalFileBackend(str(path)))


def opened_ledger(folder):
    return Ledger(folder / LEDGER_FILE)


def test_every_trial_of_every_strategy_is_an_optuna_study(finished):
    path, count = write_optuna(finished)
    assert path == finished / OPTUNA_FILE
    summaries = optuna.get_all_study_summaries(opened(path))
    assert len(summaries) == count == 6
    assert {s.study_name for s in summaries} == {
        f"{label} | {BUDGET} | {seed}"
        for label in ("percentile", "random", "uniform")
        for seed in (0, 1)
    }
    assert all([d.name for d in s.directions] == ["MAXIMIZE", "MINIMIZE"] for s in summaries)
    assert {s.user_attrs["strategy"] for s in summaries} == {"percentile", "random", "uniform"}


def test_a_trial_has_the_widths_the_values_the_limits_and_all_that_was_measured(finished):
    path, _ = write_optuna(finished)
    name = f"random | {BUDGET} | 1"
    study = optuna.load_study(study_name=name, storage=opened(path))
    ledger = opened_ledger(finished)
    history = [m for m in ledger.history(name) if not m.failed and m.fidelity == 1.0]
    ledger.close()
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len(complete) == len(history) > 3
    for trial, measured in zip(complete, history, strict=True):
        layers, allocation = measured.allocation.layers, measured.allocation
        for layer, weight, activation in zip(
            layers, allocation.weights, allocation.activations, strict=True
        ):
            assert trial.params[f"{layer}.weight"] == weight
            assert trial.params[f"{layer}.activation"] == activation
        assert trial.values == [measured.accuracy, measured.energy_vs_w8a8]
        excess = measured.energy_vs_w8a8 / 0.5 - 1
        assert trial.constraints == {"energy": pytest.approx(excess)}
        assert trial.user_attrs["allocation"] == allocation.key
        assert trial.user_attrs["size_bytes"] == measured.size_bytes
        assert trial.user_attrs["finalist"]
    assert any(trial.constraints["energy"] > 0 for trial in complete)
    assert study.metric_names == ["accuracy", "energy"]
    assert all(trial.constraints["energy"] <= 0 for trial in study.best_trials)


def test_strategies_may_have_budgets_of_their_own(finished):
    def excesses():
        path, _ = write_optuna(finished)
        studies = optuna.get_all_study_summaries(opened(path))
        return {
            study.study_name: [
                trial.constraints
                for trial in optuna.load_study(
                    study_name=study.study_name, storage=opened(path)
                ).trials
            ]
            for study in studies
        }

    expected = excesses()
    result = StudyResult.load(finished)
    budgets = result.spec["budgets"]
    strategies = [{"name": "uniform", "budgets": None}, {"name": "random", "budgets": budgets}]
    spec = {**result.spec, "budgets": [{"evaluations": 99}], "strategies": strategies}
    dataclasses.replace(result, spec=spec).save(finished)
    assert excesses() == expected


def test_failures_and_glimpses_are_told_apart_from_measurements(finished):
    path, _ = write_optuna(finished)
    study = optuna.load_study(study_name=f"uniform | {BUDGET} | 0", storage=opened(path))
    lost, glimpsed = study.trials[:2]
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs["error"] == "the worker died"
    assert "accuracy" not in lost.user_attrs
    assert glimpsed.state == TrialState.PRUNED
    assert glimpsed.user_attrs["fidelity"] == 0.25


def test_channels_are_shown_by_their_mean(finished):
    ledger = opened_ledger(finished)
    row = ledger.trials()[0]
    measured = next(m for m in ledger.history(row.id) if not m.failed)
    per_channel = dataclasses.replace(
        measured, allocation=measured.allocation.replace("conv2", weight=[2, 4, 6, 8])
    )
    ledger.put("0" * 32, [per_channel])
    ledger.charge(row.id, "0" * 32, [Request.answered_by(per_channel)])
    ledger.close()
    result = StudyResult.load(finished)
    first, *others = result.trials
    one_more = dataclasses.replace(first, evaluations=first.evaluations + 1)
    dataclasses.replace(result, trials=(one_more, *others)).save(finished)
    path, _ = write_optuna(finished)
    last = optuna.load_study(study_name=row.id, storage=opened(path)).trials[-1]
    assert last.params["conv2.weight"] == 5.0
    assert isinstance(last.params["conv3.weight"], int)


def test_an_existing_file_is_replaced_and_an_interrupted_one_leaves_it(finished, monkeypatch):
    path, _ = write_optuna(finished)
    write_optuna(finished)
    assert len(optuna.get_all_study_summaries(opened(path))) == 6
    before = path.read_bytes()
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return frozen(*arguments)

    frozen = optuna_store._frozen
    monkeypatch.setattr(optuna_store, "_frozen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_optuna(finished)
    assert path.read_bytes() == before
    assert sorted(p.name for p in finished.iterdir()) == [LEDGER_FILE, OPTUNA_FILE, "result.json"]


def test_a_study_without_a_ledger_is_refused(finished):
    (finished / LEDGER_FILE).unlink()
    with pytest.raises(StudyError, match=r"ledger .* is missing"):
        write_optuna(finished)


def test_the_dashboard_lists_the_studies(finished):
    dashboard = pytest.importorskip("optuna_dashboard")
    path, _ = write_optuna(finished)
    with make_server("127.0.0.1", 0, dashboard.wsgi(opened(path)), handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/api/studies"
            with urllib.request.urlopen(address, timeout=30) as answer:
                listed = json.load(answer)["study_summaries"]
        finally:
            server.shutdown()
            thread.join()
    assert {study["study_name"] for study in listed} == {
        f"{label} | {BUDGET} | {seed}"
        for label in ("percentile", "random", "uniform")
        for seed in (0, 1)
    }


def test_the_command_writes_the_file_and_says_how_to_open_it(finished):
    ended = CliRunner().invoke(app, ["optuna", str(finished)])
    assert ended.exit_code == 0, ended.output
    path = finished / OPTUNA_FILE
    assert f"optuna-dashboard --host 127.0.0.1 {path}" in ended.output.replace("\n", "")
    assert len(optuna.get_all_study_summaries(opened(path))) == 6
    ended = CliRunner().invoke(
        app, ["optuna", "synthetic", "--output", str(finished.parent), "--json"]
    )
    assert json.loads(ended.stdout)["studies"] == 6


@pytest.mark.slow
def test_a_study_that_was_run_can_be_written(tiny_study):
    spec = tiny_study(
        {
            ("seeds",): [0],
            ("strategies",): [{"name": "uniform", "widths": [8, 4]}, {"name": "optuna"}],
            ("budgets",): {"evaluations": 4, "limits": {"energy": 0.9}},
        }
    )
    assert not run_study(spec).failed_trials
    path, count = write_optuna(spec.folder)
    assert count == 2
    summaries = optuna.get_all_study_summaries(opened(path))
    counts = {s.user_attrs["strategy"]: s.n_trials for s in summaries}
    assert counts["optuna"] == 4
    assert counts["uniform"] >= 1


class _Silent(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass
