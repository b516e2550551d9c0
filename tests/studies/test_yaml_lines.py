"""Plain data with lines, and everything else refused."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.spaces import StudyError
from bitfront.studies.yaml_lines import (
    MAX_BYTES,
    MAX_DEPTH,
    Document,
    describe,
    parse_value,
    read_yaml,
    show_place,
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(StudyError) as caught:
        read_yaml(written(folder, text), "study.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_value_knows_its_line(tmp_path):
    text = "a: 1\n\n# comment\nb:\n  c: x\n  d:\n    - 5\n    - {e: 6,\n       f: 7}\n"
    document = read_yaml(written(tmp_path, text), "study.yaml")
    assert document.value == {"a": 1, "b": {"c": "x", "d": [5, {"e": 6, "f": 7}]}}
    lines = {
        (): 1, ("a",): 1, ("b",): 4, ("b", "c"): 5, ("b", "d"): 6, ("b", "d", 0): 7,
        ("b", "d", 1): 8, ("b", "d", 1, "e"): 8, ("b", "d", 1, "f"): 9,
    }  # fmt: skip
    assert {place: document.where(place) for place in lines} == {
        place: f"study.yaml:{line}" for place, line in lines.items()
    }
    assert document.folder == tmp_path


def test_a_missing_place_has_the_line_of_what_is_around_it(tmp_path):
    document = read_yaml(written(tmp_path, "a: 1\nb:\n  c: 2\n"), "s.yaml")
    assert document.where(("b", "x", 3)) == "s.yaml:2"
    assert document.where(("x",)) == "s.yaml:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("010", 10),
        ("-3", -3),
        ("no", "no"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'8'", "8"),
        ("[8, [4, 8]]", [8, [4, 8]]),
        ("{a: {b: []}}", {"a": {"b": []}}),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse_value(text, "option")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\na: 2\n", 2, "given twice, first on line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "a.b: given twice, first on line 2"),
        ("a: &x [1]\nb: *x\n", 2, "aliases (*name) are refused"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "is refused; a study is plain data"),
        ("a: !custom 1\n", 1, "is refused"),
        ("a: .nan\n", 1, "expected a number of at most 1e+18 in size, got .nan"),
        ("x: 1\na: [1, -.inf]\n", 2, "a[1]: expected a number"),
        ("a: 1e999\n", 1, "expected a number"),
        ("a: 2000000000000000000\n", 1, "expected a number"),
        (f"a: {'9' * 5000}\n", 1, "expected a number"),
        ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 'x\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("- 1\n- 2\n", 1, "expected a mapping (key: value), got a list"),
        ("just text\n", 1, "expected a mapping (key: value), got text 'just text'"),
        ("", 1, "expected a mapping (key: value), got nothing"),
        ("a: 1\n8: 2\n", 2, "a key of the study must be text, got '8'"),
        ("a: 1\n? [x, y]\n: 2\n", 2, "a key of the study must be text"),
        ("a: 1\nb: \"x\\0y\"\n", 2, "b: control characters are refused"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "levels are refused"),
        (b"a: 1\nb: \xff\xfe\n", 2, "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_line(tmp_path, text, line, words):
    message = refusal(tmp_path, text)
    assert message.startswith(f"study.yaml:{line}: ")
    assert words in message


def test_a_raw_control_character_is_refused(tmp_path):
    assert "not valid YAML" in refusal(tmp_path, b"a: \x00\n")


def test_nesting_bombs_end_in_a_sentence_not_in_recursion(tmp_path):
    assert "levels are refused" in refusal(tmp_path, "a: " + "[" * 50_000)


def test_a_large_file_is_refused_unread(tmp_path):
    assert "larger than" in refusal(tmp_path, b"# " + b"x" * MAX_BYTES)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(StudyError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert read_yaml(written(tmp_path, b"\xef\xbb\xbfa: 1\n")).value == {"a": 1}


def test_replacing_keeps_the_rest_and_names_the_option():
    document = Document({"a": {"b": 1, "c": [1, 2]}}, {(): "s:1", ("a", "b"): "s:2"}, Path())
    changed = document.replaced(("a", "b"), {"x": 5}, "option a.b")
    assert changed.value == {"a": {"b": {"x": 5}, "c": [1, 2]}}
    assert changed.where(("a", "b", "x")) == "option a.b"
    assert changed.where(("a", "c")) == "s:1"
    assert document.value == {"a": {"b": 1, "c": [1, 2]}}
    assert document.replaced(("a", "c", 1), 9, "o").value["a"]["c"] == [1, 9]
    assert document.replaced(("n", "m"), 1, "o").value["n"] == {"m": 1}


@pytest.mark.parametrize("place", [("a", "b", "x"), ("a", "c", 2), ("a", "c", "first")])
def test_replacing_cannot_lead_through_a_value(place):
    document = Document({"a": {"b": 1, "c": [1, 2]}}, {(): "s:1"}, Path())
    with pytest.raises(StudyError, match=r"option o: .* is not in"):
        document.replaced(place, 1, "option o")


def test_one_mapping_can_stand_for_a_list_of_one(tmp_path):
    document = read_yaml(written(tmp_path, "a:\n  b: 1\nc: 2\n"), "s.yaml").listed("a").listed("c")
    assert document.value == {"a": [{"b": 1}], "c": 2}
    assert document.where(("a", 0, "b")) == "s.yaml:2"
    assert document.where(("c",)) == "s.yaml:3"


def test_places_and_values_as_one_writes_them():
    assert show_place(("a", "b", 0, "c", 1)) == "a.b[0].c[1]"
    assert [describe(v) for v in (True, 3, "x", {}, [], None)] == [
        "true", "3", "text 'x'", "a mapping", "a list", "nothing",
    ]  # fmt: skip


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(-1e12, 1e12)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdefg_", min_size=1, max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]), plain, max_size=3))
def test_json_is_read_as_itself(value):
    text = json.dumps(value)
    found = parse_value(text, "option")
    assert found == value
    assert json.dumps(found) == text


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_a_sentence(text):
    try:
        value = parse_value(text, "option")
    except StudyError as error:
        assert "\n" not in str(error)
    else:
        assert not isinstance(value, float) or math.isfinite(value)
