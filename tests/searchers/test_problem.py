import math
from dataclasses import replace

import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Budget, BudgetSpent, Problem
from bitfront.searchers.synthetic import AdditiveLandscape, tabular_problem
from bitfront.spaces import (
    OBJECTIVES,
    BitAllocation,
    InfeasibleError,
    SpaceError,
    StudyError,
    pareto_front,
)


def uniforms(problem, *widths):
    return [problem.space.uniform(bits) for bits in widths]


# Evaluation


def test_answers_come_in_the_order_asked_and_are_kept():
    problem = tabular_problem(evaluations=10)
    asked = uniforms(problem, 2, 8, 4)
    answers = problem.evaluate(asked)
    assert [m.allocation for m in answers] == asked
    assert problem.history == answers
    assert problem.remaining == 7


def test_every_ask_is_charged_also_a_repeated_one():
    problem = tabular_problem(evaluations=3)
    for _ in range(3):
        problem.evaluate(uniforms(problem, 4))
    assert problem.remaining == 0
    with pytest.raises(BudgetSpent):
        problem.evaluate(uniforms(problem, 4))


def test_what_fits_in_the_budget_is_measured_before_it_ends():
    problem = tabular_problem(evaluations=2)
    with pytest.raises(BudgetSpent):
        problem.evaluate(uniforms(problem, 2, 4, 6))
    assert [m.allocation for m in problem.history] == uniforms(problem, 2, 4)


def test_spending_exactly_the_budget_is_no_end_yet():
    problem = tabular_problem(evaluations=2)
    assert len(problem.evaluate(uniforms(problem, 2, 4))) == 2
    assert problem.evaluate([]) == []


def test_a_list_with_one_foreign_allocation_is_not_measured():
    problem = tabular_problem()
    odd = problem.space.uniform(4).replace("conv1", weight=3)
    with pytest.raises(SpaceError, match="conv1"):
        problem.evaluate([problem.space.uniform(4), odd])
    assert problem.history == []


@pytest.mark.parametrize("fidelity", [0.0, 1.1, math.nan])
def test_fidelity_is_a_share(fidelity):
    problem = tabular_problem()
    with pytest.raises(SpaceError, match="fidelity"):
        problem.evaluate(uniforms(problem, 4), fidelity=fidelity)


def test_low_fidelity_costs_an_evaluation_and_stays_off_the_front():
    problem = tabular_problem(evaluations=5)
    (low,) = problem.evaluate(uniforms(problem, 8), fidelity=0.25)
    assert (low.fidelity, low.samples, problem.remaining) == (0.25, 250, 4)
    assert problem.front() == []


# Front


