"""Strategies that train: what they get, what becomes of what they hand over."""

import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bitfront.searchers import Budget
from bitfront.searchers.synthetic import AdditiveLandscape, tabular_problem
from bitfront.spaces import DEFAULT_OBJECTIVES, StudyError
from bitfront.studies.checks import require_training_images
from bitfront.studies.faults import InvalidStudyError
from bitfront.studies.ledger import Ledger
from bitfront.studies.networks import NETWORKS_FOLDER
from bitfront.studies.ray_pool import trials_at_once
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.result import StudyResult
from bitfront.studies.runner import measure_study
from bitfront.studies.sections import StrategySpec
from bitfront.studies.trials import Ground, Trial
from bitfront.studies.workload import prepare
from tests.studies.test_going_on import asks_so_far, command, kill_with_all_it_started

TRAINERS = Path(__file__).parent.parent / "searchers" / "trainers.py"
STEPPING = {"name": "trainers:Stepping", "label": "stepping"}
STUDY = {("budgets", "evaluations"): 20, ("seeds",): [0]}


@pytest.fixture
def training_study(tiny_study, tmp_path, monkeypatch):
    """Return a factory of specs with a strategy that trains."""
    monkeypatch.syspath_prepend(TRAINERS.parent)
    monkeypatch.setenv("PYTHONPATH", str(TRAINERS.parent))  # for processes of Ray
    monkeypatch.setenv("TRAINED_EPOCHS", str(tmp_path / "epochs"))

    def load(*strategies, name="training", **execution):
        keys = {("execution", key): value for key, value in execution.items()}
        listed = list(strategies) or [STEPPING]
        return tiny_study({**STUDY, ("study",): name, ("strategies",): listed, **keys})

    return load


def epochs(tmp_path):
    """The epochs that were trained, in order, whatever process trained them."""
    return [int(line.split()[1]) for line in (tmp_path / "epochs").read_text().splitlines()]


def networks(spec):
    """The digests of the trained networks in a study's folder."""
    return {path.stem for path in (spec.folder / NETWORKS_FOLDER).glob("*")}


def histories(spec):
    """What a study's trials were answered."""
    with closing(Ledger(spec.folder / LEDGER_FILE)) as ledger:
        return {row.id: ledger.history(row.id) for row in ledger.trials()}


def evaluations(spec):
    """What a study's ledger has of evaluations; when each was made tells it from a repetition."""
    with closing(sqlite3.connect(spec.folder / LEDGER_FILE)) as db:
        rows = "allocation, split, network, wall_s, measured_at"
        return sorted(db.execute(f"SELECT {rows} FROM evaluations"))


def timeless(result):
    """A result without the seconds that things took."""

    def still(measurement):
        return replace(measurement, wall_s=0.0)

    points = [replace(p, search=still(p.search), test=still(p.test)) for p in result.points]
    return points, [replace(trial, wall_s=0.0) for trial in result.trials]


def test_what_is_trained_is_measured_with_its_network_on_both_splits(training_study):
    spec = training_study()
    result = measure_study(spec)
    (trial,) = result.trials
    assert (trial.status, trial.evaluations) == ("done", 3)
    assert (trial.images_forward, trial.images_backward) == (3 * 40 + 3 * 32, 3 * 32)
    (history,) = histories(spec).values()
    assert len({measurement.network for measurement in history}) == 3
    for point in result.points:
        assert point.search in history
        assert point.test.network == point.search.network is not None
        assert point.test.samples == 50 and not point.test.failed
    assert StudyResult.load(spec.folder) == result


def test_networks_that_no_front_needs_are_deleted_in_the_end(training_study):
    spec = training_study({**STEPPING, "epochs": 5})
    result = measure_study(spec)
    (history,) = histories(spec).values()
    assert {point.search.network for point in result.points} == networks(spec)
    assert len(networks(spec)) < len(history) == 5


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_run_trains_and_measures_nothing_and_loses_nothing(
    training_study, tmp_path, workers
):
    strategies = (STEPPING, {"name": "random"})
    elsewhere = measure_study(training_study(*strategies, name="elsewhere"))
    (tmp_path / "epochs").unlink()
    spec = training_study(*strategies, workers=workers)
    first = measure_study(spec)
    assert timeless(first) == timeless(elsewhere)  # whatever processes measure
    before = evaluations(spec), networks(spec), histories(spec)
    second = measure_study(spec)
    assert (evaluations(spec), networks(spec), histories(spec)) == before
    assert second.points == first.points
    assert timeless(second) == timeless(first)
    assert epochs(tmp_path) == [0, 1, 2]


