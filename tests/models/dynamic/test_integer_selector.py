import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.dynamic.integer_selector import LARGEST_BIAS, IntegerSelector
from bitfront.spaces import ModelError


def arrays(channels=3, hidden=2, choices=3, *, shared=True, seed=0):
    rng = np.random.default_rng(seed)
    many = 1 if shared else channels
    return {
        "feature_scale": rng.uniform(0.2, 2, (1, 4)).astype(np.float32),
        "feature_shift": rng.normal(0, 20, (1, 4)).astype(np.float32),
        "hidden_weight": rng.integers(-127, 128, (many, hidden, 4)).astype(np.int8),
        "hidden_bias": rng.integers(-4000, 4000, (many, hidden)).astype(np.int32),
        "hidden_scale": rng.uniform(0.005, 0.02, (many, hidden)).astype(np.float32),
        "score_weight": rng.integers(-127, 128, (many, hidden)).astype(np.int8),
        "score_bias": rng.integers(-9000, 9000, channels).astype(np.int32),
        "thresholds": np.sort(rng.integers(-5000, 5000, (many, choices - 1))).astype(np.int32),
        "score_step": np.full(many, 0.25, np.float32),
        "offset": np.zeros(1, np.float32),
    }


def by_hand(parts, statistics):
    """One channel after another, in 64-bit whole numbers."""
    chosen = []
    for c, f in enumerate(statistics):
        part = {k: v[c if len(v) > 1 else 0].astype(np.float64) for k, v in parts.items()}
        q = np.rint(np.float32(f * parts["feature_scale"][0]) + parts["feature_shift"][0])
        q = np.clip(q, -128, 127).astype(np.int64)
        z1 = np.maximum(part["hidden_weight"].astype(np.int64) @ q + part["hidden_bias"], 0)
        h = np.rint(z1.astype(np.float32) * part["hidden_scale"].astype(np.float32))
        h = np.minimum(h, 255).astype(np.int64)
        z = part["score_weight"].astype(np.int64) @ h + parts["score_bias"][c]
        z += round(float(parts["offset"][0] / part["score_step"]))
        chosen.append(int((z > part["thresholds"]).sum()))
    return chosen


@given(st.booleans(), st.integers(1, 12), st.sampled_from([1, 8, 40]), st.integers(0, 2**20))
def test_it_computes_in_whole_numbers(shared, channels, hidden, seed):
    parts = arrays(channels, hidden, shared=shared, seed=seed)
    statistics = np.random.default_rng(seed).normal(20, 40, (9, channels, 4)).astype(np.float32)
    found = IntegerSelector.from_arrays(parts).choose(torch.from_numpy(statistics))
    assert found.tolist() == [by_hand(parts, one) for one in statistics]


@given(st.permutations(range(7)), st.booleans())
def test_a_choice_is_the_same_in_any_batch(order, shared):
    selector = IntegerSelector(arrays(16, 8, shared=shared))
    statistics = torch.randn(7, 16, 4, generator=torch.Generator().manual_seed(0)) * 30
    whole = selector.scores(statistics)
    assert torch.equal(selector.scores(statistics[list(order)]), whole[list(order)])
    assert torch.equal(torch.cat([selector.scores(one[None]) for one in statistics]), whole)


def test_what_it_is_made_of():
    parts = arrays()
    selector = IntegerSelector(parts)
    assert (selector.channels, selector.choices, selector.hidden) == (3, 3, 2)
    assert selector.is_shared and not IntegerSelector(arrays(shared=False)).is_shared
    returned = selector.arrays()
    assert all(np.array_equal(returned[name], part) for name, part in parts.items())
    returned["score_bias"][:] = 0  # a copy
    assert np.array_equal(selector.arrays()["score_bias"], parts["score_bias"])


def test_an_offset_moves_all_scores_by_whole_steps():
    selector = IntegerSelector(arrays())
    statistics = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)) * 30
    moved = selector.moved(2.6)
    assert moved.offset == pytest.approx(2.6) and selector.offset == 0
    assert torch.equal(moved.scores(statistics), selector.scores(statistics) + 10)
    assert (selector.moved(1e6).choose(statistics) == 2).all()
    assert (selector.moved(-1e6).choose(statistics) == 0).all()


@given(st.floats(-1e5, 1e5), st.floats(0, 1e4))
def test_a_larger_offset_never_narrows(offset, more):
    selector = IntegerSelector(arrays())
    statistics = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)) * 30
    wider = selector.moved(offset + more).choose(statistics)
    assert (wider >= selector.moved(offset).choose(statistics)).all()


def changed(name, value):
    return arrays() | {name: value}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({k: v for k, v in arrays().items() if k != "offset"}, "needs a part 'offset'"),
        (arrays() | {"extra": np.zeros(1)}, "has no part 'extra'"),
        (changed("score_bias", np.zeros(3, np.int64)), "is int64, not int32"),
        (changed("score_bias", np.zeros(0, np.int32)), "at least 1 channel"),
        (changed("score_bias", np.zeros((3, 1), np.int32)), "one per channel"),
        (changed("offset", np.zeros(2, np.float32)), "its offset is one"),
        (changed("hidden_bias", np.zeros((2, 2), np.int32)), "'hidden_bias' of a selector of 3"),
        (changed("hidden_bias", np.zeros(2, np.int32)), "'hidden_bias' of a selector of 3"),
        (changed("hidden_weight", np.zeros((3, 2, 4), np.int8)), "or neither is"),
        (changed("score_bias", np.full(3, LARGEST_BIAS + 1, np.int32)), "has numbers above"),
        (changed("thresholds", np.array([[2, 1]], np.int32)), "must not fall"),
        (changed("score_step", np.zeros(1, np.float32)), "step of a selector must be positive"),
        (changed("offset", np.full(1, np.nan, np.float32)), "'offset' of a selector is not finite"),
    ],
)
def test_parts_that_are_no_selector_are_refused(parts, said):
    with pytest.raises(ModelError, match=said):
        IntegerSelector.from_arrays(parts)
