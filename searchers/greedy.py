"""Greedy mixed precision: flips of single operands, added up in the order of their scores.

[AMP] Automatic mixed precision of quic/aimet (aimet_common.amp): phases 0 to 2.

[COREAI] The greedy recipe of Apple's coreai-opt, for ``order: ratio``.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..models.config import ScoreConfig, ScoreKind
from ..spaces import BitAllocation, StudyError
from .base import Searcher
from .flips import apply_flips, cheapest_harm_first, rank_flips, score_of_state
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .steps import allocation_of, narrowest, widest, widths_of


@register("greedy")
@dataclass(frozen=True, kw_only=True)
class Greedy(Searcher):
    """Walks from the widest widths down, the least sensitive operands first [AMP].

    A score says of every operand (or group of tied ones) and width what that alone does to the
    network. The flips to them, ranked by score and added up one after the other, are a path, and
    its points are what is measured: spread over the path, or by binary search for the last one
    whose accuracy is good enough. The path is not a front: a point may be worse than another in
    every way, and the front is what measuring leaves of it.

    Attributes:
        score: What flips are ranked by.
        order: ``amp`` ranks all flips once, by their score; ``ratio`` always takes the flip that
            adds least score for the cost it saves [COREAI].
        mode: ``curve`` spends the evaluations all along the path; ``binary`` looks for its last
            point within ``allowed_drop`` first, and then measures around it.
        allowed_drop: How far the accuracy may fall below that of the float network, as a fraction
            of all images; for ``binary`` only, which needs it.
    """

    summary: ClassVar[str] = "Adds up flips of single operands in the order of their sensitivity."
    paper: ClassVar[str] = "AIMET automatic mixed precision (quic/aimet); Apple coreai-opt"
    needs_model: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    score: ScoreKind = "sqnr"
    order: Literal["amp", "ratio"] = "amp"
    mode: Literal["curve", "binary"] = "curve"
    allowed_drop: float | None = None

    def __post_init__(self) -> None:
        ScoreConfig(kind=self.score)  # refuses what it does not know
        if self.mode == "binary" and self.allowed_drop is None:
            raise StudyError(
                "mode 'binary' needs allowed_drop, the accuracy that may be lost as a fraction "
                "such as 0.01; without one every point of the path is good enough"
            )
        if self.mode == "curve" and self.allowed_drop is not None:
            raise StudyError("allowed_drop is for mode 'binary' only; set that, or leave it out")
        if self.allowed_drop is not None and not 0 <= self.allowed_drop < 1:
            raise StudyError(f"allowed_drop must be a fraction in [0, 1), got {self.allowed_drop}")

    def search(self, problem: Problem) -> None:
        """Measure points of the path."""
        target = self._target(problem)
        if math.isnan(target):
            self._spread(problem)
        else:
            self._find_last(problem, target)

    def _target(self, problem: Problem) -> float:
        """Return the accuracy that is good enough; NaN if none is asked for or known."""
        if self.allowed_drop is None:
            return math.nan
        float_network = problem.baseline
        if float_network is not None and not float_network.failed:
            return float_network.accuracy - self.allowed_drop
        dearest = _ends(problem)[0]
        reference = dearest if problem.allows(dearest) else self._path(problem)[0]
        return _accuracy(problem, reference) - self.allowed_drop

    def _spread(self, problem: Problem) -> None:
        """Measure points whose costs span those of the path, however few there are."""
        path = self._path(problem)
        order = farthest_first([problem.price(point, problem.cost_name) for point in path])
        problem.evaluate([path[index] for index in order])

    def _find_last(self, problem: Problem, target: float) -> None:
        """Look for the last point of the path with an accuracy, then measure around it."""
        found: dict[str, Any] = {"target_accuracy": target, "selected": None}
        problem.findings["binary"] = found
        dearest, cheapest = (
            _accuracy(problem, end) if problem.allows(end) else math.nan for end in _ends(problem)
        )
        if dearest < target:
            found["stopped"] = "the widest widths miss the target"
            return
        if cheapest >= target:
            found["stopped"] = "the narrowest widths meet the target"
            found["selected"] = _ends(problem)[1].key
            return
        path = self._path(problem)
        first, last = -1, len(path) - 1  # of where the last good point may be; -1 for nowhere
        while first < last:
            middle = (first + last + 1) // 2
            if _accuracy(problem, path[middle]) >= target:
                first, found["selected"] = middle, path[middle].key
            else:
                last = middle - 1
        # The accuracy need not fall from point to point: a later one may be good enough yet.
        known = {m.allocation for m in problem.history}
        around = sorted(range(len(path)), key=lambda i: (abs(i - first), -i))
        problem.evaluate([path[i] for i in around if path[i] not in known])

    def _path(self, problem: Problem) -> list[BitAllocation]:
        """Return the points of the path that are within the limits, in order."""
        space, costs = problem.space, problem.layer_costs(problem.cost_name)
        scores = problem.scores(ScoreConfig(kind=self.score))
        if self.order == "amp":
            states = apply_flips(space, rank_flips(space, scores, costs))
        else:
            scores = scores.monotone()
            states = cheapest_harm_first(space, scores, _to_be_saved(problem))
        walk = itertools.chain(states, [narrowest(space)])
        path = problem.only_allowed(allocation_of(space, widths) for widths in walk)
        problem.findings["predicts"] = f"{self.score} score"
        problem.findings["predicted"] = {
            point.key: score_of_state(scores, widths_of(point)) for point in path
        }
        return path


def _ends(problem: Problem) -> tuple[BitAllocation, BitAllocation]:
    """Return the allocations of the widest and of the narrowest widths."""
    dearest, cheapest = widest(problem.space), narrowest(problem.space)
    return allocation_of(problem.space, dearest), allocation_of(problem.space, cheapest)


def _to_be_saved(problem: Problem) -> npt.NDArray[np.float64]:
    """Return what flips save, by layer and widths: of all that is compared or limited, the shares.

    A flip that saves nothing is never taken; with the compared cost alone, a limit on another might
    never be met.
    """
    names = dict.fromkeys((problem.cost_name, *problem.budget.limits))
    dearest = _ends(problem)[0]
    parts = [problem.layer_costs(n) / (problem.price(dearest, n) or 1.0) for n in names]
    shares: npt.NDArray[np.float64] = np.stack(parts).sum(axis=0)
    return shares


def _accuracy(problem: Problem, allocation: BitAllocation) -> float:
    """Return the accuracy of an allocation; NaN if that failed.

    It is measured if it has not been before.
    """
    known = (m for m in problem.history if m.allocation == allocation)
    measured = next(known, None) or problem.evaluate([allocation])[0]
    return math.nan if measured.failed else measured.accuracy