def interrupting(done):
    """Return what interrupts a search after so many answers, as `progress`."""

    def interrupt(event):
        if event.phase == "search" and event.done == done:
            raise KeyboardInterrupt

    return interrupt


def test_a_study_that_is_interrupted_goes_on_from_the_last_epoch(training_study, tmp_path):
    strategy = {**STEPPING, "epochs": 5}
    whole, interrupted = (training_study(strategy, name=n) for n in ("whole", "interrupted"))
    expected = measure_study(whole)
    (tmp_path / "epochs").unlink()
    with pytest.raises(KeyboardInterrupt):
        measure_study(interrupted, progress=interrupting(3))
    assert len(networks(interrupted)) == 3
    result = measure_study(interrupted)
    assert epochs(tmp_path) == [0, 1, 2, 2, 3, 4]  # of the third, nothing was saved
    assert timeless(result) == timeless(expected)
    assert networks(interrupted) == networks(whole)
    assert [m.network for m in next(iter(histories(interrupted).values()))] == [
        m.network for m in next(iter(histories(whole).values()))
    ]


@pytest.mark.slow
def test_a_study_killed_while_another_process_trains_ends_as_without(training_study, tmp_path):
    strategy = {**STEPPING, "epochs": 20}
    whole = training_study(strategy, name="whole")
    killed = training_study(strategy, name="killed", workers=1)
    expected = measure_study(whole)
    (tmp_path / "epochs").unlink()
    process = subprocess.Popen(command(killed))
    while asks_so_far(killed) < 4:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    kill_with_all_it_started(process)
    subprocess.run(command(killed), check=True)
    assert timeless(StudyResult.load(killed.folder)) == timeless(expected)
    assert networks(killed) == networks(whole)
    assert len(epochs(tmp_path)) < 20 + 8  # the last epochs may not have been written yet


def test_a_trial_that_fails_keeps_what_it_measured_and_goes_on_from_there(training_study, tmp_path):
    spec = training_study({**STEPPING, "epochs": 5, "fails_after": 4}, {"name": "random"})
    result = measure_study(spec)
    failed, other = result.trials
    assert (failed.status, failed.evaluations, other.status) == ("failed", 3, "done")
    assert failed.error == "RuntimeError: the gradients are not finite"
    found = [point for point in result.points if point.strategy == "stepping"]
    assert found and not any(point.test.failed for point in found)
    assert networks(spec) == {point.search.network for point in found}
    again = measure_study(spec)
    assert epochs(tmp_path) == [0, 1, 2, 3, 3]
    assert timeless(again) == timeless(result)


def test_images_are_counted_as_they_are_charged(training_study):
    trial = measure_study(training_study({**STEPPING, "fails_after": 1})).trials[0]
    assert (trial.evaluations, trial.images_forward, trial.images_backward) == (0, 32, 32)


def test_networks_that_are_gone_fail_by_name_and_the_study_goes_on(training_study):
    spec = training_study()
    with pytest.raises(KeyboardInterrupt):
        measure_study(spec, progress=interrupting(3))
    for path in (spec.folder / NETWORKS_FOLDER).iterdir():
        path.unlink()
    with closing(sqlite3.connect(spec.folder / LEDGER_FILE)) as db, db:
        db.execute("DELETE FROM evaluations WHERE network != ''")
    result = measure_study(spec)
    (history,) = histories(spec).values()
    assert [measurement.failed for measurement in history] == [True, True, False]
    assert "is not in the study's folder any more, or cannot be read" in history[0].error
    assert [point.search for point in result.points] == history[2:]


def test_a_failure_is_told_and_stays_what_it_was_when_its_network_is_gone(
    training_study, monkeypatch
):
    def full(*given):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("bitfront.studies.evaluation.deployed", full)
        first = measure_study(training_study())
    second = measure_study(training_study())
    for result in (first, second):
        (note,) = [note for note in result.notes if "none of its 3 evaluations" in note]
        assert "within the budget; the first of 3 that failed: allocation " in note
        assert "ran out of memory" in note and "no room" in note


