import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers import Greedy, build
from bitfront.searchers.testing import (
    SearcherConformance,
    model_problem,
    synthetic_layers,
    tabular_problem,
)
from bitfront.spaces import InfeasibleError, Scores, StudyError, pareto_front


class TestGreedy(SearcherConformance):
    make = Greedy


class TestGreedyByRatio(SearcherConformance):
    @staticmethod
    def make():
        return Greedy(score="mse", order="ratio")


class TestGreedyByBinarySearch(SearcherConformance):
    @staticmethod
    def make():
        return Greedy(mode="binary", allowed_drop=0.05)


def scored_problem(values=None, baseline=None, **options):
    """A problem with a formula for the scores, too: those of the landscape, or given ones."""
    problem = tabular_problem(**{"model": object(), **options})
    if values is None:
        noise = 4.0 ** -np.arange(33.0)
        values = problem._evaluator.sensitivity.T[:, :, None] * noise
    names = tuple(layer.name for layer in problem.space.layers)
    problem.scores = lambda config: Scores({"kind": config.kind}, "", names, values)
    if baseline is not None:
        (measured,) = tabular_problem(**options)._evaluator([problem.space.uniform(8)])
        problem.baseline = replace(measured, accuracy=baseline)
    return problem


def path_of(**options):
    """Every point of the path, in order."""
    problem = scored_problem(evaluations=1000, **options)
    Greedy().run(problem)
    order = list(problem.findings["predicted"])
    return sorted(problem.history, key=lambda m: order.index(m.allocation.key))


# Along the path


def test_a_small_budget_spans_the_path_from_end_to_end():
    few = scored_problem(evaluations=3)
    Greedy().run(few)
    widest, narrowest, middle = few.history
    assert [m.allocation for m in few.history[:2]] == [few.space.uniform(b) for b in (8, 2)]
    span = widest.energy_vs_w8a8 - narrowest.energy_vs_w8a8
    assert 0.3 < (middle.energy_vs_w8a8 - narrowest.energy_vs_w8a8) / span < 0.7


def test_the_whole_path_is_one_flip_at_a_time_and_nothing_is_measured_twice():
    path = path_of()
    assert len(path) == len({m.allocation for m in path}) == 1 + 4 * 3  # 4 operands, 4 widths
    for before, after in itertools.pairwise(path):
        changed = [
            (b, a)
            for operand in ("weights", "activations")
            for b, a in zip(
                getattr(before.allocation, operand),
                getattr(after.allocation, operand),
                strict=True,
            )
            if b != a
        ]
        assert len(changed) == 1


def test_with_true_scores_the_predictions_are_the_losses():
    problem = scored_problem(evaluations=100)
    Greedy(score="mse").run(problem)
    assert problem.findings["predicts"] == "mse score"
    predicted = problem.findings["predicted"]
    for m in problem.history:
        if m.accuracy > 0.1:
            assert 0.95 - predicted[m.allocation.key] == pytest.approx(m.accuracy)


def test_the_ratio_finds_better_points_than_the_score_alone():
    # The first and the last layer are small: they have little to save, whatever their scores.
    problems = {
        order: scored_problem(evaluations=100, first_last=None) for order in ("amp", "ratio")
    }
    for order, problem in problems.items():
        Greedy(order=order).run(problem)
    everything = [m for problem in problems.values() for m in problem.history]
    best = {m.allocation for m in pareto_front(everything)}
    share = {
        order: np.mean([m.allocation in best for m in problem.history])
        for order, problem in problems.items()
    }
    assert share["ratio"] > share["amp"]


def test_the_narrowest_widths_end_the_path_wherever_the_flips_do():
    values = np.zeros((4, 2, 33))
    values[1:3, :, [6, 4, 2]] = 7.0, 8.0, 9.0
    values[1, 0, [6, 4, 2]] = 1.0, 3.0, 2.0  # back to 4 bits before the others are at 2
    problem = scored_problem(values, evaluations=100)
    Greedy().run(problem)
    last_flip, narrowest = list(problem.findings["predicted"])[-2:]
    assert last_flip == problem.space.uniform(2).replace("conv1", weight=4).key
    assert narrowest == problem.space.uniform(2).key == problem.history[1].allocation.key


def test_the_ratio_takes_scores_without_their_noise():
    values = np.zeros((4, 2, 33))
    values[1:3, :, [8, 6, 4, 2]] = 2.0, 1.0, 4.0, 3.0
    problem = scored_problem(values, evaluations=100)
    Greedy(order="ratio").run(problem)
    predicted = list(problem.findings["predicted"].values())
    assert predicted == sorted(predicted)


def test_the_path_is_not_the_front():
    # Scores that like 2 bits of conv1.weight better than 4: the path goes there and back again.
    values = np.zeros((4, 2, 33))
    values[1, 0, [2, 4, 6]] = 1.0, 4.0, 3.0
    values[1, 1, [2, 4, 6]] = 2.5, 2.0, 2.0
    values[2, :, [2, 4, 6]] = 9.0
    problem = scored_problem(values, evaluations=100)
    Greedy().run(problem)
    front = problem.front()
    assert 1 < len(front) < len(problem.history)
    for m in problem.history:
        better = [
            o
            for o in problem.history
            if o.accuracy >= m.accuracy
            and o.energy_vs_w8a8 <= m.energy_vs_w8a8
            and (o.accuracy, o.energy_vs_w8a8) != (m.accuracy, m.energy_vs_w8a8)
        ]
        assert (m in front) == (not better)


# Limits


