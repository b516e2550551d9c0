import pytest

from bitfront.searchers import Uniform, build
from bitfront.searchers.testing import SearcherConformance, tabular_problem
from bitfront.spaces import InfeasibleError, SpaceError, StudyError


class TestUniform(SearcherConformance):
    make = Uniform


class TestUniformWithSettings(SearcherConformance):
    @staticmethod
    def make():
        return Uniform(widths=(8, (2, 4)))


def widths_asked(problem):
    return [(m.allocation.weights[1], m.allocation.activations[1]) for m in problem.history]


def test_default_is_every_width_from_high_to_low():
    problem = tabular_problem(widths=(2, 4, 6, 8))
    Uniform().run(problem)
    assert widths_asked(problem) == [(8, 8), (6, 6), (4, 4), (2, 2)]


def test_pins_are_kept_and_do_not_add_widths():
    problem = tabular_problem(widths=(2, 4))
    Uniform().run(problem)
    assert widths_asked(problem) == [(4, 4), (2, 2)]
    assert all(m.allocation.weights[0] == 8 for m in problem.history)


def test_pairs_are_weight_then_activation():
    problem = tabular_problem(widths=(2, 4, 6, 8))
    build("uniform", {"widths": [[4, 8], 6]}).run(problem)
    assert widths_asked(problem) == [(4, 8), (6, 6)]


def test_what_two_widths_share_is_measured_once():
    problem = tabular_problem(weights=(2, 4, 8), activations=(8,))
    Uniform().run(problem)
    assert widths_asked(problem) == [(8, 8), (4, 8), (2, 8)]


def test_widths_beyond_the_limits_cost_nothing():
    free = tabular_problem()
    problem = tabular_problem(limits={"size": free.price(free.space.uniform(4), "size")})
    Uniform().run(problem)
    assert widths_asked(problem) == [(4, 4), (2, 2)]


def test_none_within_the_limits_says_what_the_cheapest_costs():
    cheap = tabular_problem()
    limit = cheap.price(cheap.space.uniform(2), "size")
    problem = tabular_problem(limits={"size": limit})
    with pytest.raises(InfeasibleError, match=r"none of the 2 .* cheapest has size .* \(limit "):
        Uniform(widths=(8, 6)).run(problem)


def test_a_width_the_space_lacks_is_refused_before_measuring():
    problem = tabular_problem(widths=(2, 4, 8))
    with pytest.raises(SpaceError, match="widths asks for 6 bits, and the space offers 2, 4, 8"):
        Uniform(widths=(8, 6)).run(problem)
    assert not problem.history


def test_no_widths_is_refused():
    with pytest.raises(StudyError, match="at least one width"):
        Uniform(widths=())
