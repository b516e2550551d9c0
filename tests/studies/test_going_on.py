"""A study that is killed and run again ends as one that was not."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest

from bitfront.studies.findings import trace_of
from bitfront.studies.ledger import Ledger
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.result import StudyResult
from bitfront.studies.runner import measure_study

EPISODES = 30
SAVING = f"""
import time
from pathlib import Path

import numpy as np
from bitfront.searchers import Searcher

LOG = Path(__file__).parent / "episodes"

class Saving(Searcher):
    '''Learns what pays, slowly enough to be killed.'''

    def search(self, problem):
        worth = np.ones(4)
        start = 0
        if problem.saved:
            start, worth = problem.saved["episode"], problem.saved["worth"]
        for episode in range(start, {EPISODES}):
            with LOG.open("a") as file:
                print(problem.seed, episode, file=file)
            index = int(problem.rng.choice(4, p=worth / worth.sum()))
            allocation = problem.space.mutate(problem.space.uniform(2 + 2 * index), problem.rng)
            (measured,) = problem.evaluate([allocation])
            worth[index] += measured.accuracy
            problem.log("episode", allocation, reward=measured.accuracy)
            problem.charge(forward=episode)
            problem.findings["worth"] = worth
            problem.save({{"episode": episode + 1, "worth": worth}})
            time.sleep(0.02)
"""
STUDY = {("budgets", "evaluations"): EPISODES}


@pytest.fixture
def saving_study(tiny_study, tmp_path, monkeypatch):
    """Return a factory of specs with a strategy that saves, in a study of the given name."""
    (tmp_path / "saving.py").write_text(SAVING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "saving", raising=False)

    def load(name, strategy="saving:Saving", **execution):
        keys = {("execution", key): value for key, value in execution.items()}
        strategies = {("strategies",): [{"name": strategy}]}
        return tiny_study({**STUDY, ("study",): name, **strategies, **keys})

    return load


def facts(spec):
    """What the ledger of a finished study says of its trials, but for seconds."""
    with closing(Ledger(spec.folder / LEDGER_FILE)) as ledger:
        trials = [(row.id, row.state, row.error, row.own) for row in ledger.trials()]
        asked = [(row["seed"], row["position"], row["allocation"]) for row in ledger.rows()]
    with closing(sqlite3.connect(spec.folder / LEDGER_FILE)) as db:
        assert db.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    return trials, asked


def episodes(tmp_path, seed=0):
    """The episodes of a seed in the order they ran, whatever process ran them."""
    lines = (tmp_path / "episodes").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith(f"{seed} ")]


def command(spec):
    """Return what runs a study in a process of its own, as `bitfront run` does."""
    code = (
        "import sys; from bitfront.studies.runner import measure_study;"
        "from bitfront.studies.spec import StudySpec;"
        "measure_study(StudySpec.load(sys.argv[1]))"
    )
    path = spec.folder.parent.parent / f"{spec.study}.json"
    path.write_text(json.dumps(spec.to_dict()))
    return [sys.executable, "-c", code, str(path)]


def environment(tmp_path):
    """Return the environment in which a process of its own finds the strategies."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def asks_so_far(spec):
    """Return how much of a study that may just be starting is in its ledger."""
    try:
        with closing(sqlite3.connect(f"file:{spec.folder / LEDGER_FILE}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM asks").fetchone()[0])
    except sqlite3.Error:
        return 0


def kill_with_all_it_started(process):
    """Kill a process and its descendants at once, as a power cut does.

    Of a driver that is killed alone, Ray's processes go on for about a second.
    """
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    doomed = [process.pid]
    for pid in doomed:  # it grows meanwhile
        doomed += [child for child, parent in parents if parent == pid]
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_study_killed_at_a_random_moment_ends_as_without(saving_study, tmp_path, workers):
    whole, killed = saving_study("whole"), saving_study("killed", workers=workers)
    measure_study(whole)
    (tmp_path / "episodes").unlink()
    run = command(killed)
    process = subprocess.Popen(run, env=environment(tmp_path))
    moment = random.randrange(5, 2 * EPISODES - 5)
    while asks_so_far(killed) < moment:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    kill_with_all_it_started(process)
    before = len(episodes(tmp_path)), len(episodes(tmp_path, seed=1))
    subprocess.run(run, env=environment(tmp_path), check=True)
    assert facts(killed) == facts(whole)
    for seed, ran in enumerate(before):
        after = episodes(tmp_path, seed)[ran:]
        # The last steps may not have been written yet; a trial that was done runs over again.
        assert after == list(range(after[0] if after else EPISODES, EPISODES))
        assert ran in (0, 1, 2, EPISODES) or 0 < after[0] <= ran


DYING = """
import os
import signal

from saving import Saving

class Dying(Saving):
    def search(self, problem):
        ask = problem.evaluate

        def evaluate(allocations):
            if len(problem.history) == 20 and problem.saved is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return ask(allocations)

        problem.evaluate = evaluate
        super().search(problem)
"""


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_in_another(saving_study, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    spec = saving_study("dying", strategy="dying:Dying", workers=1)
    subprocess.run(command(spec), env=environment(tmp_path), check=True)
    trials, asked = facts(spec)
    assert [(state, error) for _, state, error, _ in trials] == [("done", None)] * 2
    assert len(asked) == 2 * EPISODES
    for seed in (0, 1):
        ran = episodes(tmp_path, seed)
        assert ran[:21] == list(range(21))  # the last of these died
        assert ran[21:] == list(range(ran[21], EPISODES))
        assert 0 < ran[21] <= 20


DEADLY = """
import os
import signal

from saving import Saving

class Deadly(Saving):
    def search(self, problem):
        ask = problem.evaluate

        def evaluate(allocations):
            if len(problem.history) == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return ask(allocations)

        problem.evaluate = evaluate
        super().search(problem)
"""


@pytest.mark.slow
def test_of_a_trial_whose_process_dies_for_good_what_it_saved_is_told(saving_study, tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    spec = saving_study("deadly", strategy="deadly:Deadly", workers=1)
    subprocess.run(command(spec), env=environment(tmp_path), check=True)
    for trial in StudyResult.load(spec.folder).trials:
        assert trial.error.startswith("its process died: ")
        assert trial.evaluations == 20
        steps = len(trace_of(trial.findings))
        assert 0 < steps <= 20  # the last may not have been kept yet
        assert trial.images_forward == 20 * 40 + sum(range(steps))
        assert len(trial.findings["worth"]) == 4
        assert trial.wall_s > 0.02 * steps


def test_a_study_that_is_interrupted_goes_on_from_the_last_episode(saving_study, tmp_path):
    whole, interrupted = saving_study("whole"), saving_study("interrupted")
    measure_study(whole)
    (tmp_path / "episodes").unlink()

    def interrupt(event):
        if event.phase == "search" and event.done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_study(interrupted, progress=interrupt)
    assert episodes(tmp_path) == list(range(12))
    measure_study(interrupted)
    assert episodes(tmp_path) == [*range(12), *range(11, EPISODES)]  # 11 was not saved
    assert facts(interrupted) == facts(whole)


def test_a_study_of_other_settings_starts_over(saving_study, tmp_path):
    interrupted = saving_study("interrupted")

    def interrupt(event):
        if event.phase == "search" and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_study(interrupted, progress=interrupt)
    (tmp_path / "episodes").unlink()
    measure_study(saving_study("interrupted", batch_size=31))
    assert episodes(tmp_path) == list(range(EPISODES))
