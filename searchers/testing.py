"""The conformance suite every strategy passes, ours or yours; needs pytest.

In a test file::

    from bitfront.searchers.testing import SearcherConformance

    class TestMine(SearcherConformance):
        make = Mine
"""

import json
import os
import pickle
import random
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ..spaces import BitAllocation, InfeasibleError, Measurement
from .base import Searcher
from .problem import Evaluator, Problem
from .settings import configure
from .synthetic import (
    AdditiveLandscape,
    KeptCheckpoint,
    TinyNetwork,
    model_problem,
    synthetic_layers,
    tabular_problem,
    true_front,
)

if TYPE_CHECKING:
    from .problem import Networks

__all__ = [
    "AdditiveLandscape",
    "KeptCheckpoint",
    "SearcherConformance",
    "TinyNetwork",
    "asked",
    "model_problem",
    "problem_for",
    "synthetic_layers",
    "tabular_problem",
    "true_front",
]

CANNOT_IMPORT = 3

SECOND_PROCESS = f"""
import json, pickle, sys
from bitfront.searchers.testing import asked
try:
    searcher = pickle.load(sys.stdin.buffer)
except (ImportError, AttributeError):
    sys.exit({CANNOT_IMPORT})
print(json.dumps([asked(searcher, **options) for options in json.loads(sys.argv[1])]))
"""


def problem_for(searcher: Searcher, *, with_network: bool = False, **options: Any) -> Problem:
    """Return a small problem that has what a strategy needs.

    Args:
        searcher: The strategy.
        with_network: Whether it carries a network even if the strategy does not need one.
        options: As for `tabular_problem`.
    """
    carries = with_network or searcher.needs_model or searcher.trains
    return model_problem(**options) if carries else tabular_problem(**options)


def asked(searcher: Searcher, **options: Any) -> list[str]:
    """Run a strategy on the `problem_for` it and return the keys of what it asked for.

    With that of an allocation goes the digest of the trained network, if there is one.
    """
    problem = problem_for(searcher, **options)
    searcher.run(problem)
    return [m.allocation.key + (m.network or "") for m in problem.history]


