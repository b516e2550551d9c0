import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitfront.searchers.spread import farthest_first


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_farthest_first_is_an_order_whose_prefixes_span(values):
    order = farthest_first(values)
    assert order[0] == 0
    assert sorted(order) == list(range(len(values)))
    chosen = np.array(values)[order]
    gaps = [np.abs(chosen[:k] - chosen[k]).min() for k in range(1, len(chosen))]
    assert all(later <= earlier for earlier, later in itertools.pairwise(gaps))
