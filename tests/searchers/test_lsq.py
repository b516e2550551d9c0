"""Training at constant widths."""

from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers import Lsq, build
from bitfront.searchers.synthetic import model_problem
from bitfront.searchers.testing import KeptCheckpoint, SearcherConformance, asked
from bitfront.spaces import InfeasibleError, ModelError, StudyError

TINY = {"epochs": 2, "images": 32, "batch_size": 16, "lr": 1e-2}


class TestLsq(SearcherConformance):
    @staticmethod
    def make():
        return Lsq(**TINY, evaluate_every=2, widths=(8, 4, 2))


class TestLsqEveryEpoch(SearcherConformance):
    test_same_seed_asks_the_same_in_a_second_process = None  # that takes its time

    @staticmethod
    def make():
        return Lsq(epochs=12, images=16, batch_size=16, widths=(6, 3))

    def test_one_evaluation_is_enough_to_answer(self):
        with pytest.raises(StudyError, match="take 12 evaluations, and the budget is 1: raise it"):
            asked(self.make(), evaluations=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"range_lr": float("nan")}, "range_lr must be a positive number"),
        ({"alpha": -0.1}, "alpha must not be negative, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"coreset_fraction": 0.0}, "coreset_fraction"),
        ({"coreset_fraction": 1.5}, "coreset_fraction"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1"),
        ({"optimizer": "adamm"}, "adam"),
        ({"arithmetic": "float8"}, "bfloat16"),
        ({"teacher": "nobody"}, "trained"),
        ({"allocate": "random"}, "uniform"),
        ({"score": "klx"}, "kl"),
        ({"widths": ()}, "widths must be whole numbers from 2 to 8"),
        ({"widths": (8, 1)}, "widths must be whole numbers from 2 to 8"),
        ({"widths": (16,)}, "widths must be whole numbers from 2 to 8"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"epoch": 3}, "epochs"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(StudyError, match=said):
        build("lsq", wrong)


def run(problem, **chosen):
    Lsq(**{**TINY, **chosen}).run(problem)
    return problem


def test_there_is_a_training_for_each_width_measured_as_it_goes():
    problem = run(model_problem(evaluations=20), widths=(8, 3))
    uniform = [problem.space.uniform(bits) for bits in (8, 8, 2, 2)]
    assert [m.allocation for m in problem.history][:2] == uniform[:2]
    assert len({m.network for m in problem.history}) == 4
    assert problem.trace.step == "epoch"
    assert len(problem.trace) == 4
    # two epochs of two trainings on 32 images, forward twice and backward once
    assert (problem.images_forward, problem.images_backward) == (2 * 128, 128)


def test_only_widths_within_the_limits_are_trained_at():
    free = model_problem()
    limit = free.price(free.space.uniform(4)) * 1.001
    problem = run(model_problem(limits={"energy": limit}), widths=(8, 6, 4, 2))
    assert {m.allocation for m in problem.history} == {
        problem.space.uniform(bits) for bits in (4, 2)
    }
    with pytest.raises(InfeasibleError, match="none of the 1 allocations"):
        run(model_problem(limits={"energy": limit}), widths=(8,))


def test_a_training_that_could_not_be_measured_is_not_begun():
    """It would take its time for nothing."""
    problem = run(model_problem(evaluations=3), widths=(8, 4, 2), epochs=2)
    assert len(problem.history) == 2
    assert problem.images_backward == 2 * 32
    (note,) = problem.findings["notes"]
    assert "enough for 1 of 3 trainings of 2 each" in note


def test_too_few_evaluations_for_one_training_are_refused():
    with pytest.raises(StudyError, match="take 2 evaluations, and the budget is 1: raise it"):
        run(model_problem(evaluations=1))


def test_the_widths_of_ilp_are_the_best_within_the_limits_and_held():
    problem = run(model_problem(limits={"energy": 0.6}), allocate="ilp")
    (allocation,) = {m.allocation for m in problem.history}
    assert problem.allows(allocation)
    assert problem.price(allocation) > 0.5
    assert problem.findings["solver"]
    other = model_problem(limits={"energy": 0.6})
    build("ilp", {}).run(other)
    assert allocation in {m.allocation for m in other.history}
    with pytest.raises(StudyError, match=r"needs a limit, such as limits: \{energy: 0\.5\}"):
        run(model_problem(), allocate="ilp")


def test_coresets_say_what_they_saved():
    problem = run(model_problem(), coreset_fraction=0.5, widths=(8,), epochs=4)
    (note,) = problem.findings["notes"]
    assert "coresets left out 64 of 128 training samples (50 %)" in note
    assert problem.images_backward == 64


def test_what_diverges_ends_the_trial_and_its_last_epoch_is_kept():
    kept = KeptCheckpoint()
    problem = model_problem(checkpoints=kept)
    images = problem.training()
    calls = []

    def training():
        return images

    wrong = replace(images, images=np.where(images.images > 0, np.inf, 0).astype(np.float32))
    problem.training = lambda: calls.append(1) or (wrong if len(calls) > 1 else training())
    with pytest.raises(ModelError, match=r"training diverged: .* of epoch 1; lower lr"):
        run(problem, widths=(8, 4))
    assert len(problem.history) == 2  # those of the first training
    again = model_problem(checkpoints=kept)
    again.resume()
    assert again.history == problem.history


def test_a_start_from_initial_weights_and_the_trained_teacher():
    found = [
        run(model_problem(), widths=(4,), **chosen).history[-1].network
        for chosen in ({}, {"teacher": "trained"}, {"alpha": 0.0}, {"activation_ranges": "pact"})
    ]
    assert len(set(found)) == 4
    # The tiny network has no other weights than its initial ones.
    assert run(model_problem(), widths=(4,), start="initial").history[-1].network == found[0]
