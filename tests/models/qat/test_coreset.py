import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.qat.coreset import Coreset, scores, select
from bitfront.spaces import ModelError

# Softmaxes (3/4, 1/4) and (1/4, 3/4): logits that differ by ln 3.
THREE = math.log(3)
QUANTIZED = torch.tensor([[THREE, 0.0], [THREE, 0.0], [0.0, THREE]])
FULL = torch.tensor([[THREE, 0.0], [0.0, THREE], [0.0, THREE]])
LABELS = torch.tensor([0, 0, 0])
ERROR = [math.sqrt(2) / 4, math.sqrt(2) / 4, math.sqrt(2) * 3 / 4]
DISAGREEMENT = [0.0, math.sqrt(2) / 2, 0.0]


@pytest.mark.parametrize("progress", [0.0, 0.25, 2 / 3, 1.0])
def test_scores_move_from_error_to_disagreement_with_the_cosine_of_a_quarter_turn(progress):
    weight = {0.0: 1.0, 0.25: math.cos(math.pi / 8), 2 / 3: 0.5, 1.0: 0.0}[progress]
    expected = [
        weight * error + (1 - weight) * disagreement
        for error, disagreement in zip(ERROR, DISAGREEMENT, strict=True)
    ]
    assert scores(QUANTIZED, FULL, LABELS, progress).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_weight_is_that_of_the_paper_and_not_of_its_code():
    """At half of the training, cos(pi / 4) against (1 + cos(pi / 2)) / 2."""
    middle = scores(QUANTIZED[:1], FULL[:1], LABELS[:1], 0.5).item()
    assert middle == pytest.approx(math.sqrt(0.5) * ERROR[0])
    assert middle != pytest.approx(0.5 * ERROR[0])


def test_scores_are_bounded_and_carry_no_gradient():
    sure = torch.tensor([[500.0, -500.0]], requires_grad=True)
    worst = scores(sure, -sure, torch.tensor([1]), 0.0)
    assert worst.tolist() == pytest.approx([math.sqrt(2)])
    assert not worst.requires_grad


def test_half_precision_logits_are_scored_in_full():
    exact = scores(QUANTIZED, FULL, LABELS, 0.5)
    assert scores(QUANTIZED.double(), FULL.double(), LABELS, 0.5).dtype == torch.float64
    rough = scores(QUANTIZED.bfloat16(), FULL.bfloat16(), LABELS, 0.5)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"progress": 1.01}, "progress .* in .0, 1., got 1.01"),
        ({"progress": math.nan}, "progress"),
        ({"logits_full": FULL[:2]}, r"both networks .* got \(3, 2\) and \(2, 2\)"),
        ({"logits_quantized": QUANTIZED[0], "logits_full": FULL[0]}, "both networks"),
        ({"labels": LABELS[:2]}, "a label, a whole number, for each of 3 images"),
        ({"labels": LABELS.float()}, "a whole number"),
        ({"labels": LABELS + 2}, "classes from 0 to 1, got 2 to 2"),
        ({"labels": LABELS - 1}, "classes from 0 to 1"),
        ({"logits_quantized": QUANTIZED * math.nan}, "the quantized network's logits"),
        ({"logits_full": FULL * math.inf}, "the full-precision network's logits"),
    ],
)
def test_what_cannot_be_scored_is_refused(changed, said):
    given = {
        "logits_quantized": QUANTIZED,
        "logits_full": FULL,
        "labels": LABELS,
        "progress": 0.5,
    }
    with pytest.raises(ModelError, match=said):
        scores(**(given | changed))


def test_the_highest_are_kept_in_the_order_of_the_images():
    kept = select(torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7]), 0.6)
    assert kept.tolist() == [1, 3, 4]
    assert kept.dtype == np.int64


def test_of_equal_scores_the_first_are_kept():
    assert select(torch.tensor([0.5, 0.7, 0.5, 0.5]), 0.5).tolist() == [0, 1]


def test_a_batch_is_kept_in_any_case():
    values = torch.arange(10.0)
    assert select(values, 0.01).tolist() == [9]
    assert select(values, 0.1, at_least=4).tolist() == [6, 7, 8, 9]
    assert select(values, 0.1, at_least=64).tolist() == list(range(10))


