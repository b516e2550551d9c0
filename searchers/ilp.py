"""Integer programming over additive sensitivity scores.

Each operand at each width has a score, the score of an allocation is their sum, and the best sum
within the limits is found exactly: the formulation of HAWQ-V3 (Yao et al., arXiv:2011.10680), with
any score, any number of widths and limits, and weights and activations chosen together, as in
NVIDIA's Model Optimizer and Sony's Model Compression Toolkit.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..models.config import ScoreConfig, ScoreKind
from .additive import AdditiveModel, check_time_limit
from .additive_search import measure_best
from .base import Searcher
from .problem import Problem
from .registry import register


@register("ilp")
@dataclass(frozen=True, kw_only=True)
class Ilp(Searcher):
    """Minimises the sum of sensitivity scores exactly, by integer programming.

    The first allocation measured is the proven best within the budget's limits (without limits, the
    best there is). The others are the best at other costs: members of the Pareto set of cost and
    score, always the one whose cost is farthest from those before, so that any budget spans the
    costs. Scores are made monotone first: fewer bits never score below more bits.

    Attributes:
        score: What is summed.
        score_images: How many of the calibration images the scores are computed from; all if None.
        time_limit_s: Seconds the solver may take for each answer.
    """

    summary: ClassVar[str] = "The exact optimum of additive sensitivity scores, for every cost."
    paper: ClassVar[str] = "Yao et al., HAWQ-V3, 2021 (arXiv:2011.10680), generalised"
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    needs_model: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    score: ScoreKind = "kl"
    score_images: int | None = None
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        ScoreConfig(kind=self.score, images=self.score_images)  # refuses what it does not know
        check_time_limit(self.time_limit_s)

    def search(self, problem: Problem) -> None:
        """Score every choice once, solve, and measure what is best at each cost."""
        scores = problem.scores(ScoreConfig(kind=self.score, images=self.score_images))
        model = AdditiveModel(problem.space, scores.monotone().pairs())
        measure_best(problem, model, f"{self.score} score", self.time_limit_s)
