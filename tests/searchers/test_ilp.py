import json
import time

import numpy as np
import pytest

from bitfront.models.config import ScoreConfig
from bitfront.searchers import Ilp, build
from bitfront.searchers.additive import AdditiveModel
from bitfront.searchers.additive_search import measure_best, solve_within
from bitfront.searchers.testing import SearcherConformance, model_problem, tabular_problem
from bitfront.spaces import BitAllocation, InfeasibleError, ModelError, StudyError

BOTH = {"energy": 0.7, "size": 900.5}


class TestIlp(SearcherConformance):
    make = Ilp


class TestIlpWithSettings(SearcherConformance):
    @staticmethod
    def make():
        return Ilp(score="output-l2", score_images=8, time_limit_s=10)


def additive(problem, kind="kl"):
    """Return the model that the strategy solves."""
    return AdditiveModel(problem.space, problem.scores(ScoreConfig(kind=kind)).monotone().pairs())


def best_by_enumeration(problem, model):
    """Return the smallest score within the problem's limits, by looking at everything."""
    return min(model.predict(a) for a in problem.space.enumerate() if problem.allows(a))


# What is asked


@pytest.mark.parametrize("limits", [{"energy": 0.6}, {"size": 900.5}, BOTH, {"bops": 3e5}])
def test_the_first_question_is_the_optimum_within_all_limits(limits):
    problem = model_problem(limits=limits, evaluations=1)
    Ilp().run(problem)
    (asked,) = problem.history
    model = additive(problem)
    assert model.predict(asked.allocation) == pytest.approx(best_by_enumeration(problem, model))
    assert problem.allows(asked.allocation)


def test_without_limits_the_first_question_is_the_best_there_is():
    problem = model_problem(evaluations=1)
    Ilp(score="mse").run(problem)
    assert problem.history[0].allocation == problem.space.uniform(8)


def test_what_is_asked_is_the_additive_front_and_spans_its_costs():
    problem = model_problem(evaluations=10_000)
    Ilp(score="output-l2").run(problem)
    model = additive(problem, "output-l2")
    curve = model.curve(problem.layer_costs("energy"))
    assert {m.allocation for m in problem.history} == {
        curve.allocation(i) for i in range(len(curve))
    }
    few = model_problem(evaluations=3)
    Ilp(score="output-l2").run(few)
    assert few.history == problem.history[:3]
    energies = [problem.price(m.allocation) for m in few.history[:2]]
    assert sorted(energies) == pytest.approx([curve.costs[0], curve.costs[-1]])


def test_nothing_is_asked_twice_or_beyond_a_limit():
    problem = model_problem(evaluations=200, limits=BOTH)
    Ilp().run(problem)
    asked = [m.allocation for m in problem.history]
    assert len(asked) == len(set(asked))
    assert all(problem.allows(a) for a in asked)


def test_where_the_pareto_set_is_beyond_a_limit_further_budgets_are_solved():
    # Few of the best at each energy are that small.
    problem = model_problem(evaluations=12, limits={"size": 700})
    Ilp(score="output-l2").run(problem)
    model = additive(problem, "output-l2")
    said = problem.findings["solver"]
    assert len(said) > 1
    for solution in said[1:]:
        within = [
            model.predict(a)
            for a in problem.space.enumerate()
            if problem.allows(a) and problem.price(a) <= solution["costs"]["energy"] + 1e-12
        ]
        assert solution["score"] == pytest.approx(min(within))
    asked = {m.allocation for m in problem.history}
    assert {BitAllocation.from_dict(s["allocation"]) for s in said} & asked


def test_the_costs_spanned_are_those_the_study_compares():
    from bitfront.searchers import Problem
    from bitfront.spaces import OBJECTIVES

    base = model_problem()
    problem = Problem(
        base.space,
        base.energy,
        base._evaluator,
        base.budget,
        objectives=(OBJECTIVES["accuracy"], OBJECTIVES["size"]),
        model=base._model,
    )
    Ilp(score="mse").run(problem)
    curve = additive(problem, "mse").curve(problem.layer_costs("size"))
    asked = {m.allocation for m in problem.history}
    assert asked <= {curve.allocation(i) for i in range(len(curve))}


def test_a_size_between_two_bytes_is_respected():
    problem = model_problem(limits={"size": 900.5})
    model = additive(problem)
    for limit in np.arange(800, 1000, 7.3):
        found = solve_within(problem, model, {"size": limit}, 10)
        assert problem.price(found.allocation, "size") <= limit


