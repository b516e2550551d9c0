import numpy as np
import pytest

from bitfront.searchers import Frontier
from bitfront.searchers.synthetic import model_problem
from bitfront.searchers.testing import SearcherConformance
from bitfront.spaces import ModelError, StudyError


class TestFrontier(SearcherConformance):
    make = Frontier


@pytest.mark.parametrize("settings", [{"screens": 0}, {"screens": float("inf")}, {"rounds": 0}])
def test_settings_are_checked(settings):
    with pytest.raises(StudyError, match="must be"):
        Frontier(**settings)


def test_images_to_screen_with_are_checked():
    with pytest.raises(ModelError, match="at least 1"):
        Frontier(screen_images=0)


def test_what_it_learned_is_reported():
    problem = model_problem(evaluations=12)
    Frontier().run(problem)
    findings = problem.findings
    assert set(m.allocation.key for m in problem.history) <= set(findings["predicted"])
    assert findings["predicts"] == "kl"
    assert findings["screened"] == len(findings["predicted"]) >= 12
    assert findings["additivity"]["explained_by_additive_model"] <= 1
    assert problem.images_forward >= 16 * findings["screened"]


def test_evaluations_are_never_spent_twice_on_the_same():
    problem = model_problem(evaluations=60)
    Frontier().run(problem)
    keys = [m.allocation.key for m in problem.history]
    assert len(set(keys)) == len(keys) == 60


def test_all_limits_hold_and_the_search_stays_below_the_one_that_is_compared():
    free = model_problem()
    size = free.price(free.space.uniform(6), "size")
    problem = model_problem(evaluations=20, limits={"energy": 0.6, "size": size})
    Frontier().run(problem)
    assert all(problem.within(m) for m in problem.history)
    energies = [problem.price(m.allocation) for m in problem.history]
    assert np.mean(np.array(energies) > 0.5) >= 0.5


def test_a_space_of_one_allocation_is_measured():
    problem = model_problem(evaluations=5, widths=(8,))
    Frontier().run(problem)
    assert len(problem.history) == problem.space.size == 1


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_a_limit_that_only_the_uniform_allocation_meets_exactly_can_be_met(bits):
    free = model_problem()
    limit = free.price(free.space.uniform(bits), "mean_weight_bits")
    problem = model_problem(evaluations=6, limits={"mean_weight_bits": limit})
    Frontier().run(problem)
    assert problem.history and all(problem.within(m) for m in problem.history)


def test_logits_that_are_not_finite_spoil_no_other_candidate(monkeypatch):
    from bitfront.models.divergence import LogitDivergence

    original = LogitDivergence.__call__

    def broken(self, allocations, start=0, stop=None):
        values = original(self, allocations, start, stop)
        values[[a.weights[1] == 4 for a in allocations]] = np.inf
        return values

    monkeypatch.setattr(LogitDivergence, "__call__", broken)
    problem = model_problem(evaluations=30)
    Frontier().run(problem)
    predicted = problem.findings["predicted"]
    whole = {a.key for a in problem.space.enumerate() if a.weights[1] != 4} & set(predicted)
    assert len(whole) > 20
    assert all(predicted[key] < 0.1 for key in whole)
    assert all(np.isfinite(list(predicted.values())))


def test_few_evaluations_span_the_costs():
    problem = model_problem(evaluations=8)
    Frontier().run(problem)
    energies = np.sort([problem.price(m.allocation) for m in problem.history])
    span = energies[-1] - energies[0]
    assert span > 0.1
    assert np.diff(energies).max() < 0.6 * span  # not the two ends alone


def test_under_a_limit_the_best_screened_are_measured():
    problem = model_problem(evaluations=4, limits={"energy": 0.6})
    Frontier(screens=20).run(problem)
    predicted = problem.findings["predicted"]
    best = min(predicted, key=predicted.get)
    assert best in {m.allocation.key for m in problem.history}


def test_sizes_are_limited_as_they_are_priced():
    free = model_problem()
    for bits in (4, 6):
        limit = free.price(free.space.uniform(bits), "size") - 0.3  # sizes are whole bytes
        problem = model_problem(evaluations=10, limits={"size": limit})
        Frontier().run(problem)
        assert problem.history and all(problem.within(m) for m in problem.history)
