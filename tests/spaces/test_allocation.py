"""Allocations: identity, JSON, immutability and what is refused."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.spaces import KNOWN_WIDTHS, BitAllocation, SpaceError

widths = st.sampled_from(KNOWN_WIDTHS)
bits = st.one_of(widths, st.lists(widths, min_size=1, max_size=6))
allocations = st.lists(st.tuples(bits, bits), min_size=1, max_size=5).map(
    lambda rows: BitAllocation(
        [f"l{i}" for i in range(len(rows))], [w for w, _ in rows], [a for _, a in rows]
    )
)


@given(allocations)
def test_json_and_pickle_are_lossless(allocation):
    for copy in (
        BitAllocation.from_json(allocation.to_json()),
        pickle.loads(pickle.dumps(allocation)),
    ):
        assert copy == allocation
        assert hash(copy) == hash(allocation)


@given(allocations, allocations)
def test_equal_keys_mean_equal_contents(a, b):
    assert (a.key == b.key) == (a.to_dict() == b.to_dict())


def test_the_key_is_the_same_in_another_process_and_release():
    allocation = BitAllocation(["conv", "fc"], [8, 4], [[4, 8, 8], 8])
    # A snapshot: ledgers and tables are keyed by it, so it may not move.
    assert allocation.key == "1f08b0076674bac3f2e33247e07a1601"
    code = (
        "from bitfront.spaces import BitAllocation as B;"
        "print(B(['conv', 'fc'], [8, 4], [[4, 8, 8], 8]).key)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == allocation.key


def test_an_array_of_equal_widths_is_the_one_width():
    assert BitAllocation(["l"], [[4, 4, 4]], [8]) == BitAllocation(["l"], [4], [8])


def test_names_that_run_together_do_not_collide():
    assert BitAllocation(["ab", "c"], [8, 8], [8, 8]) != BitAllocation(["a", "bc"], [8, 8], [8, 8])


def test_it_cannot_be_changed():
    allocation = BitAllocation(["l"], [[2, 4]], [8])
    with pytest.raises(AttributeError, match="immutable"):
        allocation.weights = (8,)
    with pytest.raises(ValueError, match="read-only"):
        allocation.weights[0][0] = 8


def test_replace_changes_one_layer_only():
    before = BitAllocation(["a", "b"], [8, 8], [8, 8])
    after = before.replace("b", weight=4)
    assert (after.weights, after.activations, before.weights) == ((8, 4), (8, 8), (8, 8))
    with pytest.raises(SpaceError, match="no layer 'c'"):
        before.replace("c", weight=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "a"], [8, 8], [8, 8]), "unique"),
        ((["a"], [8, 8], [8]), "1 layers, 2 weight widths, 1 activation"),
        ((["a"], [9], [8]), "layer 'a': width 9 is not one of"),
        ((["a"], [1], [8]), "width 1 is not"),
        ((["a"], [8.0], [8]), "must be integers"),
        ((["a"], [[]], [8]), "must be integers"),
        ((["a"], [np.full((2, 2), 8)], [8]), "must be integers"),
        ((["a"], [300], [8]), "width 300 is not"),
    ],
)
def test_what_is_no_allocation_is_refused(arguments, message):
    with pytest.raises(SpaceError, match=message):
        BitAllocation(*arguments)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": 8}', '{"a": {"weight": 8}}', '{"a": {"weight": "8", "activation": 8}}'],
)
def test_other_json_is_refused(text):
    with pytest.raises(SpaceError):
        BitAllocation.from_json(text)
