"""Quantization-aware training at constant widths, with learned step sizes.

[LSQ20] Esser, McKinstry, Bablani, Appuswamy, Modha. Learned Step Size Quantization. ICLR 2020
(arXiv:1902.08153).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from ..models.config import ScoreConfig, ScoreKind
from ..spaces import BitAllocation, BitSpace, StudyError
from .additive import AdditiveModel, check_time_limit
from .additive_search import solve_within
from .budget import Budget
from .problem import Problem
from .registry import register
from .training import Training, TrainingSearcher, note_coreset

_WIDEST_FIRST = (8, 7, 6, 5, 4, 3, 2)

Allocate = Literal["uniform", "widest", "ilp"]


@register("lsq")
@dataclass(frozen=True, kw_only=True)
class Lsq(TrainingSearcher):
    """Trains the network at constant widths, with learned ranges [LSQ20].

    With ``allocate: uniform`` these are uniform ones, and with ``widest`` the widest uniform ones
    within the limits: the baseline that strategies which learn widths in training have to be
    compared with, at equal epochs. With ``ilp`` they are the allocation that post-training
    sensitivity scores say is best within the limits: then only the choice of widths differs.

    The step size of a channel is its range over the number of steps; what is learned is the
    logarithm of the range, by Adam, which needs no scaling of gradients.

    Attributes:
        allocate: Where the widths come from.
        widths: Of ``uniform``: a training for each width that is within the limits.
        score: Of ``ilp``: what is summed.
        time_limit_s: Of ``ilp``: seconds the solver may take.
    """

    summary: ClassVar[str] = "Trains the network at constant widths, with learned step sizes."
    paper: ClassVar[str] = "Esser et al., Learned Step Size Quantization, ICLR 2020"

    allocate: Allocate = "uniform"
    widths: tuple[int, ...] = (8, 6, 4, 3, 2)
    score: ScoreKind = "kl"
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ScoreConfig(kind=self.score)  # refuses what it does not know
        check_time_limit(self.time_limit_s)
        if not self.widths or not all(2 <= width <= 8 for width in self.widths):
            raise StudyError(f"widths must be whole numbers from 2 to 8, got {list(self.widths)}")

    def check_budget(self, space: BitSpace, budget: Budget) -> None:
        """Check that a training can be measured to its end, and that there is a limit for ``ilp``.

        Raises:
            StudyError: If not.
        """
        super().check_budget(space, budget)
        if self.allocate == "ilp" and not budget.limits:
            raise StudyError(
                "lsq with allocate: ilp needs a limit, such as limits: {energy: 0.5}; without one "
                "the widest widths are the best"
            )

    def search(self, problem: Problem) -> None:
        """Train at each allocation, one after the other."""
        saved = problem.saved
        if saved is None:
            allocations, first = self._allocations(problem), 0
        else:  # to ask for scores again would charge them again
            allocations = [BitAllocation.from_dict(kept) for kept in saved["allocations"]]
            first = saved["number"] or 0
        kept_allocations = [allocation.to_dict() for allocation in allocations]
        for number, allocation in enumerate(allocations[first:], first):
            resumed = saved is not None and number == first
            if not resumed and problem.remaining < self.evaluations_needed:
                problem.findings.setdefault("notes", []).append(
                    f"the budget of {problem.budget.evaluations} evaluations was enough for "
                    f"{number} of {len(allocations)} trainings of {self.evaluations_needed} each"
                )
                break
            seed = saved["seed"] if saved and resumed else int(problem.rng.integers(2**31))
            trainer = self.trainer(problem, seed)
            trainer.hold_widths(allocation)
            if saved and resumed:
                trainer.restore(saved)
            several = number if len(allocations) > 1 else None
            training = Training(
                self, problem, trainer, number=several, seed=seed, allocations=kept_allocations
            )
            while not training.is_over:
                training.run_epoch(partial(_same, allocation))
            note_coreset(problem, trainer)

    def _allocations(self, problem: Problem) -> list[BitAllocation]:
        uniform = problem.space.uniform
        if self.allocate == "uniform":
            return problem.only_allowed([uniform(width) for width in self.widths])
        if self.allocate == "widest":
            return problem.only_allowed([uniform(width) for width in _WIDEST_FIRST])[:1]
        limits = problem.budget.limits
        scores = problem.scores(ScoreConfig(kind=self.score))
        model = AdditiveModel(problem.space, scores.monotone().pairs())
        solution = solve_within(problem.pricing, model, limits, self.time_limit_s)
        problem.findings["solver"] = [solution.to_dict()]
        return [solution.allocation]


def _same(allocation: BitAllocation) -> BitAllocation:
    return allocation
