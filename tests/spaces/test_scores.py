import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.spaces import EvaluationError, Scores, SpaceError, score_signature
from bitfront.spaces.scores import WIDTHS, blank_values, require_scored

CHOICES = [([2, 4, 8], [8]), ([4, 8], [4, 8])]


def scores(values=None, **more):
    if values is None:
        values = np.full((2, 2, WIDTHS), np.nan)
        values[0, 0, [2, 4, 8]] = [3.0, 1.0, 0.5]
        values[0, 1, 8] = 0.0
        values[1, 0, [4, 8]] = [2.0, 0.25]
        values[1, 1, [4, 8]] = [0.5, 0.75]
    return Scores({"kind": "kl"}, "a1", ("conv", "fc"), values, 10, 5, 0.5, **more)


def test_pairs_are_the_sums_of_both_operands():
    pairs = scores().pairs()
    assert pairs.shape == (2, WIDTHS, WIDTHS)
    assert pairs[0, 2, 8] == 3.0 and pairs[1, 4, 8] == 2.75
    assert np.isnan(pairs[0, 2, 4])


def test_fewer_bits_never_score_below_more():
    lowered = scores().monotone()
    assert lowered.values[1, 1, 8] == 0.5
    assert lowered.values[0, 0, [2, 4, 8]].tolist() == [3.0, 1.0, 0.5]
    assert lowered.signature == "a1" and lowered.images_forward == 10


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=7))
def test_monotone_scores_fall_with_bits_and_are_never_raised(row):
    values = np.zeros((1, 2, WIDTHS)) * np.nan
    values[0, 0, 2 : 2 + len(row)] = row
    values[0, 1, 8] = 0.0
    made = Scores({}, "", ("a",), values).monotone().values[0, 0, 2 : 2 + len(row)]
    assert (np.diff(made) <= 0).all() and (made <= row).all()


def test_scores_survive_a_file(tmp_path):
    path = tmp_path / "scores.json"
    scores().save(path)
    loaded = Scores.load(path, "a1")
    np.testing.assert_array_equal(loaded.values, scores().values)
    assert loaded.to_dict() == scores().to_dict()


def test_scores_of_another_network_are_refused_with_the_reason(tmp_path):
    scores().save(tmp_path / "s.json")
    with pytest.raises(SpaceError, match=r"of another network.*signature a1, expected b2"):
        Scores.load(tmp_path / "s.json", "b2")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": 3}', '{"scores": {"a": {}}}'])
def test_what_is_no_scores_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SpaceError, match=r"s\.json"):
        Scores.load(tmp_path / "s.json")


@pytest.mark.parametrize("bits", ["eight", "-5", "33"])
def test_a_width_there_is_not_is_refused(tmp_path, bits):
    given = scores().to_dict()
    given["scores"]["fc"]["weight"][bits] = 1.0
    (tmp_path / "s.json").write_text(json.dumps(given))
    with pytest.raises(SpaceError, match="no sensitivity scores"):
        Scores.load(tmp_path / "s.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SpaceError, match="cannot be read"):
        Scores.load(tmp_path / "none.json")


def test_a_score_that_is_not_a_number_is_refused(tmp_path):
    given = scores().to_dict()
    given["scores"]["fc"]["weight"]["4"] = float("nan")
    (tmp_path / "s.json").write_text(json.dumps(given))
    with pytest.raises(EvaluationError, match=r"fc\.weight at 4 bits is nan"):
        Scores.load(tmp_path / "s.json")
    values = scores().values.copy()
    values[1, 0, 4] = np.inf
    with pytest.raises(EvaluationError, match=r"fc\.weight at 4 bits is not finite"):
        scores(values)
    values[1, 0] = np.nan
    with pytest.raises(EvaluationError, match=r"fc\.weight are missing"):
        scores(values)


def test_every_choice_has_to_be_scored():
    layers = [type("L", (), {"name": name}) for name in ("conv", "fc")]
    values = scores().values.copy()
    require_scored("kl", layers, values, CHOICES)
    values[0, 0, 4] = np.nan
    with pytest.raises(EvaluationError, match=r"kl score of conv\.weight at 4 bits is nan"):
        require_scored("kl", layers, values, CHOICES)


def test_an_operand_with_one_choice_scores_nothing():
    values = blank_values([object(), object()], CHOICES)
    assert values[0, 1, 8] == 0.0
    assert np.isnan(values[0, 0]).all() and np.isnan(values[1]).all()


def test_the_shape_has_to_fit():
    with pytest.raises(SpaceError, match="shape"):
        Scores({}, "", ("a",), np.zeros((2, 2, WIDTHS)))


def test_a_signature_is_of_everything_that_decides():
    base = score_signature("net", {"kind": "kl"}, CHOICES)
    assert base == score_signature(
        "net", {"kind": "kl"}, [(tuple(w), tuple(a)) for w, a in CHOICES]
    )
    others = {
        score_signature("other", {"kind": "kl"}, CHOICES),
        score_signature("net", {"kind": "mse"}, CHOICES),
        score_signature("net", {"kind": "kl"}, CHOICES[:1]),
    }
    assert base not in others and len(others) == 3
