"""The table: bars, verdicts, and the page that shows the record as it is."""

import io

import pytest
from rich.console import Console

from bitfront.benchmarks import scaling_model
from bitfront.benchmarks.record import RECORD, Entry, Record
from bitfront.benchmarks.report import (
    BEGIN,
    END,
    MEANINGS,
    PAGE,
    bar_of,
    markdown,
    missed,
    rows,
    show,
    with_part,
)
from bitfront.benchmarks.suite import BENCHMARKS


def record(**amounts):
    units = {"agreement": "%", "accuracy_difference": "points"}
    return Record.here(
        {
            f"engine.resnet20.{name}": Entry(
                amount, (amount, amount), 7, units.get(name, "x"), date="2026-01-02"
            )
            for name, amount in amounts.items()
        }
    )


@pytest.mark.parametrize(
    ("name", "amount", "is_missed"),
    [
        ("vs_fp32", 3.0, False),
        ("vs_fp32", 2.99, True),
        ("agreement", 99.9, False),
        ("agreement", 99.8, True),
        ("accuracy_difference", -0.06, True),  # by which side does not matter
        ("accuracy_difference", 0.05, False),
        ("vs_reference", 0.5, False),  # has no bar
    ],
)
def test_bars_have_a_side(name, amount, is_missed):
    assert missed(record(**{name: amount}).entries) == (
        [f"engine.resnet20.{name}"] if is_missed else []
    )


def test_a_row_says_what_was_measured_against_what():
    one, two = rows(record(vs_fp32=3.456, vs_reference=4.0))
    assert (one.measured, one.spread, one.bar, one.verdict) == (
        "3.46x",
        "3.46 to 3.46",
        ">= 3x",
        "met",
    )
    assert (two.bar, two.verdict) == ("", "")


def test_a_row_says_what_disturbed_it():
    entry = Entry(3.4, (), 7, "x", note="folded", disturbed=2, by_cpu=2.9)
    (row,) = rows(Record.here({"engine.resnet20.vs_fp32": entry}))
    assert row.meaning.endswith("; folded; 2 of 7 rounds disturbed; 2.9 by CPU time")


def test_the_table_stands_between_its_marks():
    begin, end = BEGIN.format("results"), END.format("results")
    table = markdown(record(vs_fp32=2.0))
    made = with_part(f"# Title\n\n{begin}\nold\n{end}\n\nMore.\n", "results", table)
    assert made == f"# Title\n\n{begin}\n\n{table}\n\n{end}\n\nMore.\n"
    assert "| `engine.resnet20.vs_fp32` |" in table
    assert "| 2x | 2 to 2 | 7 | >= 3x | missed |" in table
    with pytest.raises(ValueError, match="no part 'scaling'"):
        with_part(made, "scaling", "text")


def test_the_terminal_shows_the_same_rows():
    console = Console(file=io.StringIO(), width=200)
    show(record(vs_fp32=2.0, agreement=100.0), console)
    text = console.file.getvalue()
    assert "engine.resnet20.vs_fp32" in text
    assert "missed" in text
    assert "100.00 %" in text


def test_every_key_has_a_meaning_and_every_meaning_a_key():
    keys = [key for one in BENCHMARKS for key in one.keys]
    assert len(keys) == len(set(keys))
    meanings = {next(rows(Record.here({key: Entry.of(1, "x")}))).meaning for key in keys}
    assert meanings == set(MEANINGS.values())


@pytest.mark.parametrize(
    "key",
    [
        "engine.resnet18.vs_fp32",
        "engine.resnet18.vs_fake_quantize",
        "engine.mobilenetv3_large.vs_fp32",
        "engine.efficientnet_lite0.vs_fp32",
        "engine.deit_tiny.vs_fp32",
        "engine.deit_tiny.agreement",
        "engine.deit_tiny.layer_error",
        "sensitivity.resnet20.vs_naive",
        "pool.two_workers_vs_one",
        "memory.resnet18.of_allowance",
    ],
)
def test_what_must_hold_is_measured(key):
    assert bar_of(key) is not None
    assert any(key in one.keys for one in BENCHMARKS)


@pytest.mark.parametrize("part", [markdown, scaling_model.markdown], ids=["results", "scaling"])
def test_the_page_shows_the_record_in_the_repository(part):
    assert part(Record.read(RECORD)) in PAGE.read_text()
