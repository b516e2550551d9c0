"""docs/custom-strategy.md is true: its code is the example's, and the example passes."""

import re
from pathlib import Path

import pytest

from bitfront.searchers import build, registry
from bitfront.searchers.testing import SearcherConformance, tabular_problem

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "mutate_front.py"
LOGGING_EXAMPLE = EXAMPLE.with_name("climb.py")
DOC = (ROOT / "docs" / "custom-strategy.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    """What a study in the folder of the example has; the registry is left as it was."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


class TestMutateFront(SearcherConformance):
    @staticmethod
    def make():
        return build("mutate_front:MutateFront")


class TestClimb(SearcherConformance):
    @staticmethod
    def make():
        return build("climb:Climb")


def test_the_strategies_shown_are_the_examples():
    assert CODE[0] == EXAMPLE.read_text()
    assert CODE[1] == LOGGING_EXAMPLE.read_text()


def test_what_the_second_example_logs_is_what_the_page_says():
    problem = tabular_problem(evaluations=30, limits={"energy": 0.9, "size": 1e6})
    build("climb:Climb").run(problem)
    metrics = problem.trace.metrics
    costs = ("energy", "size", "mean_weight_bits", "mean_activation_bits")
    assert list(metrics) == ["reward", "accuracy", "best_accuracy", *costs]
    assert metrics["accuracy"] == [m.accuracy for m in problem.history]


def test_the_class_itself_has_about_fifteen_lines():
    body = CODE[0].split("@register")[1]
    code = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 15


def test_the_study_shown_builds_its_strategies():
    (address,) = re.findall(r'name: "([\w:]+)", label: mutate, batch: 4', DOC)
    assert build(address, {"batch": 4}).settings() == {"batch": 4}


def test_the_conformance_class_shown_runs():
    scope = {"__name__": "shown"}
    exec(CODE[0] + CODE[2], scope)
    assert issubclass(scope["TestMutateFront"], SearcherConformance)
    scope["TestMutateFront"]().test_stays_in_the_space_and_the_budget()


def test_what_a_problem_offers_is_there():
    table = DOC.split("## What a problem offers")[1].split("##")[0]
    problem = tabular_problem()
    for name in re.findall(r"problem\.(\w+)", table):
        assert hasattr(type(problem), name) or name in vars(problem)
    spoken = re.search(r"`problem.space` \| (.*?), \.\.\.", table).group(1)
    for name in re.findall(r"`(\w+)`", spoken):
        assert hasattr(problem.space, name)