def test_front_leaves_out_what_failed_or_is_beyond_the_limits():
    limits = {"energy": 0.9}

    def wrap(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            first, *rest = evaluator(allocations, fidelity=fidelity)
            return [replace(first, accuracy=math.nan), *rest]

        return evaluate

    problem = tabular_problem(limits=limits, wrap=wrap)
    failed, dear, good = problem.evaluate(uniforms(problem, 2, 8, 4))
    assert failed.failed
    assert not problem.within(dear)
    assert problem.front() == [good]


def test_front_uses_the_objectives_of_the_study():
    base = tabular_problem()
    problem = Problem(
        base.space,
        base.energy,
        AdditiveLandscape(base.energy),
        Budget(10),
        objectives=[OBJECTIVES["size"]],
    )
    measured = problem.evaluate(uniforms(problem, 8, 2))
    assert problem.front() == [measured[1]]
    assert len(pareto_front(measured)) == 2


# Prices and limits


def test_prices_are_those_of_the_measurement():
    problem = tabular_problem()
    allocation = problem.space.uniform(4, 6)
    (m,) = problem.evaluate([allocation])
    assert problem.price(allocation) == m.energy_vs_w8a8
    assert problem.price(allocation, "size") == m.size_bytes
    assert problem.price(allocation, "bops") == m.bops


def test_uniform_eight_bit_costs_one():
    problem = tabular_problem()
    assert problem.price(problem.space.uniform(8)) == pytest.approx(1.0)


def test_a_limit_is_met_when_it_is_reached_exactly():
    free = tabular_problem()
    limit = free.price(free.space.uniform(4), "bops")
    problem = tabular_problem(limits={"bops": limit})
    assert problem.allows(problem.space.uniform(4))
    assert not problem.allows(problem.space.uniform(6))


def test_only_allowed_keeps_the_order_and_each_once():
    free = tabular_problem()
    limit = free.price(free.space.uniform(4), "bops")
    problem = tabular_problem(limits={"bops": limit})
    two, four, eight = uniforms(problem, 2, 4, 8)
    assert problem.only_allowed([four, eight, two, four]) == [four, two]
    with pytest.raises(InfeasibleError, match=r"the cheapest has bops .* \(limit "):
        problem.only_allowed([eight])


# What is logged


def test_a_step_is_logged_with_its_prices():
    problem = tabular_problem(limits={"size": 1e6, "bops": 1e9}, objectives=["accuracy", "size"])
    assert problem.trace is None
    four = problem.space.uniform(4)
    problem.log("episode", four, reward=0.5)
    assert problem.trace.step == "episode"
    assert problem.trace.layers == four.layers
    costs = ("energy", "size", "bops", "mean_weight_bits", "mean_activation_bits")
    expected = {"reward": 0.5, **{name: problem.price(four, name) for name in costs}}
    assert problem.trace.metrics == {name: [value] for name, value in expected.items()}
    assert problem.trace.weight_bits == [list(four.weights)]


def test_a_given_value_comes_before_a_price():
    problem = tabular_problem()
    problem.log("epoch", problem.space.uniform(4), energy=0.25)
    assert problem.trace.metrics["energy"] == [0.25]


def test_the_best_accuracy_counts_what_is_within_the_limits():
    free = tabular_problem()
    problem = tabular_problem(limits={"energy": free.price(free.space.uniform(4))})
    logged = [(4, 0.5), (8, 0.9), (4, math.nan), (2, 0.4), (2, 0.6)]
    for width, accuracy in logged:
        problem.log("episode", problem.space.uniform(width), accuracy=accuracy)
    assert problem.trace.metrics["accuracy"] == [0.5, 0.9, None, 0.4, 0.6]
    assert problem.trace.metrics["best_accuracy"] == [0.5, 0.5, 0.5, 0.5, 0.6]


def test_there_is_no_best_accuracy_before_the_first():
    problem = tabular_problem()
    problem.log("episode", problem.space.uniform(4), accuracy=None)
    problem.log("episode", problem.space.uniform(4), accuracy=np.float32(0.5))
    assert problem.trace.metrics["best_accuracy"] == [None, 0.5]


def test_a_width_without_a_price_is_logged_without_one():
    base = tabular_problem()
    energy = EnergyModel(load_table("bitfusion"), base.space.layers)
    problem = Problem(base.space, energy, AdditiveLandscape(base.energy), Budget(1))
    problem.log("epoch", BitAllocation.uniform(base.space.layers, 32))
    assert problem.trace.metrics["energy"] == [None]


def test_a_search_logs_one_kind_of_step():
    problem = tabular_problem()
    problem.log("episode", problem.space.uniform(4))
    with pytest.raises(StudyError, match="one kind of step: 'episode', got 'epoch'"):
        problem.log("epoch", problem.space.uniform(4))
    assert len(problem.trace) == 1


def test_logging_charges_nothing_and_draws_nothing():
    problem, untouched = tabular_problem(), tabular_problem()
    problem.log("episode", problem.space.uniform(4), accuracy=0.5)
    assert problem.remaining == untouched.remaining
    assert problem.rng.integers(2**32) == untouched.rng.integers(2**32)


# Randomness and the network


def test_randomness_follows_seed_and_label():
    base = tabular_problem()

    def draw(seed, label):
        problem = Problem(
            base.space, base.energy, AdditiveLandscape(base.energy), Budget(1), seed=seed,
            label=label,
        )  # fmt: skip
        return problem.rng.integers(2**32)

    assert draw(1, "haq") == draw(1, "haq")
    assert len({draw(1, "haq"), draw(2, "haq"), draw(1, "random")}) == 3


def test_randomness_is_the_same_in_every_version():
    # A study repeated with a later version must draw the same numbers.
    base = tabular_problem()
    problem = Problem(base.space, base.energy, AdditiveLandscape(base.energy), Budget(1), seed=3,
                      label="random")  # fmt: skip
    word = 0x56CFA3E95FB141A4  # first eight bytes of SHA-256 of the label, little-endian
    expected = np.random.default_rng(np.random.SeedSequence([3, word])).integers(2**32)
    assert problem.rng.integers(2**32) == expected


def test_a_problem_without_a_network_says_so():
    problem = tabular_problem()
    assert not problem.has_model
    with pytest.raises(StudyError, match="needs_model = True"):
        problem.quantized_model()
    with pytest.raises(StudyError, match="carries no network"):
        problem.calibration()


def test_an_evaluator_that_swallows_an_answer_is_noticed():
    problem = tabular_problem(wrap=lambda evaluator: lambda a, fidelity: evaluator(a)[1:])
    with pytest.raises(ValueError, match="answered 1 of 2"):
        problem.evaluate(uniforms(problem, 2, 4))


def test_allocations_of_other_layers_are_refused():
    problem = tabular_problem()
    with pytest.raises(SpaceError, match="other layers"):
        problem.evaluate([BitAllocation(["a"], [8], [8])])
