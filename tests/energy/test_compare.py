import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table, score_under
from bitfront.spaces import BitAllocation, EnergyTableError


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