@given(
    st.lists(st.floats(0, 2, width=32), min_size=1, max_size=50),
    st.floats(0, 1, exclude_min=True),
)
def test_nothing_that_is_left_out_scores_more_than_what_is_kept(values, fraction):
    kept = select(torch.tensor(values), fraction).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == max(1, round(fraction * len(values)))
    left_out = [value for index, value in enumerate(values) if index not in kept]
    assert not left_out or max(left_out) <= min(values[index] for index in kept)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, math.nan])
def test_a_fraction_is_above_0_and_at_most_1(fraction):
    with pytest.raises(ModelError, match=r"fraction of a coreset must lie in \(0, 1\]"):
        select(torch.ones(3), fraction)
    with pytest.raises(ModelError, match=r"must lie in \(0, 1\]"):
        Coreset(3, fraction=fraction)


@pytest.mark.parametrize("values", [torch.ones(0), torch.ones(2, 2), torch.tensor([1.0, math.nan])])
def test_what_cannot_be_selected_from_is_refused(values):
    with pytest.raises(ModelError, match="a coreset"):
        select(values, 0.5)


@pytest.mark.parametrize("name", ["images", "every", "at_least"])
def test_counts_of_a_coreset_are_at_least_1(name):
    settings = {"images": 10, "fraction": 0.5, "every": 2, "at_least": 1} | {name: 0}
    with pytest.raises(ModelError, match=f"{name} of a coreset must be at least 1, got 0"):
        Coreset(settings.pop("images"), **settings)


def run(coreset: Coreset, epochs: range) -> list[int]:
    """Pass epochs whose scores favour images from the epoch's number on; return selections."""
    selected = []
    for epoch in epochs:
        if coreset.due(epoch):
            coreset.choose(torch.roll(torch.arange(8.0), epoch), epoch)
            selected.append(epoch)
        coreset.count_epoch()
    return selected


def test_images_are_scored_every_few_epochs_and_the_saving_is_counted():
    coreset = Coreset(8, fraction=0.25, every=3)
    assert coreset.indices.tolist() == list(range(8))
    assert run(coreset, range(7)) == [0, 3, 6]
    assert coreset.indices.tolist() == [4, 5]  # 6 and 7, moved by 6 places
    assert coreset.images_scored == 3 * 8
    assert coreset.images_left_out == 7 * 6


@pytest.mark.parametrize("settings", [{"fraction": 1.0}, {"fraction": 0.25, "at_least": 8}])
def test_where_all_images_are_kept_none_is_scored(settings):
    coreset = Coreset(8, every=1, **settings)
    assert coreset.keeps_all
    assert run(coreset, range(5)) == []
    assert coreset.indices.tolist() == list(range(8))
    assert (coreset.images_scored, coreset.images_left_out) == (0, 0)


def test_a_training_that_went_on_selects_as_one_without_an_interruption():
    whole, first = Coreset(8, fraction=0.5, every=3), Coreset(8, fraction=0.5, every=3)
    selected = run(whole, range(8))
    before = run(first, range(5))
    kept = first.state()
    run(first, range(5, 8))  # what is kept is a copy
    second = Coreset(8, fraction=0.5, every=3)
    second.restore(kept)
    assert before + run(second, range(5, 8)) == selected
    assert plain(second) == plain(whole)


def plain(coreset: Coreset) -> str:
    return json.dumps(coreset.state() | {"indices": coreset.indices.tolist()})


def test_a_fresh_state_is_restored_too():
    coreset = Coreset(8, fraction=0.5)
    coreset.restore(Coreset(8, fraction=0.5).state())
    assert coreset.due(0)


@pytest.mark.parametrize(
    "damage",
    [
        {"indices": np.array([1, 1])},
        {"indices": np.array([-1, 2])},
        {"indices": np.array([2, 8])},
        {"indices": np.array([], dtype=np.int64)},
        {"indices": None},
        {"selected": "soon"},
        {"images_scored": None},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    coreset = Coreset(8, fraction=0.5)
    before = plain(coreset)
    with pytest.raises(ModelError, match="no state of a coreset"):
        coreset.restore(coreset.state() | damage)
    assert plain(coreset) == before


def test_scores_of_other_images_are_refused():
    with pytest.raises(ModelError, match=r"8 images needs a score for each, .* \(7,\)"):
        Coreset(8, fraction=0.5).choose(torch.ones(7), 0)
