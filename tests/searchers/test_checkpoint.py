"""What is saved comes back as it was, and nothing damaged is taken for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.searchers.checkpoint import Checkpoint
from bitfront.spaces import BitAllocation, StudyError

LAYERWISE = BitAllocation(["conv", "fc"], [8, 4], [8, 2])
CHANNELS = BitAllocation(["conv", "fc"], [[2, 4, 16], 4], [8, [32, 2]])
RNG = np.random.default_rng(2**100).bit_generator.state


def checkpoint(**fields):
    values = {
        "state": {},
        "asked": ((LAYERWISE, 1.0, ""), (CHANNELS, 0.25, "ab" * 16), (LAYERWISE, 1.0, "")),
        "rng": {"bits": RNG, "spawned": 2},
        "trace": {"step": "episode", "metrics": {"reward": [0.1, None]}},
        "findings": {"notes": ["a"], "predicted": {"k": 1 / 3}},
        "images_forward": 2**40,
        "images_backward": 7,
        "wall_s": 0.1,
    }
    return Checkpoint(**{**values, **fields})


def again(before):
    return Checkpoint.from_bytes(before.to_bytes())


def test_what_a_problem_knows_survives():
    assert again(checkpoint()) == checkpoint()
    assert again(checkpoint(asked=(), trace=None)) == checkpoint(asked=(), trace=None)
    assert again(checkpoint(finished=True)) == checkpoint(finished=True)


ARRAYS = [
    np.array([1.5, np.nan, -np.inf]),
    np.array(3.5),
    np.zeros((2, 0, 3), np.int8),
    np.arange(6, dtype=np.float32).reshape(2, 3).T,
    np.arange(10)[::3],
    np.array([True, False]),
    np.array([0.1], np.float16),
    np.array([2**64 - 1], np.uint64),
    np.array([1, 2], ">i4"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_arrays_survive_bit_for_bit_and_can_be_written_to(array):
    found = again(checkpoint(state={"weights of the actor": array})).state["weights of the actor"]
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    found[...] = 0


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain_values, max_size=4))
def test_plain_values_survive(state):
    assert again(checkpoint(state=state)).state == state


def test_numbers_of_numpy_and_tuples_become_plain():
    state = {"episode": np.int64(3), "best": (np.float32(0.1), None), "sure": np.bool_(True)}
    found = again(checkpoint(state=state)).state
    assert found == {"episode": 3, "best": [float(np.float32(0.1)), None], "sure": True}
    assert again(checkpoint(findings={"a": np.arange(2)})).findings == {"a": [0, 1]}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"agent": object()}, "saved value 'agent' cannot be saved: .* got object"),
        ({"layers": [np.zeros(2)]}, "expected an array by itself, .* got ndarray"),
        ({"counts": {1: 2}}, "saved value 'counts' must have text as keys to be saved, got 1"),
        ({"names": np.array(["a"])}, "a saved array is not one of numbers: .*str"),
    ],
)
def test_what_cannot_be_brought_back_is_refused(state, reason):
    with pytest.raises(StudyError, match=reason):
        checkpoint(state=state).to_bytes()


def test_damage_is_noticed():
    whole = checkpoint(state={"a": np.arange(9)}).to_bytes()
    renamed = whole.replace(b"asked", b"taken")
    for damaged in (b"", b"SQLite format 3", whole[:50], whole[:-1], renamed):
        with pytest.raises(StudyError, match="it is damaged"):
            Checkpoint.from_bytes(damaged)
    with pytest.raises(StudyError, match="it has version 9, expected 3"):
        Checkpoint.from_bytes(whole.replace(rb"\"version\": 3", rb"\"version\": 9"))


@pytest.mark.parametrize("field", ["trace", "findings"])
@pytest.mark.parametrize("value", [[], [["a", 1]], "a", 3], ids=repr)
def test_what_is_no_mapping_is_damage(field, value):
    with pytest.raises(StudyError, match=f"it is damaged: .*{field} must be a mapping, got"):
        again(checkpoint(**{field: value}))


def test_a_state_that_is_no_mapping_is_damage():
    data = checkpoint().to_bytes()
    with pytest.raises(StudyError, match=r"it is damaged: .*state must be a mapping, got list"):
        Checkpoint.from_bytes(data.replace(rb"\"state\": {}", rb"\"state\": []"))


@pytest.mark.parametrize("names", [rb"[\"\", 3, \"\"]", rb"[\"\"]", b"7", b"null"])
def test_names_of_networks_that_are_no_text_or_too_few_are_damage(names):
    data = checkpoint().to_bytes()
    start = data.index(rb"\"networks\": ") + len(rb"\"networks\": ")
    end = data.index(b"]", start) + 1
    padded = names + b" " * (end - start - len(names))  # the header says how long it is
    with pytest.raises(StudyError, match="it is damaged"):
        Checkpoint.from_bytes(data[:start] + padded + data[end:])


def test_a_number_of_images_without_end_is_damage():
    with pytest.raises(StudyError, match="it is damaged"):
        again(checkpoint(images_forward=float("inf")))
