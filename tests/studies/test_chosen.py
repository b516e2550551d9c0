from dataclasses import replace

import pytest

from bitfront.studies.chosen import (
    attention_shares,
    computed_shares,
    early_and_late,
    mean_widths,
    named_terciles,
    slot_choices,
    wide_share,
    width_shares,
)
from tests.studies.dynamic_study import CASCADE, CHANNELS, dynamic, measurement, uniform


def test_every_operand_that_chooses_has_its_shares_in_the_order_of_the_network():
    found = [(slot.layer, slot.operand, slot.decisions) for slot in slot_choices(CHANNELS)]
    assert found == [
        (0, "activation", 30),
        (1, "activation", 6),
        (1, "weight", 4),
        (2, "activation", 60),
    ]
    first, *_, last = slot_choices(CHANNELS)
    assert first.shares == {4: 0.25, 8: 0.75}
    assert last.wide == 0.125


def test_the_share_of_the_largest_width_is_that_of_decisions():
    expected = (22.5 + 3.75 + 2 + 7.5) / 100
    assert wide_share(CHANNELS) == pytest.approx(expected)
    assert width_shares(CHANNELS) == pytest.approx({4: 1 - expected, 8: expected})
    assert wide_share(CASCADE) == 0.125  # what its last member answered


def test_early_and_late_layers_are_thirds_of_those_that_choose():
    assert early_and_late(CHANNELS) == (0.75, 0.125)
    usage = replace(
        CHANNELS,
        allocation=replace(
            CHANNELS.allocation,
            members=tuple(
                replace_first(member, width)
                for member, width in zip(members(), (8, 8), strict=True)
            ),
            selectors=CHANNELS.allocation.selectors[1:],
        ),
    )
    assert early_and_late(usage) is None  # two layers have no thirds


def members():
    return CHANNELS.allocation.members


def replace_first(member, width):
    return type(member)(member.layers, list(member.weights), [width, *member.activations[1:]])


def test_attention_has_queries_keys_and_values():
    assert attention_shares(CHANNELS) == {"Q": 0.625, "K": 0.5}
    assert attention_shares(renamed("block.attn.av")) == {"softmax": 0.625, "V": 0.5}
    assert attention_shares(renamed("mixer")) == {}


def renamed(name):
    """The same usage, its second layer with another name."""
    dynamic = CHANNELS.allocation
    layers = [name if layer == "attn.qk" else layer for layer in dynamic.layers]
    renamed_members = tuple(
        type(m)(layers, list(m.weights), list(m.activations)) for m in dynamic.members
    )
    selectors = tuple(
        replace(s, layer=name) if s.layer == "attn.qk" else s for s in dynamic.selectors
    )
    return replace(
        CHANNELS, allocation=replace(dynamic, members=renamed_members, selectors=selectors)
    )


def test_what_was_computed_is_of_all_layers():
    assert computed_shares(CHANNELS, "weight") == [{8: 1.0}, {4: 0.5, 8: 0.5}, {8: 1.0}]
    assert computed_shares(CASCADE, "weight")[0] == pytest.approx(
        {4: 1 / 1.375, 6: 0.25 / 1.375, 8: 0.125 / 1.375}
    )


def test_mean_widths_are_those_that_were_used():
    measured = dynamic(CHANNELS, "ab" * 16)
    assert mean_widths(measured, "activation") == [7.0, 6.5, 4.5]
    assert mean_widths(measured, "weight") == [8.0, 6.0, 8.0]
    assert mean_widths(measurement(uniform(6)), "activation") == [6.0, 6.0, 6.0]


def test_thirds_of_the_inputs_have_names():
    assert list(named_terciles(CHANNELS)) == ["low", "middle", "high"]
    assert named_terciles(replace(CHANNELS, terciles=CHANNELS.terciles[:2])) == {}
