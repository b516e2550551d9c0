"""Hessian-aware quantization, post-training: HAWQ-V2 and HAWQ-V3.

[V2] Dong et al. HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks. 2020
(arXiv:1911.03852).

[V3] Yao et al. HAWQ-V3: Dyadic Neural Network Quantization. 2021 (arXiv:2011.10680).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..models.config import ScoreConfig
from ..spaces import BitSpace, Scores
from .additive import AdditiveModel, check_time_limit
from .additive_search import measure_best
from .base import Searcher
from .problem import Problem
from .registry import register


@register("hawq")
@dataclass(frozen=True, kw_only=True)
class Hawq(Searcher):
    """Minimises the second-order change of the loss, ``Tr(H)/n ||Q(W) - W||^2`` summed [V2, V3].

    The trace of the Hessian is estimated with random vectors (Hutchinson). The sum is minimised
    exactly, by integer programming, under the budget's limits first and then at costs that span
    what there is. Neither paper's quantization-aware training afterwards is part of it.

    Attributes:
        activations: ``scored`` gives activations widths by Hessian scores of their own [V2];
            ``as-weights`` gives each layer's input the width of its weights, or the nearest the
            space offers, and scores the weights only [V3].
        score_images: How many of the calibration images the scores are computed from; all if None.
        iterations: Random vectors drawn at most.
        tolerance: Relative change of the mean at which drawing ends before.
        time_limit_s: Seconds the solver may take for each answer.
    """

    summary: ClassVar[str] = "The exact optimum of the Hessian's trace times the squared change."
    paper: ClassVar[str] = (
        "Dong et al., HAWQ-V2 (arXiv:1911.03852); Yao et al., HAWQ-V3 (arXiv:2011.10680)"
    )
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    needs_model: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    activations: Literal["scored", "as-weights"] = "scored"
    score_images: int | None = None
    iterations: int = 100
    tolerance: float = 1e-3
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        self._config()  # refuses what it does not know
        check_time_limit(self.time_limit_s)

    def search(self, problem: Problem) -> None:
        """Estimate the traces once, solve, and measure what is best at each cost."""
        scores = problem.scores(self._config()).monotone()
        pairs = scores.pairs()
        if self.activations == "as-weights":
            pairs = _as_weights(problem.space, scores)
        model = AdditiveModel(problem.space, pairs)
        measure_best(problem, model, "hessian score", self.time_limit_s)

    def _config(self) -> ScoreConfig:
        return ScoreConfig(
            kind="hessian",
            images=self.score_images,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )


def _as_weights(space: BitSpace, scores: Scores) -> npt.NDArray[np.float64]:
    """Return the scores of the weights, only where the activation has the weights' width.

    An activation that does not offer it has the next larger width, or its largest.

    Returns:
        ``L x 33 x 33`` array; NaN for all other pairs.
    """
    pairs = np.full((len(space.layers), 33, 33), np.nan)
    for layer in range(len(space.layers)):
        offered = space.activation_choices(layer)
        for weight in space.weight_choices(layer):
            activation = next((bits for bits in offered if bits >= weight), offered[-1])
            pairs[layer, weight, activation] = scores.values[layer, 0, weight]
    return pairs
