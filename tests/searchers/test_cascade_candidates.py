"""What is predicted of cascades, against running them on the same answers."""

import itertools

import numpy as np
import pytest

from bitfront.models.dynamic.cascade import route
from bitfront.searchers.cascade_candidates import (
    Answers,
    Candidates,
    Predictor,
    pairs,
    smoothed,
    triples,
)
from bitfront.spaces import BitAllocation, DynamicAllocation

RESOLUTION = 0.5 / 1000


@pytest.fixture(scope="module")
def answers():
    """Four members; the dearer, the surer and the seldomer wrong."""
    rng = np.random.default_rng(0)
    hardness = rng.random(120)
    confidences = np.clip([1 - hardness * lack for lack in (0.9, 0.6, 0.4, 0.2)], 0.1, 1)
    wrong = rng.random((4, 120)) < hardness * np.array([[0.4], [0.2], [0.1], [0.02]])
    return Answers(np.array([0.2, 0.35, 0.5, 0.9]), confidences, wrong * 0.8, decision=0.001)


def run(answers, members, thresholds):
    """Return the shares and the losses of running a cascade."""
    dynamic = DynamicAllocation(
        "cascade",
        tuple(BitAllocation(["a"], [2 + m], [2 + m]) for m in members),
        thresholds=thresholds,
        temperatures=(1.0,) * len(thresholds),
        classes=10,
    )
    answered, ran = route(dynamic, [answers.confidences[m] for m in members[:-1]])
    regrets = answers.regrets[list(members)]
    lost = [(regrets[stage] * (answered == stage)).mean() for stage in range(len(members))]
    return ran.mean(axis=0), lost


@pytest.mark.parametrize("make", [pairs, lambda a: triples(a, [0, 1, 3])], ids=["two", "three"])
def test_predictions_are_what_running_gives(answers, make):
    candidates = make(answers)
    for index in range(0, len(candidates), 7):
        ran, lost = run(answers, *candidates.stages(index))
        np.testing.assert_allclose(candidates.ran[index], ran)
        np.testing.assert_allclose(candidates.lost[index], lost, atol=1e-15)


def test_every_pair_and_triple_is_there(answers):
    found = {tuple(row) for row in pairs(answers).members.tolist()}
    assert found == set(itertools.combinations(range(4), 2))
    found = {tuple(row) for row in triples(answers, [0, 2, 3]).members.tolist()}
    assert found == {(0, 2, 3)}


def test_thresholds_are_between_confidences_and_those_that_were_set(answers):
    candidates = pairs(answers, (0.9,))
    assert (candidates.thresholds == 0.9).sum() == 6
    of_first = candidates.thresholds[(candidates.members[:, 0] == 0)].ravel()
    assert not np.isin(of_first, answers.confidences[0]).any()
    redone = candidates.ran[:, 1]
    assert (redone > 0).all() and (redone < 1).all()
    both = triples(answers, [0, 1, 2], ((0.9, 0.6),)).thresholds
    assert (both[:, 0] > both[:, 1]).all() and both[-1].tolist() == [0.9, 0.6]


def test_members_whose_confidences_are_equal_have_no_thresholds(answers):
    same = Answers(answers.costs[:2], np.ones((2, 5)), np.zeros((2, 5)))
    assert len(pairs(same)) == 0
    assert len(pairs(same, (0.9,))) == 1
    assert len(triples(answers, [0, 1])) == 0


def predictor(answers, three=False):
    candidates = pairs(answers)
    if three:
        candidates = candidates.joined(triples(answers, [0, 1, 3]))
    return Predictor(answers, candidates, RESOLUTION)


def test_costs_are_those_of_what_is_run_and_decided(answers):
    found = predictor(answers, three=True)
    for index in (3, len(found.candidates) - 1):
        members, _ = found.candidates.stages(index)
        ran, _ = run(answers, *found.candidates.stages(index))
        expected = ran @ answers.costs[list(members)] + ran[:-1].sum() * answers.decision
        assert found.costs[index] == pytest.approx(expected)
    assert found.losses == pytest.approx(found.candidates.lost.sum(axis=1))


def test_pairs_among_triples_name_their_last_member_twice(answers):
    joined = predictor(answers, three=True).candidates
    assert joined.members[0].tolist() == [0, 1, 1]
    assert joined.stages(0) == ((0, 1), (joined.thresholds[0, 0],))
    assert len(joined.stages(len(joined) - 1)[0]) == 3
    assert isinstance(joined, Candidates)


def test_what_a_member_was_measured_to_lose_scales_its_part(answers):
    found = predictor(answers)
    whole = answers.regrets[0].mean()
    found.learn_member(0, 2 * whole + RESOLUTION)
    found.learn_member(3, float(answers.regrets[3].mean()))
    index = int(np.flatnonzero((found.candidates.members == [0, 3]).all(axis=1))[5])
    kept, redone = found.candidates.lost[index]
    assert found.losses[index] == pytest.approx(2 * kept + redone, rel=1e-3)


def test_after_learning_it_predicts_what_was_measured(answers):
    found = predictor(answers)
    index = 10
    found.learn(index, 0.07, 0.31)
    assert found.losses[index] == pytest.approx(0.07)
    assert found.costs[index] == pytest.approx(0.31)
    ran = found.ran(index)
    assert ran[0] == 1 and ran[1] != found.candidates.ran[index, 1]
    others = found.candidates.members[:, 0] != found.candidates.members[index, 0]
    fresh = predictor(answers)
    np.testing.assert_array_equal(found.losses[others], fresh.losses[others])


def test_gains_are_savings_times_how_likely_they_are(answers):
    found = predictor(answers)
    gains = found.gains(0.5, 0.05)
    assert (gains[found.costs >= 0.5] == 0).all() and (gains >= 0).all()
    assert (gains <= np.maximum(0.5 - found.costs, 0)).all()
    even = np.isclose(found.losses, 0.05, atol=0.01) & (found.costs < 0.45)
    assert gains[even] / (0.5 - found.costs[even]) == pytest.approx(0.5, abs=0.15)
    assert (found.gains(0.5, 0.1) >= gains).all()
    assert np.isfinite(found.gains(0.5, 0.0)).all()


def test_the_front_is_not_dominated_by_any_that_are_compared(answers):
    found = predictor(answers)
    among = np.ones(len(found.candidates), dtype=bool)
    front = found.front(among, 1.0)
    costs, losses = found.costs, found.losses
    assert (np.diff(costs[front]) > 0).all() and (np.diff(losses[front]) < 0).all()
    among[front] = False
    assert not set(found.front(among, 1.0)) & set(front)
    assert (losses[found.front(among, 0.05)] <= 0.05).all()


def test_smoothing_adds_half_an_image_where_there_is_doubt():
    regrets = np.zeros((2, 50))
    confidences = np.tile(np.linspace(0.5, 1, 50), (2, 1))
    found = smoothed(regrets, confidences)
    assert found.sum(axis=1) == pytest.approx([0.5, 0.5])
    assert (np.diff(found) < 0).all() and (found > 0).all()
    assert smoothed(regrets, np.ones((2, 50))).sum(axis=1) == pytest.approx([0.5, 0.5])
