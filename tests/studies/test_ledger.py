import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, Layer, Scores, StudyError
from bitfront.studies.ledger import SCHEMA_VERSION, Ledger, OwnWork, TrialRow
from bitfront.studies.requests import Request, failed, measured

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
ENERGY = EnergyModel(load_table("horowitz-45nm"), LAYERS)


DIGEST = "ab" * 16
VALUES = np.full((1, 2, 33), np.nan)
VALUES[0, :, [4, 8]] = [[1 / 3, 0.1], [1e-9, 0.0]]
SCORES = Scores({"kind": "kl"}, "s", ("fc",), VALUES, images_forward=5, wall_s=0.25)


def request(bits, **fields):
    return Request(BitAllocation.uniform(LAYERS, bits), **fields)


def answer(asked, correct=3):
    return measured(asked, ENERGY, correct=correct, loss_sum=1 / 3, samples=7, wall_s=0.1)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_what_is_put_is_found_again_bit_for_bit_after_reopening(tmp_path):
    asked = [request(8), request(8, split="test"), request(8, fidelity=0.5), request(4)]
    first = Ledger(tmp_path / "ledger.sqlite")
    first.put("w", [answer(a) for a in asked])
    first.close()
    second = Ledger(tmp_path / "ledger.sqlite")
    assert second.get("w", [*asked, request(2)]) == {a: answer(a) for a in asked}
    second.close()


def test_another_workload_is_another_key(ledger):
    ledger.put("w", [answer(request(8))])
    assert ledger.get("other", [request(8)]) == {}


def test_a_per_channel_allocation_survives(ledger):
    asked = Request(BitAllocation(["fc"], [[8, 4]], [8]))
    ledger.put("w", [answer(asked)])
    assert ledger.get("w", [asked]) == {asked: answer(asked)}


def test_a_later_answer_takes_the_place_of_an_earlier(ledger):
    ledger.put("w", [answer(request(8), correct=1)])
    ledger.put("w", [answer(request(8), correct=2)])
    assert ledger.get("w", [request(8)])[request(8)].accuracy == 2 / 7


def test_failures_are_on_record_and_tried_again(ledger):
    ledger.plan([TrialRow("t", "random", "30 evaluations", 0)])
    ledger.charge("t", "w", [request(8)])
    ledger.put("w", [failed(request(8), ENERGY, "broke")])
    assert ledger.get("w", [request(8)]) == {}
    assert [m.failed for m in ledger.history("t")] == [True]


def test_a_batch_is_put_whole_or_not_at_all(ledger):
    with pytest.raises(AttributeError):
        ledger.put("w", [answer(request(8)), replace(answer(request(4)), allocation=None)])
    assert ledger.get("w", [request(8)]) == {}


def test_history_has_every_question_in_order_repeated_ones_too(ledger):
    ledger.plan([TrialRow("t", "random", "30 evaluations", 0)])
    ledger.put("w", [answer(request(8)), answer(request(4))])
    ledger.charge("t", "w", [request(8), request(4)])
    ledger.charge("t", "w", [request(8)])
    assert [m.mean_weight_bits for m in ledger.history("t")] == [8, 4, 8]


def test_a_trial_that_begins_again_forgets_its_questions(ledger):
    ledger.plan([TrialRow("t", "random", "30 evaluations", 0)])
    ledger.put("w", [answer(request(8))])
    for _ in range(2):
        ledger.begin("t")
        ledger.charge("t", "w", [request(8)])
    assert len(ledger.history("t")) == 1


def test_trials_are_told_in_the_order_planned_with_how_they_went(ledger):
    rows = [TrialRow(name, name, "1 evaluations", 0) for name in ("b", "a", "c")]
    ledger.plan(rows)
    ledger.begin("b")
    ledger.end("b", 1.5)
    ledger.begin("a")
    ledger.end("a", 0.5, "ValueError: no")
    assert ledger.trials() == [
        replace(rows[0], state="done", wall_s=1.5),
        replace(rows[1], state="failed", wall_s=0.5, error="ValueError: no"),
        rows[2],
    ]


