import json
import math
from dataclasses import replace

import pytest

from bitfront.spaces import BitAllocation, Measurement, StudyError
from bitfront.studies.result import RESULT_FILE, Point, StudyResult, TrialRecord
from tests.studies.dynamic_study import dynamic_result


def measurement(bits, accuracy, energy, **fields):
    allocation = BitAllocation(["conv", "fc"], [bits, bits], [bits, bits])
    costs = (energy / 8, energy, None, "table", 100, 10, bits, bits)
    return Measurement(allocation, accuracy, 0.01, 0.5, *costs, 50, 0.1, **fields)


def result():
    seen, held_out = measurement(4, 0.9, 0.5), measurement(4, 0.88, 0.5, split="test")
    cheap = measurement(2, 0.5, 0.25, split="test")
    return StudyResult(
        name="tiny",
        spec={"study": "tiny", "seeds": [0]},
        points=(
            Point("random", 0, "30 evaluations", seen, held_out, True, True),
            Point("random", 0, "30 evaluations", seen, cheap, True, True),
            Point("random", 0, "30 evaluations", seen, held_out, False, False),
        ),
        trials=(
            TrialRecord("random", 0, "30 evaluations", 30, 1500, 1.5),
            TrialRecord(
                *("ilp", 0, "30 evaluations", 2, 90, 0.5),
                images_backward=30,
                findings={"solver": [{"status": "optimal"}], "predicts": "kl"},
                predictions=((1 / 3, 0.25), (0.5, 0.75)),
            ),
            TrialRecord("broken", 0, "30 evaluations", 3, 150, 0.5, "failed", "ValueError: no"),
        ),
        float_search=measurement(32, 0.95, 8.0),
        float_test=measurement(32, 0.94, 8.0, split="test"),
        uniform_w8a8=measurement(8, 0.94, 1.0, split="test"),
        workload="0" * 32,
        space_size=7**6000,  # more digits than int() parses
        notes=("a note",),
    )


def test_a_result_survives_its_file(tmp_path):
    saved = result()
    assert saved.save(tmp_path) == tmp_path / RESULT_FILE
    assert StudyResult.load(tmp_path) == saved
    assert [path.name for path in tmp_path.iterdir()] == [RESULT_FILE]


def test_a_failed_measurement_survives_as_valid_json(tmp_path):
    failed = measurement(2, math.nan, 0.2, error="not finite")
    replace(result(), float_search=failed).save(tmp_path)
    loaded = StudyResult.load(tmp_path).float_search
    assert loaded.failed and loaded.error == "not finite" and math.isnan(loaded.accuracy)
    assert "NaN" not in (tmp_path / RESULT_FILE).read_text()


def test_the_front_is_cheapest_first():
    assert [point.test.energy_vs_w8a8 for point in result().front] == [0.25, 0.5]


def test_failed_trials_are_told_apart():
    assert [trial.strategy for trial in result().failed_trials] == ["broken"]


def test_a_failed_save_leaves_the_old_result(tmp_path):
    result().save(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        replace(result(), spec={"study": object()}).save(tmp_path)
    assert StudyResult.load(tmp_path) == result()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "run the study to its end first"),
        ("{", "is not a study's result"),
        ("[]", "is not a study's result"),
        ('{"format": 1}', "is not a study's result"),
        ('{"format": 99}', "has format 99 and this version of bitfront reads format 1 to 4"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(StudyError, match=message):
        StudyResult.load(tmp_path)


def test_a_result_of_format_1_is_read_without_findings(tmp_path):
    values = result().to_dict()
    for trial in values["trials"]:
        del trial["findings"], trial["predictions"]
    (tmp_path / RESULT_FILE).write_text(json.dumps({**values, "format": 1}))
    loaded = StudyResult.load(tmp_path)
    assert loaded.points == result().points
    assert [trial.images_forward for trial in loaded.trials] == [1500, 90, 150]
    assert all(trial.findings == {} and trial.predictions == () for trial in loaded.trials)


def test_a_result_of_format_2_is_read_as_one_without_trained_networks(tmp_path):
    values = result().to_dict()
    for measured in [values["float_test"], *(p["test"] for p in values["points"])]:
        del measured["network"]
    (tmp_path / RESULT_FILE).write_text(json.dumps({**values, "format": 2}))
    assert StudyResult.load(tmp_path) == result()


def test_the_trained_network_of_a_point_survives(tmp_path):
    first, *others = result().points
    trained = replace(first, search=replace(first.search, network="ab" * 16))
    kept = replace(result(), points=(trained, *others))
    kept.save(tmp_path)
    assert StudyResult.load(tmp_path) == kept


def test_a_result_of_format_3_is_read_as_one_of_static_allocations(tmp_path):
    values = result().to_dict()
    for measured in [values["float_test"], *(p["test"] for p in values["points"])]:
        del measured["dynamic"]
    (tmp_path / RESULT_FILE).write_text(json.dumps({**values, "format": 3}))
    assert StudyResult.load(tmp_path) == result()


def test_what_was_chosen_survives(tmp_path):
    saved = dynamic_result()
    saved.save(tmp_path)
    loaded = StudyResult.load(tmp_path)
    assert loaded == saved
    assert [p.test.dynamic.allocation.kind if p.test.dynamic else None for p in loaded.points] == [
        None,
        *["channels"] * 3,
        *["cascade"] * 2,
    ]


@pytest.mark.parametrize(
    ("objectives", "cost"),
    [
        (None, "energy"),
        (["accuracy", "energy"], "energy"),
        (["accuracy", "mean_weight_bits"], "mean_weight_bits"),
        (["loss", "accuracy"], "energy"),
        (["size", "accuracy", "energy"], "size"),
    ],
)
def test_the_cost_is_the_first_that_is_compared(objectives, cost):
    spec = {} if objectives is None else {"objectives": objectives}
    assert replace(result(), spec=spec).cost.name == cost


def test_the_front_is_sorted_by_what_is_compared():
    points = result().points
    dear = replace(points[0], test=replace(points[0].test, size_bytes=50))  # smaller, yet dearer
    compared = {"objectives": ["accuracy", "size"]}
    sizes = replace(result(), spec=compared, points=(points[1], dear)).front
    assert [point.test.size_bytes for point in sizes] == [50, 100]


def test_unknown_fields_are_refused(tmp_path):
    values = {**result().to_dict(), "surprise": 1}
    (tmp_path / RESULT_FILE).write_text(json.dumps(values))
    with pytest.raises(StudyError, match="surprise"):
        StudyResult.load(tmp_path)