def test_networks_of_a_trial_that_ended_are_deleted_before_the_next_ends(training_study):
    seen = []

    def look(event):
        if event.phase == "search":
            seen.append(len(networks(spec)))

    spec = training_study({**STEPPING, "epochs": 5}, {"name": "random"})
    result = measure_study(spec, progress=look)
    assert max(seen) == 5
    found = {point.search.network for point in result.points} - {None}
    assert seen[-1] == len(found) < 5


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_as_many_trials_that_train_run_at_once_as_there_are_workers(training_study, workers):
    training, asking = (
        Trial(StrategySpec(**spec), Budget(5), 0) for spec in (STEPPING, {"name": "random"})
    )
    assert trials_at_once([asking, training], workers) == workers
    assert trials_at_once([asking], workers) == max(2, workers)


@pytest.mark.parametrize(
    ("one_part", "classes", "reason"),
    [
        (True, 10, "digits has no training part: all splits are drawn from one set of images; "),
        (False, 1, "to tell classes apart, and digits has 1; choose data with two classes or more"),
    ],
)
def test_data_that_nothing_can_be_trained_on_is_refused_where_the_strategy_stands(
    training_study, one_part, classes, reason
):
    indices = SimpleNamespace(one_part=one_part, train=np.arange(300))
    splits = SimpleNamespace(indices=indices, classes=classes)
    spec = training_study({"name": "random"}, STEPPING)
    with pytest.raises(InvalidStudyError, match="trainers:Stepping trains the network") as caught:
        require_training_images(spec, splits)
    (fault,) = caught.value.faults
    assert fault.place.startswith("strategies[1]")
    assert reason in fault.message
    assert not require_training_images(training_study({"name": "random"}), splits)


def test_more_images_than_there_are_to_train_on_are_refused_where_they_stand(training_study):
    splits = SimpleNamespace(
        indices=SimpleNamespace(one_part=False, train=np.arange(300)), classes=10
    )

    def spec(images):
        eqat = {"name": "eqat", "images": images, "epochs": 20, "evaluate_every": 20}
        return training_study({"name": "random"}, eqat)

    assert require_training_images(spec(300), splits)
    with pytest.raises(InvalidStudyError) as caught:
        require_training_images(spec(301), splits)
    (fault,) = caught.value.faults
    assert fault.place == "strategies[1].images"
    assert fault.message == (
        "301 images were asked for, but the train split has 300; lower 'images', or leave it out "
        "to take all"
    )


def test_training_images_belong_to_the_trial_and_not_to_what_is_measured(training_study):
    plain = prepare(training_study({"name": "random"})).workload
    training = prepare(training_study()).workload
    assert training.digest == plain.digest
    assert training.size_bytes > plain.size_bytes
    assert len(training.training()) == 1198 - 40
    with pytest.raises(StudyError, match="loaded no images to train on; set trains = True"):
        plain.training()
    before, after = training.float_model(initial=True), training.float_model()
    initial = training.architecture.build().state_dict()
    assert all(torch.equal(v, initial[k]) for k, v in before.state_dict().items())
    assert all(np.array_equal(v, training.state[k]) for k, v in after.state_dict().items())


def test_a_trial_that_trains_is_another_with_other_images_to_train_on(training_study):
    problem = tabular_problem()
    baseline = AdditiveLandscape(problem.energy)([problem.space.uniform(8)])[0]
    ground = Ground(problem.space, problem.pricing, DEFAULT_OBJECTIVES, baseline, "one set")
    other = replace(ground, training="another")
    for spec, is_same in ((StrategySpec(**STEPPING), False), (StrategySpec(name="random"), True)):
        trial = Trial(spec, Budget(5), 0)
        assert (ground.signature(trial) == other.signature(trial)) == is_same


def test_a_disk_that_is_full_is_one_clear_error(training_study, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = measure_study(training_study())
    (trial,) = result.trials
    assert trial.error.startswith("StudyError: cannot keep a trained network in ")
    assert "No space left on device; make room there" in trial.error
