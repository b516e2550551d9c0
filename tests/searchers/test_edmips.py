import numpy as np
import pytest

from bitfront.searchers import rounding
from bitfront.searchers.edmips import EdMips
from bitfront.searchers.registry import build
from bitfront.searchers.synthetic import KeptCheckpoint, model_problem
from bitfront.searchers.testing import SearcherConformance
from bitfront.spaces import StudyError

FREE = {"first_last": None, "widths": (2, 4, 6, 8)}


def quick(**settings):
    return EdMips(
        **{"epochs": 4, "fine_tune_epochs": 1, "batch_size": 16, "warmup_epochs": 2, **settings}
    )


class TestEdMips(SearcherConformance):
    @staticmethod
    def make():
        return quick(epochs=3, evaluate_every=3, batch_size=32, bit_lr=1.0)


def test_it_measures_after_every_so_many_epochs_and_logs_them_all():
    problem = model_problem(**FREE)
    quick(evaluate_every=2).run(problem)
    assert len(problem.history) == 2
    assert all(m.network for m in problem.history)
    trace = problem.trace
    assert trace.metrics["accuracy"][0] is None
    assert trace.metrics["accuracy"][1] == problem.history[0].accuracy


def test_widths_begin_as_probable_and_are_held_in_the_end():
    problem = model_problem(**FREE)
    quick(bit_lr=1e-6).run(problem)
    learned = np.array([problem.trace.weight_bits, problem.trace.activation_bits], dtype=float)
    np.testing.assert_allclose(learned[:, :3], 5.0, atol=1e-3)
    last = problem.history[-1].allocation
    assert learned[:, 3].tolist() == [list(last.weights), list(last.activations)]


def test_more_weight_on_the_energy_costs_less():
    costs = []
    for beta in (0.0, 1e3):
        problem = model_problem(**FREE)
        quick(beta=beta, warmup_epochs=0, bit_lr=0.3, epochs=6).run(problem)
        costs.append(problem.price(problem.history[-1].allocation))
        assert set(problem.trace.metrics["beta"][:5]) == {beta}
    assert costs[1] == problem.pricing.smallest(problem.space, "energy") < costs[0]


def test_without_limits_the_most_probable_widths_are_held():
    problem = model_problem(**FREE)
    quick(beta=1e3, warmup_epochs=0, bit_lr=0.3).run(problem)
    assert problem.history[-1].allocation == problem.space.uniform(2)
    assert "solver" not in problem.findings


def test_the_expected_energy_is_steered_to_the_limit_and_the_last_is_within_it():
    problem = model_problem(**FREE, limits={"energy": 0.3})
    quick(epochs=12, fine_tune_epochs=2, batch_size=4, evaluate_every=12).run(problem)
    learned = problem.trace.metrics["learned_energy"]
    assert learned[0] > 0.36
    assert learned[9] == pytest.approx(0.3, rel=0.1)
    (last,) = problem.history
    assert problem.within(last)
    assert problem.price(last.allocation) > 0.9 * 0.3
    (solution,) = problem.findings["solver"]
    assert solution["status"] == "optimal"


def test_an_interruption_makes_no_difference_in_either_phase():
    whole = model_problem(**FREE, limits={"energy": 0.5})
    quick().run(whole)
    for answers in (1, 3):
        kept = KeptCheckpoint()

        def stop(evaluator, answers=answers):
            given = 0

            def evaluate(*asked, **how):
                nonlocal given
                given += 1
                if given > answers:
                    raise KeyboardInterrupt
                return evaluator(*asked, **how)

            return evaluate

        options = {**FREE, "limits": {"energy": 0.5}, "checkpoints": kept}
        with pytest.raises(KeyboardInterrupt):
            quick().run(model_problem(**options, wrap=stop))
        again = model_problem(**options)
        quick().run(again)
        assert again.history == whole.history
        assert again.trace == whole.trace


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "beta must be a number of at least 0, got -1"),
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
        ({"epochs": 5, "fine_tune_epochs": 5}, r"less than epochs \(5\), got 5"),
        ({"bit_lr": 0.0}, "bit_lr must be a positive number, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        build("edmips", settings)


def test_it_rounds_by_what_the_expected_widths_imply(monkeypatch):
    asked = []
    real = rounding.within

    def spied(space, pricing, limits, weights, activations):
        asked.append((weights.tolist(), activations.tolist()))
        return real(space, pricing, limits, weights, activations)

    monkeypatch.setattr("bitfront.searchers.edmips.within", spied)
    problem = model_problem(**FREE, limits={"energy": 0.5})
    quick().run(problem)
    learned = asked[1]  # the first is asked before training, whether there is any
    assert learned[0] == pytest.approx(problem.trace.weight_bits[2], abs=1e-3)
    assert learned[1] == pytest.approx(problem.trace.activation_bits[2], abs=1e-3)
