"""The conformance suite refuses what it should."""

import random
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from bitfront.searchers import Searcher
from bitfront.searchers.testing import (
    KeptCheckpoint,
    SearcherConformance,
    problem_for,
    tabular_problem,
)
from bitfront.spaces import BitAllocation


@dataclass(frozen=True, kw_only=True)
class Good(Searcher):
    """Random questions one by one; the ones below spoil it in one way each."""

    summary = "Random questions."

    def search(self, problem):
        while True:
            problem.evaluate([problem.space.sample(problem.rng)])


class TestGood(SearcherConformance):
    make = Good


class Saving(Good):
    """Learns which width pays and saves what it learned after every episode."""

    def search(self, problem):
        worth, draws = self.start(problem)
        for episode in range(self.episode(problem), problem.budget.evaluations // 2):
            drawn = (problem.rng.choice(4, p=worth / worth.sum()), draws.integers(4))
            asked = [problem.space.uniform(2 + 2 * int(index)) for index in drawn]
            for index, measured in zip(drawn, problem.evaluate(asked), strict=True):
                worth[index] += 0.0 if measured.failed else measured.accuracy
            problem.log("episode", asked[0], worth=worth.max())
            problem.charge(forward=episode)
            problem.findings["worth"] = worth
            self.save(problem, episode + 1, worth, draws)
        problem.evaluate(problem.only_allowed(problem.space.uniform(bits) for bits in (2, 4, 6, 8)))

    def episode(self, problem):
        return problem.saved["episode"] if problem.saved else 0

    def start(self, problem):
        draws = np.random.default_rng(problem.rng.integers(2**32))
        if problem.saved:
            draws.bit_generator.state = problem.saved["draws"]
        return problem.saved["worth"] if problem.saved else np.ones(4), draws

    def save(self, problem, episode, worth, draws):
        state = {"episode": episode, "worth": worth, "draws": draws.bit_generator.state}
        problem.save(state)


@pytest.mark.parametrize("with_network", [False, True])
def test_problems_carry_a_network_where_the_suite_says_so(with_network):
    suite = type("Suite", (SearcherConformance,), {"make": Good, "with_network": with_network})()
    for options in suite._options():
        assert problem_for(Good(), **options).has_model == with_network


class TestSaving(SearcherConformance):
    make = Saving

    def test_it_goes_on_and_does_not_begin_anew(self):
        kept, rounds = KeptCheckpoint(), []

        class Counting(Saving):
            def save(self, problem, *state):
                rounds.append(problem.remaining)
                super().save(problem, *state)

        def stop(evaluator):
            def evaluate(allocations, *, fidelity=1.0):
                if len(rounds) == 4:
                    raise KeyboardInterrupt
                return evaluator(allocations, fidelity=fidelity)

            return evaluate

        with pytest.raises(KeyboardInterrupt):
            Counting().run(tabular_problem(checkpoints=kept, wrap=stop))
        rounds.append(None)
        Counting().run(tabular_problem(checkpoints=kept))
        assert rounds == [18, 16, 14, 12, None, 10, 8, 6, 4, 2, 0]


class Forgetting(Saving):
    """Saves, and begins with nothing all the same."""

    def start(self, problem):
        return np.ones(4), np.random.default_rng(problem.rng.integers(2**32))


class Miscounting(Saving):
    """Reports what its last part did as if it had been all."""

    def search(self, problem):
        problem.findings["episodes"] = problem.budget.evaluations // 2 - self.episode(problem)
        super().search(problem)


class Foreign(Good):
    def search(self, problem):
        names = [layer.name for layer in problem.space.layers]
        problem.evaluate([BitAllocation(names, [5] * len(names), [5] * len(names))])


class Silent(Good):
    def search(self, problem):
        pass


class Forgetful(Good):
    def search(self, problem):
        rng = random.Random()
        while True:
            problem.evaluate([problem.space.uniform(rng.choice((2, 4, 6, 8)))])


class ByTheClock(Good):
    def search(self, problem):
        while True:
            (measured,) = problem.evaluate([problem.space.sample(problem.rng)])
            if measured.wall_s > 0.5:
                problem.rng.random()


@dataclass(frozen=True, kw_only=True)
class Learning(Good):
    """Keeps what it learned in a setting."""

    seen: list[str] = field(default_factory=list)

    def search(self, problem):
        problem.evaluate([problem.space.uniform(8 if self.seen else 2)])
        self.seen.append("something")


class Fixed(Good):
    def search(self, problem):
        problem.evaluate([problem.space.uniform(8)])


class Trusting(Good):
    def search(self, problem):
        (measured,) = problem.evaluate([problem.space.uniform(4)])
        assert measured.accuracy > 0


class Spender(Fixed):
    """Only ever asks for the dearest."""


class Greedy(Good):
    def run(self, problem):
        self.search(problem)  # skips what `Searcher.run` checks

    def search(self, problem):
        problem.evaluate([problem.space.uniform(8)])


class Speechless(Good):
    summary = ""


@dataclass(frozen=True, kw_only=True)
class Unplain(Good):
    """Has a setting that JSON cannot carry."""

    start: float = field(default_factory=lambda: time.time)


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (Foreign, "test_stays_in_the_space_and_the_budget"),
        (Silent, "test_stays_in_the_space_and_the_budget"),
        (Silent, "test_one_evaluation_is_enough_to_answer"),
        (Forgetful, "test_same_seed_asks_the_same"),
        (ByTheClock, "test_same_seed_asks_the_same_with_other_workers"),
        (Learning, "test_same_seed_asks_the_same"),
        (Fixed, "test_another_seed_asks_otherwise_unless_deterministic"),
        (Spender, "test_finds_something_within_a_limit"),
        (Greedy, "test_refuses_an_impossible_limit_before_measuring"),
        (Speechless, "test_says_what_it_is"),
        (Unplain, "test_settings_survive_json"),
    ],
)
def test_a_fault_is_found(cls, test):
    suite = type("Suite", (SearcherConformance,), {"make": cls})()
    with pytest.raises(BaseException) as found:
        getattr(suite, test)()
    assert not isinstance(found.value, KeyboardInterrupt)


def test_a_strategy_that_trusts_every_measurement_is_found():
    suite = type("Suite", (SearcherConformance,), {"make": Trusting})()
    with pytest.raises(AssertionError):
        suite.test_survives_failed_measurements(share=1.0)


@pytest.mark.parametrize("cls", [Forgetting, Miscounting])
def test_a_strategy_that_forgets_what_it_had_saved_is_found(cls):
    suite = type("Suite", (SearcherConformance,), {"make": cls})()
    with pytest.raises(AssertionError):
        suite.test_an_interruption_makes_no_difference(answers=9)


def test_a_false_claim_of_determinism_is_found():
    class Claims(Good):
        deterministic = True

    suite = type("Suite", (SearcherConformance,), {"make": Claims})()
    with pytest.raises(AssertionError):
        suite.test_another_seed_asks_otherwise_unless_deterministic()
