"""The record: flat keys, both ways, and only of one machine."""

import dataclasses
import json

import pytest

from bitfront.benchmarks.record import RECORD, Entry, Record, quartiles

ENTRIES = {
    "engine.resnet20.vs_fp32": Entry(3.4, (3.3, 3.5), 7, "x", "folded", 2, 3.6, "2026-01-02"),
    "pool.overhead_ms": Entry.of(2.5, "ms", 200),
}


def test_quartiles_lie_between_the_values():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 4.0)
    assert quartiles([1.0]) == ()


def test_a_record_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "latest.json"
    record = Record.here(ENTRIES)
    record.write(path)
    assert Record.read(path) == record


def test_keys_are_flat_and_ratios_differ_from_values(tmp_path):
    path = tmp_path / "latest.json"
    Record.here(ENTRIES).write(path)
    facts = json.loads(path.read_text())
    assert set(facts) == {"machine", "versions", *ENTRIES}
    assert facts["engine.resnet20.vs_fp32"] == {
        "ratio": 3.4,
        "spread": [3.3, 3.5],
        "n": 7,
        "unit": "x",
        "note": "folded",
        "disturbed": 2,
        "by_cpu": 3.6,
        "date": "2026-01-02",
    }
    assert set(facts["pool.overhead_ms"]) == {"value", "spread", "n", "unit", "date"}


def test_a_part_measured_anew_replaces_only_itself():
    record = Record.here(ENTRIES)
    newer = Record.here({"pool.overhead_ms": Entry.of(2.0, "ms", 200)})
    merged = record.updated(newer).entries
    assert merged["pool.overhead_ms"].amount == 2.0
    assert merged["engine.resnet20.vs_fp32"] == ENTRIES["engine.resnet20.vs_fp32"]


@pytest.mark.parametrize("field", ["machine", "versions"])
def test_numbers_of_two_machines_do_not_mix(field):
    record = Record.here(ENTRIES)
    other = dataclasses.replace(record, **{field: {**getattr(record, field), "cpu": "another"}})
    with pytest.raises(ValueError, match="another machine or other versions"):
        record.updated(other)


def test_the_record_in_the_repository_names_machine_and_versions():
    record = Record.read(RECORD)
    assert {"cpu", "cores", "flags"} <= set(record.machine)
    assert {"python", "torch", "ray", "bitfront"} <= set(record.versions)
