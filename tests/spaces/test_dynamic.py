import dataclasses
import json
import re

import pytest

from bitfront.spaces import (
    Ablation,
    BitAllocation,
    DynamicAllocation,
    InputGroup,
    Selector,
    SpaceError,
    Usage,
    check_thresholds,
)

NAMES = ["conv1", "qk", "fc"]
LOW = BitAllocation(NAMES, [8, 4, 8], [8, 8, 4])
HIGH = BitAllocation(NAMES, [8, 8, 8], [8, 8, 8])
SELECTORS = (Selector("qk", "weight", 3, 16), Selector("fc", "activation", 12, 32, shared=False))


def channels(**changes):
    return DynamicAllocation(
        **{"kind": "channels", "members": (LOW, HIGH), "selectors": SELECTORS} | changes
    )


def cascade(**changes):
    given = {"members": (LOW, HIGH), "thresholds": (0.9,), "temperatures": (1.5,), "classes": 10}
    return DynamicAllocation(**{"kind": "cascade"} | given | changes)


def usage(**changes):
    given = {
        "allocation": channels(),
        "inputs": 4,
        "shares": (((8, 8, 1.0),), ((4, 8, 0.25), (8, 8, 0.75)), ((8, 4, 0.5), (8, 8, 0.5))),
        "deciding": 0.004,
        "energy_std": 0.01,
        "energy_quantiles": (0.5, 0.6, 0.7, 0.8, 0.9),
        "terciles": (InputGroup(2, 1.5, 1.0, 0.6, 0.4),),
        "ablations": (Ablation("static", 0.75, 0.9, 0.59, 0.25),),
    }
    return Usage(**given | changes)


def test_what_a_selector_computes():
    shared, own = SELECTORS
    # For each channel: 4 operations per value, 8 bins, 4 x 8 + 8 x 1 products, 4 + 8 scalings.
    assert shared.macs == 3 * (4 * 16 + 8 + 40 + 12)
    assert (shared.weight_count, shared.bias_count) == (40, 24 + 3)
    assert (own.weight_count, own.bias_count) == (12 * 40, 12 * 24 + 12)
    assert own.values_read == 12 * 32


def test_what_there_is_to_choose():
    dynamic = channels()
    assert dynamic.choices == {("qk", "weight"): (4, 8), ("fc", "activation"): (4, 8)}
    assert dynamic.widths(0, "activation") == (8,)
    assert dynamic.widest == HIGH


@pytest.mark.parametrize("value", [channels(), cascade()])
def test_json_both_ways(value):
    again = DynamicAllocation.from_dict(json.loads(json.dumps(value.to_dict())))
    assert again == value and again.key == value.key and hash(again) == hash(value)
    assert value.key != cascade(thresholds=(0.8,)).key


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        (channels, {"kind": "gates"}, "is 'channels' or 'cascade', got 'gates'"),
        (channels, {"members": (LOW,)}, "at least 2 members, got 1"),
        (channels, {"members": (HIGH, LOW)}, r"must rise from member to member, got [8, 4]"),
        (channels, {"members": (HIGH, HIGH), "selectors": ()}, "nothing is chosen"),
        (channels, {"selectors": SELECTORS[:1]}, "fc.activation has widths [4, 8] and 0 selectors"),
        (
            channels,
            {"selectors": (*SELECTORS, Selector("fc", "weight", 2, 1))},
            "fc.weight has widths [8] and 1 selectors",
        ),
        (
            channels,
            {"selectors": (*SELECTORS, Selector("fc9", "weight", 2, 1))},
            "of layer 'fc9', which there is not",
        ),
        (
            channels,
            {"members": (LOW, BitAllocation(["a"], [8], [8]))},
            "must be of the same layers",
        ),
        (
            cascade,
            {"members": (LOW, HIGH.replace("fc", activation=[4, 8]))},
            "one width per operand",
        ),
        (cascade, {"members": (HIGH, HIGH)}, "members of a cascade must differ"),
        (cascade, {"thresholds": (0.9, 0.6)}, "2 members has 1 threshold, got 2"),
        (cascade, {"thresholds": (1.5,)}, "are in [0, 1]"),
        (cascade, {"thresholds": (float("nan"),)}, "are in [0, 1]"),
        (cascade, {"temperatures": (0.0,)}, "positive temperature"),
        (cascade, {"temperatures": ()}, "positive temperature"),
        (cascade, {"classes": 1}, "at least 2 classes"),
        (
            cascade,
            {
                "members": (LOW, HIGH, HIGH.replace("fc", weight=6), HIGH.replace("fc", weight=5)),
                "thresholds": (0.9, 0.6, 0.5),
            },
            "2 or 3 members, got 4",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(build, changes, message):
    with pytest.raises(SpaceError, match=re.escape(message)):
        build(**changes)


def test_thresholds_fall():
    check_thresholds([0.9, 0.6], 3)
    with pytest.raises(SpaceError, match=re.escape("got [0.6, 0.9]")):
        check_thresholds([0.6, 0.9], 3)


@pytest.mark.parametrize("damage", [{"members": None}, {"selectors": [{"layer": "x"}]}, {}])
def test_what_is_no_dynamic_allocation(damage):
    values = {} if not damage else channels().to_dict() | damage
    with pytest.raises(SpaceError, match="no dynamic allocation"):
        DynamicAllocation.from_dict(values)


def test_usage_and_json_both_ways():
    used = usage()
    assert Usage.from_dict(json.loads(json.dumps(used.to_dict()))) == used
    assert used.decisions == 1.0
    assert used.share_of(1, 0, 4) == 0.25 and used.share_of(2, 1, 8) == 0.5
    with pytest.raises(SpaceError, match="no usage"):
        Usage.from_dict({})
    with pytest.raises(SpaceError, match="shares of 1 layers for 3 layers"):
        dataclasses.replace(used, shares=used.shares[:1])


def test_a_cascade_decides_after_every_member_but_the_last():
    used = usage(allocation=cascade(), ran=(1.0, 0.25), answered=(0.75, 0.25))
    assert used.decisions == 1.0
    assert usage(allocation=cascade(), ran=(1.0, 0.5, 0.25)).decisions == 1.5
