import pytest

from bitfront.searchers.synthetic import synthetic_layers
from bitfront.searchers.widths import check_offered, offered_widths
from bitfront.spaces import BitSpace, SpaceError

LAYERS = synthetic_layers(4)


def test_offered_are_the_widths_of_every_free_operand():
    space = BitSpace.build(
        LAYERS, weights=[2, 4], activations=[6], choices={"conv1": {"activation": [3, 6]}}
    )
    assert offered_widths(space) == (2, 3, 4, 6)  # not the pins' 8


def test_where_all_is_pinned_the_pins_are_offered():
    space = BitSpace.build(LAYERS, weights=[4], activations=[6])
    assert offered_widths(space) == (4, 6, 8)


def test_a_width_that_is_not_offered_is_named_with_those_that_are():
    space = BitSpace.build(LAYERS, weights=[2, 4, 8], activations=[2, 4, 8])
    check_offered(space, [8, 2], "triples")
    with pytest.raises(SpaceError, match="triples asks for 6 bits, and the space offers 2, 4, 8;"):
        check_offered(space, [4, 6, 8], "triples")