@pytest.mark.parametrize(
    "settings", [{}, {"order": "ratio"}, {"mode": "binary", "allowed_drop": 0.3}]
)
def test_only_points_within_the_limits_are_measured(settings):
    problem = scored_problem(evaluations=100, limits={"energy": 0.8}, baseline=0.95)
    Greedy(**settings).run(problem)
    assert len(problem.history) > 2
    assert all(m.energy_vs_w8a8 <= 0.8 for m in problem.history)


def test_a_budget_that_the_path_cannot_meet_is_not_silent():
    # Of one free layer either the weights or the activations may be narrow, never both.
    space = {"layers": synthetic_layers(3), "widths": (2, 8), "forbid": [(2, 2)]}
    free = tabular_problem(**space)
    limits = {name: free.pricing.smallest(free.space, name) for name in ("size", "energy")}
    with pytest.raises(
        InfeasibleError, match=r"within the limits; the cheapest has size .* \(limit"
    ):
        Greedy().run(scored_problem(**space, limits=limits))


# By binary search


@pytest.mark.parametrize("drop", [0.01, 0.03, 0.1, 0.2, 0.4])
def test_binary_search_finds_the_last_good_point_and_measures_few(drop):
    path = path_of()
    good = [m for m in path if m.accuracy >= 0.95 - drop]
    problem = scored_problem(evaluations=2 + 4, baseline=0.95)  # the ends, and log2 of 13 points
    Greedy(mode="binary", allowed_drop=drop).run(problem)
    found = problem.findings["binary"]
    assert found["target_accuracy"] == pytest.approx(0.95 - drop)
    assert found["selected"] == good[-1].allocation.key
    assert good[-1].allocation in {m.allocation for m in problem.history}
    assert len({m.allocation for m in problem.history}) == len(problem.history)


def test_what_then_remains_is_spent_around_the_point():
    path = path_of()
    problem = scored_problem(evaluations=9, baseline=0.95)
    Greedy(mode="binary", allowed_drop=0.005).run(problem)
    keys = [m.allocation.key for m in path]
    at = keys.index(problem.findings["binary"]["selected"])
    asked = [keys.index(m.allocation.key) for m in problem.history]
    assert 3 < at < 7
    left_out = set(range(len(path))) - set(asked)
    # The ends and the search take six at most.
    assert max(abs(i - at) for i in asked[6:]) <= min(abs(i - at) for i in left_out)


def test_without_a_float_network_the_widest_widths_are_the_reference():
    problem = scored_problem()
    Greedy(mode="binary", allowed_drop=0.1).run(problem)
    widest = problem.history[0]
    assert widest.allocation == problem.space.uniform(8)
    target = problem.findings["binary"]["target_accuracy"]
    assert target == pytest.approx(widest.accuracy - 0.1)


def test_it_stops_early_if_the_narrowest_widths_are_good_enough():
    problem = scored_problem(evaluations=100, baseline=0.95)
    Greedy(mode="binary", allowed_drop=0.9).run(problem)
    assert [m.allocation for m in problem.history] == [problem.space.uniform(b) for b in (8, 2)]
    found = problem.findings["binary"]
    assert found["selected"] == problem.space.uniform(2).key
    assert found["stopped"] == "the narrowest widths meet the target"


def test_it_stops_early_if_the_widest_widths_are_not_good_enough():
    problem = scored_problem(evaluations=100, baseline=0.99)
    Greedy(mode="binary", allowed_drop=0.01).run(problem)
    assert len(problem.history) == 2
    found = problem.findings["binary"]
    assert found["selected"] is None
    assert found["stopped"] == "the widest widths miss the target"


def test_no_good_point_within_the_limits_is_said_by_none():
    problem = scored_problem(evaluations=100, baseline=0.95, limits={"energy": 0.6})
    Greedy(mode="binary", allowed_drop=0.001).run(problem)
    assert problem.findings["binary"] == {
        "target_accuracy": pytest.approx(0.949),
        "selected": None,
    }
    assert problem.history


def test_a_reference_that_failed_leaves_the_curve():
    class Broken:
        def __init__(self, evaluator):
            self.evaluator, self.sensitivity = evaluator, evaluator.sensitivity

        def __call__(self, allocations, *, fidelity=1.0):
            measured = self.evaluator(allocations, fidelity=fidelity)
            return [replace(m, accuracy=math.nan, error="died") for m in measured]

    problem = scored_problem(evaluations=6, wrap=Broken)
    Greedy(mode="binary", allowed_drop=0.1).run(problem)
    assert len(problem.history) == 6
    assert "binary" not in problem.findings


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "binary"}, "mode 'binary' needs allowed_drop"),
        ({"allowed_drop": 0.01}, "allowed_drop is for mode 'binary' only"),
        ({"mode": "binary", "allowed_drop": 1.0}, r"fraction in \[0, 1\), got 1.0"),
        ({"mode": "binary", "allowed_drop": -0.1}, r"fraction in \[0, 1\), got -0.1"),
        ({"score": "magic"}, "'score' must be .*, got 'magic'"),
        ({"order": "random"}, "'order' must be .*, got 'random'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        build("greedy", settings)


def test_the_score_that_is_asked_for_is_the_one_computed():
    asked = []
    problem = scored_problem()
    compute = problem.scores
    problem.scores = lambda config: asked.append(config.kind) or compute(config)
    Greedy(score="hessian").run(problem)
    assert asked == ["hessian"]


def test_it_charges_the_images_its_scores_take():
    problem = model_problem()
    Greedy(score="mse").run(problem)
    assert problem.images_forward == 16


def test_by_ratio_what_is_limited_is_saved_too():
    problem = model_problem(
        evaluations=16,
        limits={"energy": 0.6},
        objectives=("accuracy", "size"),
    )
    Greedy(order="ratio", score="mse").run(problem)
    assert len(problem.history) >= 3  # not the narrowest widths alone
    assert all(problem.within(m) for m in problem.history)