def test_ties_and_forbidden_pairs_hold():
    problem = model_problem(ties=["shared-input"], forbid=[[2, 8], [8, 2]], limits={"energy": 0.6})
    Ilp(score="mse").run(problem)
    assert len(problem.history) > 3


# What is reported


def test_findings_are_plain_and_hold_what_was_predicted():
    problem = model_problem(limits={"energy": 0.7}, evaluations=8)
    Ilp().run(problem)
    findings = json.loads(json.dumps(problem.findings))
    assert findings["predicts"] == "kl score"
    (said,) = findings["solver"]
    assert (said["status"], said["costs"]["energy"] <= 0.7) == ("optimal", True)
    model = additive(problem)
    assert findings["predicted"] == {
        m.allocation.key: model.predict(m.allocation) for m in problem.history
    }


class Counting:
    """A network that counts how often it is asked for, and can be taken away."""

    def __init__(self, network):
        self.network, self.asked, self.gone = network, 0, False

    @property
    def digest(self):
        return self.network.digest

    def quantized_model(self):
        assert not self.gone, "the network was asked for again"
        self.asked += 1
        return self.network.quantized_model()

    def calibration(self):
        assert not self.gone, "the network was asked for again"
        return self.network.calibration()


def test_another_budget_needs_no_network():
    problem = model_problem(limits={"energy": 0.7})
    problem._model = network = Counting(problem._model)
    model = additive(problem)
    charged = problem.images_forward
    assert network.asked == 1
    network.gone = True
    for budget in (0.9, 0.6, 0.5):
        solution = solve_within(problem, model, {"energy": budget}, 10)
        assert solution.costs["energy"] <= budget
    measure_best(problem, model, "kl score", 10)
    assert problem.history
    assert (network.asked, problem.images_forward) == (1, charged)


def test_twenty_layers_are_solved_anew_in_less_than_a_second():
    from bitfront.searchers.testing import synthetic_layers

    problem = tabular_problem(layers=synthetic_layers(20), widths=(2, 4, 8))
    rng = np.random.default_rng(0)
    noise = 4.0 ** -np.arange(33.0)
    drawn = 100.0 ** rng.random((2, 20, 1, 1))
    model = AdditiveModel(problem.space, drawn[0] * noise[:, None] + drawn[1] * noise)
    seconds = []  # of this process: what else the machine does makes no difference
    for budget in (0.7, 0.65, 0.6, 0.55, 0.5):
        start = time.process_time()
        assert solve_within(problem, model, {"energy": budget}, 60).status == "optimal"
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 1


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"score": "magic"}, StudyError, "'score' must be .*, got 'magic'"),
        ({"score_images": 0}, (ModelError, StudyError), "at least 1, got 0"),
        ({"time_limit_s": 0}, StudyError, "positive number of seconds, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        build("ilp", settings)


def test_limits_that_no_allocation_meets_together():
    # By itself each can be had; 0.6525 needs 4.47 bits, and fewer bits need 0.6866.
    limits = {"mean_weight_bits": 4.0, "energy": 0.66}
    problem = model_problem(widths=(2, 8), forbid=[[2, 2]], limits=limits)
    with pytest.raises(
        InfeasibleError,
        match=r"mean_weight_bits <= 4 and energy <= 0.66 at once; with the others kept, the "
        r"smallest achievable is mean_weight_bits 4.474 or energy 0.6867: raise one of the limits",
    ):
        Ilp().run(problem)
    assert not problem.history


def test_budgets_finer_than_a_byte_lose_nothing():
    # Sizes are rounded up to bytes: between the cheapest and the best there may be none.
    for limit in (0.55, 0.6, 0.7, 0.9):
        problem = model_problem(
            evaluations=12,
            limits={"energy": limit},
            objectives=("accuracy", "size"),
        )
        Ilp(score="mse").run(problem)
        sizes = [m.size_bytes for m in problem.history]
        within = [a for a in problem.space.enumerate() if problem.allows(a)]
        assert min(sizes) == min(problem.price(a, "size") for a in within)


def test_a_limit_met_exactly_can_be_solved_for():
    free = model_problem()
    for bits in (2, 4, 6):
        limit = free.price(free.space.uniform(bits), "mean_weight_bits")
        problem = model_problem(evaluations=1, limits={"mean_weight_bits": limit})
        Ilp(score="mse").run(problem)
        assert problem.history[0].mean_weight_bits == pytest.approx(limit)