def test_a_trial_keeps_its_own_work_and_a_new_plan_forgets_it(ledger):
    row = TrialRow("t", "ilp", "1 evaluations", 0)
    ledger.plan([row])
    own = OwnWork(640, 64, {"solver": [{"status": "optimal"}], "none": None})
    ledger.end("t", 0.5, "ValueError: no", own)
    assert ledger.trials() == [
        replace(row, state="failed", wall_s=0.5, error="ValueError: no", own=own)
    ]
    ledger.plan([row])
    assert ledger.trials() == [row]


def test_scores_survive_bit_for_bit_and_later_ones_take_their_place(tmp_path):
    first = Ledger(tmp_path / "ledger.sqlite")
    assert first.scores("s") is None
    first.put_scores(SCORES)
    first.plan([])  # another run of the study
    first.close()
    second = Ledger(tmp_path / "ledger.sqlite")
    found = second.scores("s")
    assert (found.config, found.signature, found.layers) == ({"kind": "kl"}, "s", ("fc",))
    np.testing.assert_array_equal(found.values, SCORES.values)
    assert (found.images_forward, found.images_backward, found.wall_s) == (5, 0, 0.25)
    assert second.scores("t") is None
    second.put_scores(replace(SCORES, images_forward=6))
    assert second.scores("s").images_forward == 6
    second.close()


def test_a_checkpoint_is_kept_until_its_trial_is_done(ledger):
    rows = [TrialRow(name, name, "1 evaluations", 0) for name in ("a", "b")]
    assert ledger.checkpoint("a", "s") is None
    ledger.put_checkpoint("a", "s", b"old")
    ledger.put_checkpoint("a", "s", b"\0new")
    ledger.put_checkpoint("b", "s", b"other")
    ledger.plan(rows)  # another run of the study
    ledger.begin("a")
    assert ledger.checkpoint("a", "s") == b"\0new"
    ledger.end("a", 0.5, "ValueError: no")
    assert ledger.checkpoint("a", "s") == b"\0new"
    ledger.end("a", 0.5)
    assert ledger.checkpoint("a", "s") is None
    assert ledger.checkpoint("b", "s") == b"other"


def test_checkpoints_of_trials_that_are_planned_no_more_are_removed(ledger):
    a, b = (TrialRow(name, name, "1 evaluations", 0) for name in ("a", "b"))
    ledger.plan([a, b])
    ledger.put_checkpoint("a", "s", b"of a")
    ledger.put_checkpoint("b", "s", b"of b")
    ledger.plan([b])
    assert ledger.checkpoint("a", "s") is None
    assert ledger.checkpoint("b", "s") == b"of b"


def test_a_checkpoint_of_another_signature_is_none_and_makes_room(ledger):
    ledger.put_checkpoint("a", "s", b"old")
    assert ledger.checkpoint("a", "t") is None
    ledger.put_checkpoint("a", "t", b"new")
    assert ledger.checkpoint("a", "s") is None
    assert ledger.checkpoint("a", "t") == b"new"


def test_a_new_plan_keeps_evaluations_and_drops_old_trials(ledger):
    ledger.plan([TrialRow("old", "random", "30 evaluations", 0)])
    ledger.put("w", [answer(request(8))])
    ledger.charge("old", "w", [request(8)])
    ledger.plan([TrialRow("new", "random", "30 evaluations", 1)])
    assert [row.id for row in ledger.trials()] == ["new"]
    assert ledger.history("old") == []
    assert request(8) in ledger.get("w", [request(8)])


def test_rows_are_plain_values_of_every_question(ledger):
    ledger.plan([TrialRow("t", "random", "30 evaluations", 7)])
    ledger.put("w", [answer(request(8)), failed(request(4), ENERGY, "broke")])
    ledger.charge("t", "w", [request(8), request(4)])
    first, second = ledger.rows()
    assert (first["strategy"], first["seed"], first["position"]) == ("random", 7, 0)
    assert first["allocation"] == request(8).allocation.key
    assert (first["accuracy"], first["wall_s"], first["error"]) == (3 / 7, 0.1, None)
    assert second["accuracy"] is None and second["error"].endswith("broke")


