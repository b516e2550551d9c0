import subprocess
import sys
from dataclasses import dataclass

import pytest

from bitfront.searchers import Percentile, Searcher
from bitfront.searchers.synthetic import tabular_problem
from bitfront.spaces import InfeasibleError, SpaceError, StudyError


@dataclass(frozen=True, kw_only=True)
class Endless(Searcher):
    """Asks one question for ever."""

    bits: int = 4

    def search(self, problem):
        while True:
            problem.evaluate([problem.space.uniform(self.bits)])


def test_run_ends_quietly_when_the_budget_is_spent():
    problem = tabular_problem(evaluations=7)
    assert Endless().run(problem) is None
    assert len(problem.history) == 7


def test_what_a_strategy_raises_is_passed_on():
    class Broken(Endless):
        def search(self, problem):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Broken().run(tabular_problem())


def test_a_space_of_another_granularity_is_refused():
    problem = tabular_problem(granularity="channel")
    with pytest.raises(SpaceError, match="Endless searches spaces of granularity 'layer', got"):
        Endless().run(problem)
    assert problem.history == []


def test_a_strategy_searches_the_part_of_a_space_that_it_can():
    class Both(Endless):
        granularities = frozenset({"layer", "channel"})

    class Channels(Endless):
        granularities = frozenset({"channel"})

    layer, channel = (tabular_problem(granularity=g).space for g in ("layer", "channel"))
    assert Endless().searched(layer) is layer
    assert Endless().searched(channel).size == layer.size
    assert Both().searched(layer) is layer
    assert Both().searched(channel) is channel
    with pytest.raises(SpaceError, match="Channels searches spaces of granularity 'channel', got"):
        Channels().searched(layer)


def test_a_strategy_that_needs_the_network_needs_one():
    with pytest.raises(StudyError, match="Percentile looks into the network"):
        Percentile().run(tabular_problem())


def test_an_impossible_limit_is_refused_before_the_first_evaluation():
    problem = tabular_problem(limits={"bops": 1})
    with pytest.raises(InfeasibleError, match=r"bops <= 1 .* smallest achievable is"):
        Endless().run(problem)
    assert problem.history == []


def test_settings_are_the_fields():
    assert Endless(bits=6).settings() == {"bits": 6}


def test_importing_the_strategies_brings_nothing_heavy():
    heavy = ("torch", "torchvision", "timm", "ray", "mlflow", "sklearn", "matplotlib", "pytest")
    code = (
        "import sys, bitfront.searchers as s\n"
        "for name in s.strategy_names(): s.describe(name)\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
