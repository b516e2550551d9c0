import sqlite3
from dataclasses import replace

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, Layer, StudyError
from bitfront.studies.ledger import SCHEMA_VERSION, Ledger, TrialRow
from bitfront.studies.requests import Request, failed, measured

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
ENERGY = EnergyModel(load_table("horowitz-45nm"), LAYERS)


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
    with pytest.raises(StudyError, match=r"has version 2 and this bitfront knows up to 1"):
        Ledger(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("no database, but long enough to have a header" * 3)
    with pytest.raises(StudyError, match="cannot be used"):
        Ledger(path)
    with pytest.raises(StudyError, match="cannot be used"):
        Ledger(tmp_path / "no such folder" / "ledger.sqlite")
