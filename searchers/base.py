"""What a strategy is."""

import dataclasses
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, ClassVar

from ..spaces import BitSpace, SpaceError, StudyError
from .budget import Budget, BudgetSpent
from .pricing import Pricing
from .problem import Problem


class Searcher(ABC):
    """A strategy: one method that decides which allocations are worth measuring.

    A strategy is a dataclass; its fields are its settings, so that a study, the command line and
    Python check and print them alike. What it can do is said by class attributes; nothing is
    decided by its name.

    Attributes:
        summary: One sentence that says what the strategy does.
        paper: Where the method was published; empty if it was not.
        granularities: The spaces it can search: ``layer``, ``channel`` or both.
        needs_model: Whether it looks into the network (`Problem.quantized_model` and
            `Problem.calibration`) and not only at what `Problem.evaluate` returns.
        trains: Whether it trains the network (`Problem.float_model`, `Problem.training`) and hands
            over what comes out (`Problem.evaluate_trained`); it then needs the network, too.
        follows_input: Whether it hands over networks that choose their widths while they run
            (`Problem.evaluate_dynamic`).
        deterministic: Whether another seed gives the same sequence of questions.
    """

    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    granularities: ClassVar[frozenset[str]] = frozenset({"layer"})
    needs_model: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    follows_input: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False

    @abstractmethod
    def search(self, problem: Problem) -> None:
        """Spend the budget of a problem on the allocations most worth measuring.

        Called once per trial, possibly in another process. What was measured is the result: the
        strategy's front is what no other of its measurements dominates, so there is nothing to
        return. It ends when the method returns, or when `BudgetSpent` leaves it, which need not
        be caught.

        It may assume that the problem is feasible and that its space has a granularity the class
        declares. It must

        - ask only for allocations of ``problem.space``, in lists as long as it can make them:
          those are measured in parallel, in any order, yet returned in the order asked;
        - draw every random number from ``problem.rng`` (or generators seeded by it) and never
          look at a clock, so that the same seed asks the same questions;
        - survive measurements that failed (`Measurement.failed`; the accuracy is NaN);
        - keep its settings as they are: whatever it learns is a local variable.

        One that learns for long may `Problem.save` it step by step, and begin with what is in
        `Problem.saved`.

        Args:
            problem: All it may know of the study.
        """

    def searched(self, space: BitSpace) -> BitSpace:
        """Return the part of a space that this strategy searches.

        That is the whole space, or the layer-wise corner of a per-channel space for a strategy that
        chooses one width per layer only.

        Raises:
            SpaceError: If it searches no part of it.
        """
        if space.granularity == "channel" and self.granularities == {"layer"}:
            return space.layerwise()
        self._require_granularity(space)
        return space

    def narrowed(self, space: BitSpace) -> BitSpace:
        """Return what the settings leave of a space; budgets are checked against that.

        That is all of it, unless a strategy has settings that leave out choices.

        Args:
            space: What `searched` returned.

        Raises:
            SpaceError: If they leave nothing.
        """
        return space

    def check(self, space: BitSpace) -> None:
        """Check that the settings suit a space; studies do so before anything runs.

        Overrides call ``super().check(space)`` first.

        Raises:
            SpaceError: If they do not, or the strategy does not search that granularity.
        """
        self._require_granularity(space)

    def _require_granularity(self, space: BitSpace) -> None:
        if space.granularity not in self.granularities:
            able = " or ".join(repr(granularity) for granularity in sorted(self.granularities))
            raise SpaceError(
                f"{type(self).__name__} searches spaces of granularity {able}, "
                f"got {space.granularity!r}"
            )

    def check_budget(self, space: BitSpace, budget: Budget) -> None:  # noqa: B027 - most suit all
        """Check that a budget suits what the strategy does; studies do so before anything runs.

        Raises:
            StudyError: If it does not.
        """

    def check_prices(self, space: BitSpace, pricing: Pricing) -> None:  # noqa: B027
        """Check that the settings suit what allocations cost; studies do so before anything runs.

        Args:
            space: What `searched` returned.
            pricing: What its allocations cost.

        Raises:
            BitfrontError: If they do not.
        """

    def run(self, problem: Problem) -> None:
        """Check that this strategy suits a problem, then `search` until the budget is spent.

        This is what studies and tests call. A run of a trial that was interrupted goes on from what
        that one saved (`Problem.save`).

        Raises:
            InfeasibleError: If nothing in the space, as `narrowed`, respects the budget's limits.
            SpaceError: If `check` refuses the space.
            StudyError: If `check_budget` refuses the budget or `check_prices` the prices, or it
                needs the network and the problem has none.
        """
        self.check(problem.space)
        self.check_budget(problem.space, problem.budget)
        self.check_prices(problem.space, problem.pricing)
        if (self.needs_model or self.trains) and not problem.has_model:
            does = "trains" if self.trains else "looks into"
            raise StudyError(
                f"{type(self).__name__} {does} the network, and this problem carries none"
            )
        problem.require_feasible(self.narrowed(problem.space))
        problem.resume()
        if problem.finished:
            return
        with suppress(BudgetSpent):
            self.search(problem)
        if self.trains:
            problem.finish()

    def settings(self) -> dict[str, Any]:
        """Return the settings by name; `build` makes the same strategy of them."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