class SearcherConformance(ABC):
    """What every strategy must do; inherit it and say how yours is made.

    Attributes:
        evaluations: The budget of most tests; raise it if the strategy needs more to start.
        with_network: Whether problems carry a network even if the strategy does not need one; for
            one that looks into the network where there is one.
    """

    evaluations: int = 20
    with_network: bool = False

    @staticmethod
    @abstractmethod
    def make() -> Searcher:
        """Return the strategy under test; the class itself serves where settings have defaults."""

    def _options(self, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield the options of a problem of every granularity the strategy declares."""
        for granularity in sorted(self.make().granularities):
            yield {
                "evaluations": self.evaluations,
                "with_network": self.with_network,
                "granularity": granularity,
                **options,
            }

    def test_says_what_it_is(self) -> None:
        """It is a dataclass that names its granularities and has a summary of one sentence."""
        searcher = self.make()
        assert is_dataclass(searcher), "settings are dataclass fields: decorate with @dataclass"
        assert searcher.granularities, "declare at least one granularity"
        assert searcher.granularities <= {"layer", "channel"}
        assert searcher.summary.endswith("."), "summary is one sentence"

    def test_settings_survive_json(self) -> None:
        """Its settings, written as JSON and read again, make an equal strategy."""
        searcher = self.make()
        plain = json.loads(json.dumps(searcher.settings()))
        assert configure(type(searcher), plain) == searcher

    def test_stays_in_the_space_and_the_budget(self) -> None:
        """It asks for members of the space only, no more than it may, and has a front."""
        for options in self._options():
            problem = problem_for(self.make(), **options)
            self.make().run(problem)
            assert 1 <= len(problem.history) <= self.evaluations
            assert all(problem.space.contains(m.allocation) for m in problem.history)
            assert problem.front()

    def test_one_evaluation_is_enough_to_answer(self) -> None:
        """With a budget of one it asks one question."""
        for options in self._options(evaluations=1):
            assert len(asked(self.make(), **options)) == 1

    def test_ends_when_the_space_is_exhausted(self) -> None:
        """In a space smaller than the budget it ends, or spends the budget."""
        pins = {"*": {"activation": 8}}  # leaves 16 allocations, or 256 ** 2 per channel
        for options in self._options(pins=pins, evaluations=100):
            assert 1 <= len(asked(self.make(), **options)) <= 100

    def test_same_seed_asks_the_same(self) -> None:
        """A second run, a second object and a pickled one ask the same questions."""
        for options in self._options(seed=5):
            searcher = self.make()
            first = asked(searcher, **options)
            assert asked(searcher, **options) == first, "a run must not change the strategy"
            assert asked(self.make(), **options) == first
            assert asked(pickle.loads(pickle.dumps(self.make())), **options) == first

    def test_same_seed_asks_the_same_with_other_workers(self) -> None:
        """Timing, order of work and global generators do not reach it."""
        for options in self._options(seed=5):
            first = asked(self.make(), **options)
            assert asked(self.make(), **options, wrap=_Unsteady) == first

    def test_same_seed_asks_the_same_in_a_second_process(self) -> None:
        """A fresh interpreter with another hash seed asks the same questions."""
        problems = list(self._options(seed=5))
        child = subprocess.run(
            [sys.executable, "-c", SECOND_PROCESS, json.dumps(problems)],
            input=pickle.dumps(self.make()),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"},
        )
        if child.returncode == CANNOT_IMPORT:
            pytest.skip(f"a second process cannot import {type(self.make()).__module__}")
        assert child.returncode == 0, child.stderr.decode()
        assert json.loads(child.stdout) == [asked(self.make(), **options) for options in problems]

    @pytest.mark.parametrize("answers", [9, 19])
    def test_an_interruption_makes_no_difference(self, answers: int) -> None:
        """Interrupted and run again, it asks and logs what it would have without; see `saved`."""
        for options in self._options(seed=5):
            kept = KeptCheckpoint()
            interrupted = {**options, "wrap": _interrupting(answers), "checkpoints": kept}
            with suppress(KeyboardInterrupt):  # it may be done before
                self.make().run(problem_for(self.make(), **interrupted))
            if kept.data is None:  # it saves nothing, and would start over
                continue
            whole, again = (
                problem_for(self.make(), **options, checkpoints=store) for store in (None, kept)
            )
            for problem in (whole, again):
                self.make().run(problem)
            assert again.history == whole.history
            assert again.trace == whole.trace
            np.testing.assert_equal(again.findings, whole.findings)  # arrays come back as lists
            assert again.images_forward == whole.images_forward
            assert again.images_backward == whole.images_backward

    def test_another_seed_asks_otherwise_unless_deterministic(self) -> None:
        """``deterministic`` tells the truth."""
        for options in self._options():
            same = asked(self.make(), **options, seed=1) == asked(self.make(), **options, seed=2)
            assert same == self.make().deterministic

    @pytest.mark.parametrize("share", [0.5, 1.0], ids=["half", "all"])
    def test_survives_failed_measurements(self, share: float) -> None:
        """It goes on when half of all measurements, or all, have failed."""
        for options in self._options(wrap=_failing(share)):
            assert asked(self.make(), **options)

    def test_finds_something_within_a_limit(self) -> None:
        """Where there is something within a limit on the energy, it finds it."""
        for options in self._options():
            free = problem_for(self.make(), **options)
            halfway = (free.pricing.smallest(free.space, "energy") + 1) / 2
            problem = problem_for(self.make(), **options, limits={"energy": halfway})
            self.make().run(problem)
            assert any(problem.within(m) for m in problem.history)

    def test_finds_something_within_a_limit_on_another_cost(self) -> None:
        """The cost that is limited need not be one that is compared."""
        for options in self._options(objectives=("accuracy", "size")):
            free = problem_for(self.make(), **options)
            halfway = (free.pricing.smallest(free.space, "energy") + 1) / 2
            problem = problem_for(self.make(), **options, limits={"energy": halfway})
            self.make().run(problem)
            assert any(problem.within(m) for m in problem.history)

    def test_refuses_an_impossible_limit_before_measuring(self) -> None:
        """It says the smallest achievable cost and charges nothing."""
        for options in self._options(limits={"energy": 0.01}):
            problem = problem_for(self.make(), **options)
            with pytest.raises(InfeasibleError, match="smallest achievable"):
                self.make().run(problem)
            assert not problem.history


class _Unsteady:
    """Measures last things first, takes its time, and draws from the global generators."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def __call__(
        self,
        allocations: Sequence[BitAllocation],
        *,
        fidelity: float = 1.0,
        networks: "Networks | None" = None,
    ) -> list[Measurement]:
        """Return what the evaluator does, with other wall times."""
        each = [None] * len(allocations) if networks is None else [[n] for n in networks]
        answers = [
            self.evaluator([allocation], fidelity=fidelity, networks=network)[0]
            for allocation, network in reversed(list(zip(allocations, each, strict=True)))
        ]
        noise = random.random() + np.random.random()
        return [replace(m, wall_s=noise + i) for i, m in enumerate(answers)][::-1]


def _interrupting(answers: int) -> Callable[[Evaluator], Evaluator]:
    """Return what makes an evaluator give no more than so many answers."""

    def wrap(evaluator: Evaluator) -> Evaluator:
        given = 0

        def evaluate(
            allocations: Sequence[BitAllocation],
            *,
            fidelity: float = 1.0,
            networks: "Networks | None" = None,
        ) -> list[Measurement]:
            nonlocal given
            given += len(allocations)
            if given > answers:
                raise KeyboardInterrupt
            return evaluator(allocations, fidelity=fidelity, networks=networks)

        return evaluate

    return wrap


def _failing(share: float) -> Callable[[Evaluator], Evaluator]:
    """Return what makes an evaluator fail on a share of all allocations, always the same ones."""

    def wrap(evaluator: Evaluator) -> Evaluator:
        def evaluate(
            allocations: Sequence[BitAllocation],
            *,
            fidelity: float = 1.0,
            networks: "Networks | None" = None,
        ) -> list[Measurement]:
            return [
                _failed(m) if int(m.allocation.key[:4], 16) < share * 16**4 else m
                for m in evaluator(allocations, fidelity=fidelity, networks=networks)
            ]

        return evaluate

    return wrap


def _failed(measurement: Measurement) -> Measurement:
    """Return it as failed: with a reason, or for one in two only with an accuracy of NaN."""
    nan = float("nan")
    error = "the worker died" if int(measurement.allocation.key[-1], 16) % 2 else None
    return replace(measurement, accuracy=nan, accuracy_se=nan, loss=nan, error=error)