def test_a_second_reader_sees_what_was_put(ledger):
    ledger.put("w", [answer(request(8))])
    reader = Ledger(ledger.path)
    assert reader.get("w", [request(8)])
    reader.close()


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StudyError, match=r"has version 5 and this bitfront knows up to 4"):
        Ledger(path)


VERSION_1 = """
CREATE TABLE evaluations (
    workload TEXT NOT NULL, allocation TEXT NOT NULL, split TEXT NOT NULL, fidelity REAL NOT NULL,
    accuracy, accuracy_se, loss, energy_vs_w8a8, energy_vs_fp32, energy_pj, size_bytes, bops,
    mean_weight_bits, mean_activation_bits, samples, wall_s, error,
    measurement TEXT NOT NULL,
    measured_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (workload, allocation, split, fidelity)
);
CREATE TABLE trials (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL,
    strategy TEXT NOT NULL, budget TEXT NOT NULL, seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'planned', wall_s REAL NOT NULL DEFAULT 0, error TEXT
);
CREATE TABLE asks (
    trial TEXT NOT NULL REFERENCES trials, position INTEGER NOT NULL,
    workload TEXT NOT NULL, allocation TEXT NOT NULL, split TEXT NOT NULL, fidelity REAL NOT NULL,
    PRIMARY KEY (trial, position)
);
INSERT INTO trials VALUES ('t', 0, 'random', '30 evaluations', 0, 'done', 1.5, NULL);
INSERT INTO asks SELECT 't', 0, workload, allocation, split, fidelity FROM evaluations;
PRAGMA user_version = 1;
"""
"""The tables as the first version made them, with a trial."""


def test_a_ledger_of_version_1_is_upgraded_in_place_and_keeps_all(tmp_path):
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    tables, values = VERSION_1.split("INSERT INTO trials")
    db.executescript(tables)
    db.close()
    measured_then = Ledger(tmp_path / "now.sqlite")
    measured_then.put("w", [answer(request(8))])
    measured_then.close()
    db = sqlite3.connect(path)
    db.execute("ATTACH ? AS now", (str(tmp_path / "now.sqlite"),))
    columns = [name for _, name, *_ in db.execute("PRAGMA main.table_info(evaluations)")]
    listed = ", ".join(columns)
    db.execute(f"INSERT INTO evaluations ({listed}) SELECT {listed} FROM now.evaluations")
    db.execute("UPDATE evaluations SET measurement = json_remove(measurement, '$.network')")
    db.commit()
    db.executescript("INSERT INTO trials" + values)
    db.close()
    for _ in range(2):  # the second opening finds nothing to do
        upgraded = Ledger(path)
        (row,) = upgraded.trials()
        assert row == TrialRow("t", "random", "30 evaluations", 0, "done", 1.5)
        assert upgraded.history("t") == [answer(request(8))]
        upgraded.close()
    upgraded = Ledger(path)
    own = OwnWork(7, 3, {"a": [1]})
    upgraded.end("t", 2.0, None, own)
    upgraded.put_scores(SCORES)
    upgraded.put_checkpoint("t", "s", b"saved")
    assert upgraded.checkpoint("t", "s") == b"saved"
    assert upgraded.trials()[0].own == own
    assert upgraded.scores("s").to_dict() == SCORES.to_dict()
    upgraded.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


VERSION_3 = """
CREATE TABLE scores (signature TEXT PRIMARY KEY, kind TEXT NOT NULL, scores TEXT NOT NULL);
ALTER TABLE trials ADD COLUMN images_forward INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trials ADD COLUMN images_backward INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trials ADD COLUMN findings TEXT NOT NULL DEFAULT '{}';
CREATE TABLE checkpoints (trial TEXT PRIMARY KEY, signature TEXT NOT NULL, data BLOB NOT NULL);
INSERT INTO checkpoints VALUES ('t', 's', CAST('saved' AS BLOB));
PRAGMA user_version = 3;
"""
"""What the third version has beyond the first, with a checkpoint."""


