import json
import math
from dataclasses import replace

import pytest

from bitfront.searchers.episodes import MOST_REPEATS, Episodes, quality
from bitfront.searchers.testing import tabular_problem

NAN = math.nan


def answering(*losses):
    """Return what makes an evaluator answer with these losses, in turn."""
    answers = iter(losses)

    def wrap(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            return [
                replace(m, loss=next(answers), error=None)
                for m in evaluator(allocations, fidelity=fidelity)
            ]

        return evaluate

    return wrap


def begun(*losses, evaluations=20):
    problem = tabular_problem(evaluations=evaluations, wrap=answering(*losses))
    return problem, Episodes(problem, quality("loss", None)), list(problem.space.enumerate())


# What an episode is worth


def test_the_log_of_the_loss_below_that_of_the_float_network():
    (measured,) = tabular_problem().evaluate([tabular_problem().space.uniform(4)])
    measured, baseline = replace(measured, loss=0.499), replace(measured, loss=0.049)
    assert quality("loss", baseline)(measured) == pytest.approx(math.log(0.05 / 0.5))
    assert quality("loss", None)(replace(measured, loss=0.0)) == pytest.approx(math.log(1001))


@pytest.mark.parametrize("loss", [NAN, math.inf, -1.0])
def test_a_loss_that_is_none_is_worth_nothing_that_can_be_said(loss):
    (measured,) = tabular_problem().evaluate([tabular_problem().space.uniform(4)])
    assert math.isnan(quality("loss", None)(replace(measured, loss=loss)))


def test_a_tenth_of_the_points_above_the_float_network():
    (measured,) = tabular_problem().evaluate([tabular_problem().space.uniform(4)])
    measured, baseline = replace(measured, accuracy=0.91), replace(measured, accuracy=0.93)
    assert quality("accuracy", baseline)(measured) == pytest.approx(-0.2)


# What is asked


def test_what_comes_again_is_free_and_not_new():
    problem, episodes, (a, b, *_) = begun(0.5, 0.25)
    assert [new for _, new in episodes.measure([a, b, a])] == [True, True, False]
    (first, is_new), (second, _) = episodes.measure([a, b])
    assert not is_new
    assert first == pytest.approx(-math.log(0.501 / 1.001))
    assert second > first
    assert len(problem.history) == 2
    assert episodes.count == 5
    assert len(problem.trace) == 5


def test_what_is_logged_is_what_is_learned_from():
    problem, episodes, (a, *_) = begun(0.5)
    ((reward, _),) = episodes.measure([a])
    assert problem.trace.last("reward") == pytest.approx(reward)


def test_progress_runs_from_the_warm_up_to_the_last_evaluation():
    _, episodes, allocations = begun(*[0.5] * 11, evaluations=11)
    seen = [episodes.progress(0)]
    for allocation in allocations[:10]:
        episodes.measure([allocation])
        seen.append(episodes.progress(0))
    assert seen == pytest.approx([k / 10 for k in range(11)])
    assert episodes.progress(warmup=5) == 1.0


# When it ends


def test_three_new_failures_in_a_row_end_it_even_within_a_batch():
    problem, episodes, (a, b, c, d, *_) = begun(NAN, NAN, NAN, 0.5)
    episodes.measure([a, b])
    assert not episodes.is_over
    episodes.measure([c, d])
    assert episodes.is_over
    assert problem.findings["failed_episodes"] == 3
    (note,) = problem.findings["notes"]
    assert note.startswith("ended after 3 episodes and 4 evaluations: the rewards of 3 in a row")


def test_one_failure_that_comes_again_is_one_failure():
    problem, episodes, (a, *_) = begun(NAN)
    for _ in range(5):
        episodes.measure([a, a])
    assert not episodes.is_over
    assert problem.findings["failed_episodes"] == 1


def test_a_finite_reward_starts_the_count_again():
    problem, episodes, allocations = begun(NAN, NAN, 0.5, NAN, NAN)
    for allocation in allocations[:5]:
        episodes.measure([allocation])
    assert not episodes.is_over
    assert problem.findings["failed_episodes"] == 4


def test_batches_that_bring_nothing_new_end_it_and_say_so():
    problem, episodes, (a, *_) = begun(0.5)
    for _ in range(MOST_REPEATS + 1):
        assert not episodes.is_over
        episodes.measure([a])
    assert episodes.is_over
    assert problem.findings["notes"] == [
        "ended after 101 episodes and 1 evaluations: 100 batches of episodes in a row brought "
        "nothing new"
    ]


def test_it_goes_on_from_a_state():
    problem, episodes, (a, b, c, *_) = begun(NAN, NAN, NAN)
    episodes.measure([a])
    episodes.measure([b])
    again = Episodes(problem, quality("loss", None))
    again.restore(json.loads(json.dumps(episodes.state())))
    again.measure([c])
    assert again.is_over
    assert again.count == 3
