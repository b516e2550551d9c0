import math
from dataclasses import replace

import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Budget, BudgetSpent, Problem
from bitfront.searchers.checkpoint import Checkpoint
from bitfront.searchers.synthetic import AdditiveLandscape, KeptCheckpoint, tabular_problem
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
    assert next(iter(problem.trace.metrics)) == "reward"  # pictures begin with what was given
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


# Going on after an interruption


def interrupted():
    """Return a store, and the problem that saved into it, as it was then."""
    kept = KeptCheckpoint()
    problem = tabular_problem(checkpoints=kept)
    problem.evaluate(uniforms(problem, 8, 4))
    problem.evaluate(uniforms(problem, 4), fidelity=0.5)
    problem.rng.random(3)
    problem.log("episode", problem.space.uniform(4), reward=0.5)
    problem.charge(forward=5, backward=2)
    problem.findings["predicted"] = {"a": 1.5}
    problem.save({"episode": 3, "memory": np.arange(4.0)})
    return kept, problem


def test_a_new_run_goes_on_from_what_was_saved_last():
    kept, before = interrupted()
    after = tabular_problem(checkpoints=kept)
    assert after.saved is None and after.history == []  # nothing happens before it is asked to
    after.resume()
    assert after.history == before.history
    assert after.remaining == before.remaining
    assert after.rng.random() == before.rng.random()
    assert after.trace == before.trace
    assert after.findings == before.findings
    assert (after.images_forward, after.images_backward) == (5, 2)
    assert after.saved["episode"] == 3
    assert after.saved["memory"].tolist() == [0, 1, 2, 3]


def test_what_was_done_after_the_last_save_is_done_again():
    kept, before = interrupted()
    before.evaluate(uniforms(before, 2))
    before.findings["late"] = True
    after = tabular_problem(checkpoints=kept)
    after.resume()
    assert len(after.history) == 3
    assert "late" not in after.findings


def test_seconds_go_on_from_the_last_save(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = KeptCheckpoint()
    before = tabular_problem(checkpoints=kept)
    now += 7
    before.save({})
    now += 1000  # lost, and then nothing ran
    after = tabular_problem(checkpoints=kept)
    now += 2
    assert (before.wall_s, after.wall_s) == (1009, 2)
    after.resume()
    assert after.wall_s == 9
    after.save({})
    assert Checkpoint.from_bytes(kept.data).wall_s == 9


def test_questions_are_asked_again_in_order_and_at_their_fidelity():
    kept, before = interrupted()
    calls = []

    def wrap(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            calls.append((list(allocations), fidelity))
            return evaluator(allocations, fidelity=fidelity)

        return evaluate

    tabular_problem(checkpoints=kept, wrap=wrap).resume()
    assert calls == [(uniforms(before, 8, 4), 1.0), (uniforms(before, 4), 0.5)]


def test_without_anything_saved_nothing_is_resumed():
    without_a_store = tabular_problem()
    without_a_store.save({"episode": 1})
    for problem in (without_a_store, tabular_problem(checkpoints=KeptCheckpoint())):
        problem.resume()
        assert problem.saved is None
        assert problem.findings == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"evaluations": 2}, "it has 3 evaluations, and the budget is 2"),
        ({"widths": (3, 5)}, "conv1.weight may be 3, 5 bits, got 8"),
    ],
)
def test_what_does_not_fit_is_left_and_the_trial_starts_over(options, reason):
    kept, _ = interrupted()
    problem = tabular_problem(checkpoints=kept, **options)
    untouched = tabular_problem()
    problem.resume()
    assert (problem.history, problem.saved, problem.trace) == ([], None, None)
    assert problem.rng.random() == untouched.rng.random()
    (note,) = problem.findings["notes"]
    assert note.startswith("started over, since what an interrupted run had saved cannot be used: ")
    assert reason in note


def test_what_is_damaged_is_left_and_the_trial_starts_over():
    kept, _ = interrupted()
    listed = replace(Checkpoint.from_bytes(kept.data), findings=["a"]).to_bytes()
    for damaged in (b"no checkpoint", listed):
        problem = tabular_problem(checkpoints=KeptCheckpoint(damaged))
        problem.resume()
        assert (problem.history, problem.saved) == ([], None)
        assert "it is damaged" in problem.findings["notes"][0]


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