def test_what_a_ledger_of_version_3_has_counts_for_networks_without_training(tmp_path):
    path = tmp_path / "ledger.sqlite"
    now = Ledger(tmp_path / "now.sqlite")
    now.put("w", [answer(request(8))])
    now.close()
    db = sqlite3.connect(path)
    db.executescript(VERSION_1.split("INSERT INTO trials")[0])
    db.execute("ATTACH ? AS now", (str(tmp_path / "now.sqlite"),))
    columns = ", ".join(name for _, name, *_ in db.execute("PRAGMA main.table_info(evaluations)"))
    db.execute(f"INSERT INTO evaluations ({columns}) SELECT {columns} FROM now.evaluations")
    db.execute("UPDATE evaluations SET measured_at = 'then'")
    db.commit()
    db.executescript("INSERT INTO trials" + VERSION_1.split("INSERT INTO trials")[1] + VERSION_3)
    db.close()
    upgraded = Ledger(path)
    assert upgraded.get("w", [request(8)]) == {request(8): answer(request(8))}
    assert [row["network"] for row in upgraded.rows()] == [""]
    assert upgraded.checkpoint("t", "s") == b"saved"
    trained = request(8, network=DIGEST)
    upgraded.put("w", [answer(trained, correct=5)])
    found = upgraded.get("w", [request(8), trained])
    assert [m.accuracy for m in found.values()] == [3 / 7, 5 / 7]
    upgraded.close()
    with closing(sqlite3.connect(path)) as db:
        times = db.execute("SELECT measured_at FROM evaluations WHERE network = ''").fetchall()
        assert times == [("then",)]
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert "evaluations_3" not in tables


def test_a_trained_network_is_another_key(ledger):
    one, two = (request(8, network=digit * 32) for digit in "12")
    ledger.plan([TrialRow("t", "eqat", "3 evaluations", 0)])
    ledger.put("w", [answer(one, correct=1), answer(two, correct=2), answer(request(8), correct=3)])
    assert [m.accuracy for m in ledger.get("w", [two, request(8), one]).values()] == [
        2 / 7, 3 / 7, 1 / 7,
    ]  # fmt: skip
    ledger.charge("t", "w", [two, request(8), one, two])
    assert [m.network for m in ledger.history("t")] == ["2" * 32, None, "1" * 32, "2" * 32]
    assert [row["network"] for row in ledger.rows()] == ["2" * 32, "", "1" * 32, "2" * 32]


def test_what_other_code_deployed_is_measured_again(ledger, monkeypatch):
    trained, plain = request(8, network="1" * 32), request(8)
    ledger.put("w", [answer(trained), answer(plain)])
    assert set(ledger.get("w", [trained, plain])) == {trained, plain}
    monkeypatch.setattr("bitfront.studies.ledger.DEPLOYMENT_VERSION", 99)
    assert set(ledger.get("w", [trained, plain])) == {plain}


def test_a_trial_that_trained_keeps_its_checkpoint_when_it_is_done(ledger):
    for trial, trained in (("asked", False), ("trained", True)):
        ledger.plan([TrialRow(trial, "eqat", "3 evaluations", 0)])
        ledger.put_checkpoint(trial, "s", b"saved")
        ledger.end(trial, 1.0, None, OwnWork(trained=trained))
        assert ledger.checkpoint(trial, "s") == (b"saved" if trained else None)


def test_a_ledger_that_cannot_be_written_is_one_clear_error(ledger):
    ledger._db.execute("PRAGMA max_page_count = 1")  # the disk is full
    with pytest.raises(StudyError, match=r"cannot write the ledger .*: database or disk is full"):
        ledger.put_checkpoint("t", "s", bytes(10**6))
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    ledger._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StudyError, match=r"cannot write the ledger .* and run the study again"):
        ledger.put("w", [answer(request(8))])


def test_a_broken_upgrade_leaves_the_old_version(tmp_path):
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1 + "CREATE TABLE scores (signature TEXT);")  # in the way
    db.close()
    with pytest.raises(StudyError, match="already exists"):
        Ledger(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    names = [name for _, name, *_ in db.execute("PRAGMA table_info(trials)")]
    assert "findings" not in names
    db.close()


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("no database, but long enough to have a header" * 3)
    with pytest.raises(StudyError, match="cannot be used"):
        Ledger(path)
    with pytest.raises(StudyError, match="cannot be used"):
        Ledger(tmp_path / "no such folder" / "ledger.sqlite")
