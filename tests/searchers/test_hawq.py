import numpy as np
import pytest

from bitfront.models.config import ScoreConfig
from bitfront.searchers import Hawq, build
from bitfront.searchers.testing import SearcherConformance, model_problem
from bitfront.spaces import InfeasibleError, ModelError, StudyError


class TestHawq(SearcherConformance):
    @staticmethod
    def make():
        return Hawq(iterations=5)


class TestHawqV3(SearcherConformance):
    @staticmethod
    def make():
        return Hawq(activations="as-weights", score_images=8, iterations=3, tolerance=0.1)


def omegas(problem, **config):
    """Return the Hessian scores of a problem, L x 2 x 33."""
    return problem.scores(ScoreConfig(kind="hessian", **config)).monotone().values


def omega(values, allocation, *, activations):
    layers = range(len(values))
    total = sum(values[i, 0, allocation.weights[i]] for i in layers)
    if activations:
        total += sum(values[i, 1, allocation.activations[i]] for i in layers)
    return total


@pytest.mark.parametrize("limits", [{"energy": 0.6}, {"size": 800}])
def test_v2_minimises_the_sum_of_weights_and_activations(limits):
    problem = model_problem(limits=limits, evaluations=1)
    Hawq(iterations=10).run(problem)
    values = omegas(problem, iterations=10)
    everything = [a for a in problem.space.enumerate() if problem.allows(a)]
    assert omega(values, problem.history[0].allocation, activations=True) == pytest.approx(
        min(omega(values, a, activations=True) for a in everything)
    )


@pytest.mark.parametrize("limits", [{"energy": 0.7}, {"size": 800}])
def test_v3_minimises_the_sum_of_weights_with_activations_of_the_same_width(limits):
    problem = model_problem(limits=limits)
    Hawq(activations="as-weights", iterations=10).run(problem)
    values = omegas(problem, iterations=10)
    assert all(m.allocation.weights == m.allocation.activations for m in problem.history)
    alike = [
        a for a in problem.space.enumerate() if a.weights == a.activations and problem.allows(a)
    ]
    first = problem.history[0].allocation
    assert omega(values, first, activations=False) == pytest.approx(
        min(omega(values, a, activations=False) for a in alike)
    )
    assert problem.findings["predicted"][first.key] == pytest.approx(
        omega(values, first, activations=False)
    )


def test_v3_gives_the_next_larger_width_where_the_weights_width_is_not_offered():
    problem = model_problem(weights=(2, 4, 8), activations=(3, 6), first_last=None, evaluations=50)
    Hawq(activations="as-weights", iterations=3).run(problem)
    seen = {
        pair
        for m in problem.history
        for pair in zip(m.allocation.weights, m.allocation.activations, strict=True)
    }
    assert seen == {(2, 3), (4, 6), (8, 6)}


def test_v3_where_weights_and_activations_cannot_agree_says_so():
    problem = model_problem(
        weights=(2, 8), activations=(2, 8), forbid=[[2, 2], [8, 8]], first_last=None
    )
    with pytest.raises(InfeasibleError, match="scored"):
        Hawq(activations="as-weights", iterations=2).run(problem)


def test_it_is_charged_for_the_images_of_the_traces():
    problem = model_problem(evaluations=1)
    Hawq(iterations=2, tolerance=0).run(problem)
    assert problem.images_forward >= 2 * 16
    assert problem.images_backward >= 2 * 16
    assert problem.findings["predicts"] == "hessian score"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"activations": "none"}, StudyError, "'activations' must be .*, got 'none'"),
        ({"iterations": 0}, (ModelError, StudyError), "iterations >= 1"),
        ({"tolerance": -1.0}, (ModelError, StudyError), "tolerance >= 0"),
        ({"score_images": 0}, (ModelError, StudyError), "at least 1, got 0"),
        ({"time_limit_s": -1.0}, StudyError, "positive number of seconds, got -1"),
    ],
)
def test_wrong_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        build("hawq", settings)


def test_the_global_generators_are_left_alone():
    import torch

    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    Hawq(iterations=2).run(model_problem())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
