import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table, score_under, usage_energy
from bitfront.spaces import (
    BitAllocation,
    DynamicAllocation,
    EnergyTableError,
    Selector,
    SpaceError,
    Usage,
)


def test_two_tables_may_name_different_winners(worked_layer):
    # A product law is blind to how 16 bits are shared; a core that gains little from narrow
    # weights at wide activations is not.
    allocations = [BitAllocation(["conv"], [w], [a]) for w, a in ((2, 8), (5, 4), (8, 2))]
    tables = [load_table(name) for name in ("ptq-psu25", "bit-serial:stripes", "mpic")]
    scores = score_under(tables, [worked_layer], allocations)
    assert scores.tables == ("ptq-psu25", "bit-serial:stripes", "mpic")
    assert scores.cheapest() == {"ptq-psu25": 2, "bit-serial:stripes": 2, "mpic": 0}
    for row, table in enumerate(tables):
        model = EnergyModel(table, [worked_layer])
        np.testing.assert_allclose(scores.values[row], [model.energy(a) for a in allocations])
        np.testing.assert_allclose(scores.relative[row], scores.values[row] / model.w8a8)


def test_rank_agreement_by_hand(worked_layer):
    allocations = [BitAllocation(["conv"], [w], [a]) for w, a in ((2, 8), (4, 4), (8, 2))]
    tables = [load_table(name) for name in ("bit-serial:stripes", "bit-serial:unpu")]
    tau = score_under(tables, [worked_layer], allocations).tau
    # One falls with the activation width, the other grows with the weight width: full reverse.
    np.testing.assert_allclose(tau, [[1, -1], [-1, 1]])


def test_a_table_that_ranks_nothing_has_no_agreement(worked_layer):
    allocations = [BitAllocation(["conv"], [w], [8]) for w in (2, 4, 8)]
    tables = [load_table(name) for name in ("bitfusion:fixed8", "horowitz-45nm")]
    tau = score_under(tables, [worked_layer], allocations).tau
    assert np.isnan(tau[0, 1])


def test_a_table_that_cannot_price_an_allocation_says_so(worked_layer):
    allocations = [BitAllocation(["conv"], [16], [8])]
    with pytest.raises(EnergyTableError, match="table bitfusion cannot price"):
        score_under([load_table("bitfusion")], [worked_layer], allocations)


def chosen(layer, wide):
    """A layer whose input has 8 bits for a share of its channels, and 4 for the others."""
    members = tuple(BitAllocation([layer.name], [8], [width]) for width in (4, 8))
    selector = Selector(layer.name, "activation", layer.in_channels, 16)
    dynamic = DynamicAllocation("channels", members, (selector,))
    return Usage(dynamic, 10, (((8, 4, 1 - wide), (8, 8, wide)),))


def test_what_was_chosen_is_priced_beside_static_allocations(worked_layer):
    candidates = [BitAllocation(["conv"], [8], [8]), chosen(worked_layer, 0.25)]
    candidates.append(chosen(worked_layer, 0.75))
    tables = [load_table(name) for name in ("horowitz-45nm", "bitfusion")]
    scores = score_under(tables, [worked_layer], candidates)
    for row, table in enumerate(tables):
        model = EnergyModel(table, [worked_layer])
        expected = [model.energy(candidates[0]), *(usage_energy(model, c) for c in candidates[1:])]
        assert scores.values[row].tolist() == expected
        assert scores.values[row].argsort().tolist() == [1, 2, 0]


def test_what_was_chosen_in_another_network_is_refused(worked_layer):
    other = chosen(worked_layer, 0.5)
    names = tuple(BitAllocation(["fc"], [8], list(m.activations)) for m in other.allocation.members)
    dynamic = DynamicAllocation("channels", names, (Selector("fc", "activation", 2, 16),))
    with pytest.raises(SpaceError, match="the allocation is of layers"):
        score_under([load_table("bitfusion")], [worked_layer], [Usage(dynamic, 1, other.shares)])
