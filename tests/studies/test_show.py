"""A finished study in the terminal and as rows."""

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from bitfront.spaces import StudyError
from bitfront.studies.result import TrialRecord
from bitfront.studies.show import (
    energy_text,
    find_result,
    measurement_row,
    point_rows,
    render,
    size_text,
)

PROMISED = {
    "strategy", "seed", "allocation", "accuracy", "accuracy_se", "energy_pj", "energy_vs_fp32",
    "energy_vs_w8a8", "size_bytes", "bops", "on_front", "split",
}  # fmt: skip


def text_of(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_rows_hold_what_is_promised_as_measured_on_the_test_split(synthetic_result):
    rows = json.loads(json.dumps(point_rows(synthetic_result.points), allow_nan=False))
    assert len(rows) == 30
    for row, point in zip(rows, synthetic_result.points, strict=True):
        assert set(row) >= PROMISED
        assert row["split"] == "test"
        assert row["accuracy"] == point.test.accuracy
        assert row["allocation"] == point.test.allocation.key


def test_what_json_cannot_write_is_null(synthetic_result):
    measured = dataclasses.replace(
        synthetic_result.float_test, accuracy=math.nan, energy_vs_fp32=math.nan, energy_pj=None
    )
    row = measurement_row(measured)
    assert row["accuracy"] is row["energy_vs_fp32"] is row["energy_pj"] is None


def test_the_front_is_listed_with_the_baselines(synthetic_result):
    text = text_of(render(synthetic_result))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"{len(synthetic_result.front)} of 30 finalists, 360 test images" in text
    distinct = {(p.strategy, p.test.allocation.key) for p in synthetic_result.front}
    assert text.count(" ± ") == len(distinct) + 2
    assert "97.50 ± 0.82" in text  # the float network: 0.975 of 360 images
    assert "formulas, not measurements" in text


@pytest.mark.parametrize(
    ("cost", "words", "ends"),
    [
        ("mean_weight_bits", "mean bits per weight", ("{:.3f}", "mean_weight_bits")),
        ("size", "size in bytes", ("{:.4g}", "size_bytes")),
    ],
)
def test_the_picture_is_over_what_the_study_trades_accuracy_for(
    synthetic_result, cost, words, ends
):
    spec = {**synthetic_result.spec, "objectives": ["accuracy", cost]}
    lines = text_of(render(dataclasses.replace(synthetic_result, spec=spec))).splitlines()
    at = next(i for i, line in enumerate(lines) if words in line)
    form, attribute = ends
    costs = [getattr(point.test, attribute) for point in synthetic_result.points]
    assert lines[at - 1].split() == [form.format(min(costs)), form.format(max(costs))]
    assert all(len(line) <= 80 for line in lines)


def test_the_costs_of_trials_are_listed(synthetic_result):
    text = text_of(render(synthetic_result))
    assert "percentile, seed 1" in text
    assert "10,800" in text  # 30 evaluations of 360 images


def test_all_finalists_are_listed_on_demand(synthetic_result):
    distinct = {(p.strategy, p.test.allocation.key) for p in synthetic_result.points}
    assert len(distinct) > len(synthetic_result.front)
    text = text_of(render(synthetic_result, everything=True))
    assert text.count(" ± ") == len(distinct) + 2


def test_one_allocation_with_two_trained_networks_is_two_rows(synthetic_result):
    first = synthetic_result.front[0]
    points = [
        dataclasses.replace(first, seed=seed, test=dataclasses.replace(first.test, network=network))
        for seed, network in enumerate(("ab" * 16, "cd" * 16))
    ]
    result = dataclasses.replace(synthetic_result, points=tuple(points))
    assert text_of(render(result)).count(" ± ") == 2 + 2
    assert [row["network"] for row in point_rows(points)] == ["ab" * 16, "cd" * 16]


def test_what_several_seeds_found_is_one_row(synthetic_result):
    first = synthetic_result.front[0]
    again = [dataclasses.replace(first, seed=seed) for seed in (7, 3, 7)]
    text = text_of(render(dataclasses.replace(synthetic_result, points=tuple(again))))
    assert next(line.split()[1] for line in text.splitlines() if " ± " in line) == "3,7"
    assert text.count(" ± ") == 3


def test_the_picture_marks_the_front_with_capitals(synthetic_result):
    lines = text_of(render(synthetic_result)).splitlines()
    drawn = [line.partition("│")[2] for line in lines if "│" in line]
    marks = "".join(drawn).replace(" ", "")
    assert set(marks.lower()) <= {"a", "b", "c"}
    assert 0 < sum(mark.isupper() for mark in marks) <= len(synthetic_result.front)
    assert any(mark.isupper() for mark in drawn[0])  # the most accurate one is on the front


def test_failed_trials_are_told_and_names_are_no_markup(make_synthetic_result):
    result = make_synthetic_result(name="[red]x", strategies={"[b]mine[/b]": 0.0})
    failed = TrialRecord("[b]mine[/b]", 1, "30", 2, 4, 1.0, "failed", "ValueError: [/b]")
    text = text_of(render(dataclasses.replace(result, trials=(failed,))), width=120)
    assert "[red]x: " in text
    assert "[b]mine[/b], seed 1 failed: ValueError: [/b]" in text


def test_a_study_without_a_usable_finalist_still_shows(synthetic_result):
    assert "no finalist could be measured" in text_of(
        render(dataclasses.replace(synthetic_result, points=()))
    )


def test_one_point_is_a_picture_too(synthetic_result):
    lone = dataclasses.replace(synthetic_result, points=synthetic_result.front[:1])
    assert "A" in text_of(render(lone)).partition("│")[2]


def test_units_fit_the_numbers():
    assert [energy_text(pj) for pj in (0.5, 999, 1e3, 4.424e7, 2e9)] == [
        "0.5 pJ", "999 pJ", "1.00 nJ", "44.2 µJ", "2.00 mJ",
    ]  # fmt: skip
    assert [size_text(b) for b in (12, 229_000, 4.65e6, 3e9)] == [
        "12 B", "229 kB", "4.65 MB", "3.00 GB",
    ]  # fmt: skip


def test_what_rounds_up_to_the_next_unit_is_written_in_it():
    assert [energy_text(pj) for pj in (999.4, 999.7, 999_700)] == ["999 pJ", "1.00 nJ", "1.00 µJ"]
    assert size_text(999_700) == "1.00 MB"


def test_a_long_label_takes_no_digit_from_the_numbers(make_synthetic_result):
    label = "percentile, probed at 2 bits, with the triples of another study"
    text = text_of(render(make_synthetic_result(strategies={label: 0.01})))
    assert "…" not in text
    assert "32.0/32.0" in text
    assert all(len(line) <= 80 for line in text.partition("capitals")[2].splitlines())


@pytest.fixture
def finished(tmp_path, monkeypatch, synthetic_result) -> Path:
    """A working directory with one finished study in it."""
    monkeypatch.chdir(tmp_path)
    folder = Path("bitfront-runs/synthetic")
    folder.mkdir(parents=True)
    synthetic_result.save(folder)
    return folder


@pytest.mark.parametrize("study", ["synthetic", "bitfront-runs/synthetic", "some.yaml"])
def test_a_result_is_found_by_name_folder_and_file(finished, study):
    Path("some.yaml").write_text("study: synthetic\nmodel: {}\n")
    assert find_result(study) == finished


def test_a_study_file_says_where_its_results_are(finished):
    Path("some.yaml").write_text("study: synthetic\noutput: elsewhere\n")
    finished.parent.rename("elsewhere")
    assert find_result("some.yaml") == Path("elsewhere/synthetic")
    assert find_result("synthetic", "elsewhere") == Path("elsewhere/synthetic")


def test_an_unknown_result_is_an_error_that_says_where_it_was_looked_for(finished):
    with pytest.raises(StudyError, match=r"no finished study 'other': looked for result\.json in"):
        find_result("other")
