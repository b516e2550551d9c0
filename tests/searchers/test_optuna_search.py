from functools import partial

import numpy as np
import pytest

from bitfront.searchers import OptunaSearch, RandomSearch, build
from bitfront.searchers.testing import (
    SearcherConformance,
    model_problem,
    synthetic_layers,
    tabular_problem,
)
from bitfront.spaces import (
    OBJECTIVES,
    InfeasibleError,
    SpaceError,
    StudyError,
    as_costs,
    hypervolume,
)

MEASURED_ONLY = ("accuracy", "loss")


class TestNsga2(SearcherConformance):
    make = OptunaSearch


class TestNsga2FromNothing(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, warm_start=False))


class TestNsga3(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="nsga3"))


class TestTpe(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="tpe"))


class TestCmaes(SearcherConformance):
    make = staticmethod(partial(OptunaSearch, sampler="cmaes"))


@pytest.mark.slow
class TestGp(SearcherConformance):
    """Per layer only, where there are few free widths: the Gaussian process takes its time."""

    evaluations = 14
    make = staticmethod(partial(OptunaSearch, sampler="gp"))

    def _options(self, **options):
        for chosen in super()._options(**options):
            if chosen["granularity"] == "layer":
                yield chosen


def batches(problem_options, **settings):
    """Run a strategy; return its problem and the lists it asked for."""
    lists = []

    def recording(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            lists.append(list(allocations))
            return evaluator(allocations, fidelity=fidelity)

        return evaluate

    problem = tabular_problem(wrap=recording, **problem_options)
    OptunaSearch(**settings).run(problem)
    return problem, lists


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "cmaes"])
def test_nothing_is_asked_twice_nor_beyond_the_limits_and_the_budget_is_spent(sampler):
    problem, _ = batches({"evaluations": 40, "limits": {"energy": 0.9}}, sampler=sampler)
    asked = [m.allocation for m in problem.history]
    assert len(asked) == len(set(asked)) == 40
    assert all(problem.allows(allocation) for allocation in asked)


def test_the_uniform_allocations_come_first_with_at_most_half_of_the_budget():
    _, lists = batches({"evaluations": 30})
    space = tabular_problem().space
    assert set(lists[0]) == {space.uniform(bits) for bits in (2, 4, 6, 8)}
    assert lists[0][:2] == [space.uniform(8), space.uniform(2)]
    _, lists = batches({"evaluations": 5})
    assert lists[0] == [space.uniform(8), space.uniform(2)]
    _, lists = batches({"evaluations": 30}, warm_start=False)
    assert set(lists[0]) != {space.uniform(bits) for bits in (2, 4, 6, 8)}


def test_with_a_network_the_additive_curve_comes_first_too():
    problem = model_problem(evaluations=60)
    OptunaSearch(population=6).run(problem)
    predicted = problem.findings["predicted"]
    first = {m.allocation.key for m in problem.history[:30]}
    assert len(predicted) == 6
    assert set(predicted) <= first
    assert problem.findings["predicts"] == "kl score"
    assert problem.images_forward > 0


def test_batches_are_as_long_as_asked():
    _, lists = batches({"evaluations": 34}, batch=5)
    assert [len(batch) for batch in lists] == [4, 5, 5, 5, 5, 5, 5]


def test_limits_that_exclude_each_other_end_with_both_named():
    space = {"layers": synthetic_layers(3), "widths": (2, 8), "forbid": [(2, 2)]}
    free = tabular_problem(**space)
    light, quick = (free.pricing.smallest(free.space, name) for name in ("size", "energy"))
    problem = tabular_problem(**space, limits={"size": light, "energy": quick})
    with pytest.raises(InfeasibleError, match=r"together: size <= .* energy <= "):
        OptunaSearch().run(problem)


def test_caps_are_spread_over_the_costs_up_to_the_limit():
    problem = tabular_problem(evaluations=200, limits={"energy": 0.9})
    low = problem.pricing.smallest(problem.space, "energy")
    caps = OptunaSearch(sampler="cmaes", population=10)._caps(problem)
    assert len(caps) == 6
    assert np.allclose(np.diff([low, *caps]), (0.9 - low) / 6)
    assert len(OptunaSearch(sampler="cmaes")._caps(tabular_problem(evaluations=20))) == 1
    problem.objectives = (OBJECTIVES["accuracy"],)
    assert OptunaSearch(sampler="cmaes")._caps(problem) == [0.9]


@pytest.mark.parametrize("sampler", ["nsga2", "cmaes"])
def test_it_beats_random_search_on_a_landscape_with_a_formula(sampler):
    def volume(strategy):
        problem = tabular_problem(layers=synthetic_layers(12), evaluations=300)
        strategy.run(problem)
        return hypervolume(as_costs(problem.front()), [0.0, 1.0])

    assert volume(OptunaSearch(sampler=sampler, population=10)) > volume(RandomSearch())


def test_spaces_that_do_not_suit_a_sampler_are_refused():
    large = tabular_problem(layers=synthetic_layers(120)).space
    for sampler in ("gp", "cmaes"):
        with pytest.raises(SpaceError, match=r"at most 200 free widths, and the space has 236"):
            OptunaSearch(sampler=sampler).check(large)
    OptunaSearch().check(large)
    small = tabular_problem(layers=synthetic_layers(3), ties=["weights=activations"]).space
    with pytest.raises(SpaceError, match=r"needs at least 2 free widths, and the space has 1"):
        OptunaSearch(sampler="cmaes").check(small)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"population": 3}, "population must be at least 4"),
        ({"sampler": "sobol"}, "'sampler' must be"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        build("optuna", settings)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "cmaes"])
def test_limits_hold_also_where_no_objective_is_a_cost(sampler):
    problem = tabular_problem(evaluations=24, limits={"energy": 0.6}, objectives=MEASURED_ONLY)
    OptunaSearch(sampler=sampler).run(problem)
    assert problem.history and all(problem.within(m) for m in problem.history)
