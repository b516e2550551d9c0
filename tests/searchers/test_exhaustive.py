import pytest

from bitfront.searchers import Exhaustive, build
from bitfront.searchers.testing import SearcherConformance, problem_for, tabular_problem, true_front
from bitfront.spaces import InfeasibleError, StudyError


class TestExhaustive(SearcherConformance):
    make = Exhaustive
    evaluations = 256

    def _options(self, **options):
        # One free layer of two widths: 4 allocations, or 2 ** 8 per channel, not 4 ** 16.
        one_free = {"widths": (4, 8), "pins": {"conv1": {"weight": 8, "activation": 8}}}
        pins = {**one_free["pins"], **options.pop("pins", {})}
        yield from super()._options(**{**one_free, "pins": pins, **options})

    def test_one_evaluation_is_enough_to_answer(self):
        # It is not: a part of the space is no answer, so it is refused and nothing is charged.
        for options in self._options(evaluations=1):
            problem = problem_for(self.make(), **options)
            with pytest.raises(StudyError, match="the budget is 1 evaluations"):
                self.make().run(problem)
            assert not problem.history


def test_it_finds_the_true_front():
    problem = tabular_problem(evaluations=256)
    Exhaustive().run(problem)
    asked = [m.allocation for m in problem.history]
    assert len(set(asked)) == len(asked) == 256
    assert problem.front() == true_front(problem)


def test_what_is_beyond_the_limits_is_not_measured():
    problem = tabular_problem(evaluations=256, limits={"energy": 0.8})
    Exhaustive().run(problem)
    allowed = {a for a in problem.space.enumerate() if problem.price(a) <= 0.8}
    assert 0 < len(allowed) < 256
    assert {m.allocation for m in problem.history} == allowed


def test_a_study_refuses_it_before_anything_runs():
    problem = tabular_problem(evaluations=255)
    with pytest.raises(StudyError, match="255 evaluations: raise it"):
        Exhaustive().check_budget(problem.space, problem.budget)


def test_one_allocation_too_many_is_refused_with_both_numbers():
    problem = tabular_problem(evaluations=255)
    with pytest.raises(StudyError, match=r"all 256 allocations .* the budget is 255 evaluations"):
        Exhaustive().run(problem)
    assert not problem.history


def test_a_space_beyond_all_bounds_is_refused_at_once():
    problem = tabular_problem(widths=(2, 3, 4, 5, 6, 7, 8), granularity="channel")
    with pytest.raises(StudyError, match=f"all {7**16} allocations"):
        Exhaustive().run(problem)


def test_limits_that_exclude_each_other_are_refused():
    # Of one free layer either the weights or the activations may be narrow, never both.
    space = {
        "widths": (2, 8),
        "forbid": [(2, 2)],
        "pins": {"conv2": {"weight": 8, "activation": 8}},
    }
    free = tabular_problem(**space)
    light, quick = (free.pricing.smallest(free.space, name) for name in ("size", "energy"))
    problem = tabular_problem(**space, limits={"size": light, "energy": quick})
    with pytest.raises(InfeasibleError, match="none of the 3 allocations"):
        Exhaustive().run(problem)


def test_progress_shows_in_batches():
    sizes = []

    def counting(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            sizes.append(len(allocations))
            return evaluator(allocations, fidelity=fidelity)

        return evaluate

    Exhaustive().run(tabular_problem(evaluations=300, wrap=counting))
    assert sizes == [64] * 4


def test_it_has_no_settings():
    assert build("exhaustive").settings() == {}
