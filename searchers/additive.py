"""The additive model of mixed precision: solved exactly, for any limits, without the network.

The score of an allocation is the sum over its layers of a score by weight and activation width. So
is every cost that is known before measuring. The best allocation within limits is then an integer
program, and all the best ones at once are a Pareto set of sums.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import (
    BitAllocation,
    BitSpace,
    InfeasibleError,
    OutOfTimeError,
    SpaceError,
    StudyError,
)
from . import integer_program, pareto_sums
from .budget import limit_text
from .pareto_sums import Curve
from .pricing import shown_cost

__all__ = ["AdditiveModel", "Curve", "Limits", "Solution", "check_time_limit"]

Array = npt.NDArray[np.float64]
Limits = Mapping[str, tuple[Array, float]]
"""By name: costs of each layer by weight and activation width (``L x 33 x 33``), and the largest
sum of them that is acceptable."""


@dataclass(frozen=True)
class Solution:
    """The best allocation within limits, and how sure that is.

    Attributes:
        allocation: The best found; one width per operand.
        score: Its score.
        bound: No allocation within the limits has a smaller score.
        gap: How far the score is above the bound, relative to the score.
        status: ``optimal``, or ``feasible`` if time was up before that was proven.
        costs: What was limited -> what the allocation costs.
        wall_s: Seconds the solver took.
    """

    allocation: BitAllocation
    score: float
    bound: float
    gap: float
    status: str
    costs: dict[str, float]
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "status": self.status,
            "score": self.score,
            "bound": self.bound,
            "gap": self.gap,
            "costs": dict(self.costs),
            "wall_s": self.wall_s,
            "allocation": self.allocation.to_dict(),
        }


class AdditiveModel:
    """Scores that add up over the layers of a space.

    Allocations are per layer, also in a per-channel space: all channels of an operand then have one
    width.

    Args:
        space: Which allocations there are.
        scores: ``L x 33 x 33``, less is better, by layer, weight width and activation width; NaN
            where a pair was not scored, which is then never chosen.

    Raises:
        SpaceError: If the scores are for another number of layers.
        InfeasibleError: If a layer has no pair that is both allowed and scored.
    """

    def __init__(self, space: BitSpace, scores: Array) -> None:
        self.space = space
        self.scores = _of_layers(space, "scores", scores)
        self._allowed = allowed_pairs(space) & np.isfinite(self.scores)
        self._require_some(self._allowed, "scored")
        self._ties = [
            tuple((slot.layer, int(slot.operand == "activation")) for slot in variable.slots)
            for variable in space.variables
            if len(variable.choices) > 1 and len({slot.layer for slot in variable.slots}) > 1
        ]

    def predict(self, allocation: BitAllocation) -> float:
        """Return the score of a per-layer allocation; NaN if a pair of widths has none.

        Raises:
            SpaceError: If the allocation is for other layers, or has per-channel widths.
        """
        if len(allocation.layers) != len(self.space.layers) or not allocation.is_layerwise:
            raise SpaceError(
                f"the additive model scores allocations of {len(self.space.layers)} layers with "
                f"one width per operand, got {allocation!r}"
            )
        pairs = zip(allocation.weights, allocation.activations, strict=True)
        return math.fsum(self.scores[i, w, a] for i, (w, a) in enumerate(pairs))

    def solve(self, limits: Limits, *, time_limit_s: float = 60.0) -> Solution:
        """Return the allocation with the smallest score within any number of limits.

        It is proven to be that (status ``optimal``), unless time is up first.

        Args:
            limits: By name, costs of the layers (NaN: unknown, never chosen) and the largest sum.
            time_limit_s: Seconds after which the best so far is returned.

        Raises:
            InfeasibleError: If nothing is within the limits; it names those that contradict each
                other, and the smallest achievable cost of each, the others kept.
            OutOfTimeError: If time was up before anything was found.
            SolverError: If the solver failed.
        """
        check_time_limit(time_limit_s)
        allowed = self._allowed
        for name, (costs, _) in limits.items():
            allowed = allowed & np.isfinite(_of_layers(self.space, name, costs))
        self._require_some(allowed, " and ".join(["scored", *(f"priced by {n}" for n in limits)]))
        clock = integer_program.Clock(time_limit_s)
        found = self._minimise(self.scores, allowed, limits, clock)
        if found.status == "infeasible":
            raise InfeasibleError(self._contradiction(allowed, limits, time_limit_s))
        if found.pairs is None:
            raise OutOfTimeError(
                f"no allocation was found within {time_limit_s:g} s, which does not mean that "
                f"there is none: raise the solver's time limit"
            )
        allocation = self._allocation(found.pairs)
        self.space.validate(allocation)
        score = self.predict(allocation)
        bound = min(found.bound, score)
        return Solution(
            allocation=allocation,
            score=score,
            bound=bound,
            gap=(score - bound) / (abs(score) or 1.0),
            status=found.status,
            costs={name: _total(costs, found.pairs) for name, (costs, _) in limits.items()},
            wall_s=clock.elapsed_s,
        )

    def curve(self, costs: Array, *, cap: int = 4096) -> Curve:
        """Return every allocation than which none is both cheaper and better.

        Args:
            costs: Costs of each layer by weight and activation width, ``L x 33 x 33``; NaN:
                unknown, never chosen.
            cap: How many points to keep at most, here and on the way. If there are more, they are
                thinned evenly over the cost, and the curve says that it is not exact.

        Raises:
            InfeasibleError: If no allocation has a known cost and a score.
        """
        allowed = self._allowed & np.isfinite(_of_layers(self.space, "costs", costs))
        self._require_some(allowed, "scored and priced")
        return pareto_sums.curve(self.space, self.scores, costs, allowed, cap)

    def _minimise(
        self,
        objective: Array,
        allowed: npt.NDArray[np.bool_],
        limits: Limits,
        clock: integer_program.Clock,
    ) -> integer_program.Outcome:
        return integer_program.minimise(
            objective, allowed, self._ties, list(limits.values()), clock
        )

    def _contradiction(
        self, allowed: npt.NDArray[np.bool_], limits: Limits, time_limit_s: float
    ) -> str:
        """Return a sentence that says which limits cannot hold, and what could."""
        clock = integer_program.Clock(time_limit_s)
        if self._minimise(self.scores, allowed, {}, clock).status == "infeasible":
            return (
                "no allocation of the space has a known score and cost in every layer: ties and "
                "forbidden pairs leave none; choose another score or table, or other widths"
            )
        together = dict(limits)
        for name in limits:  # leave out what does not contribute
            rest = {other: limit for other, limit in together.items() if other != name}
            if rest and self._minimise(self.scores, allowed, rest, clock).status == "infeasible":
                together = rest
        said = " and ".join(
            f"{name} <= {limit_text(limit)}" for name, (_, limit) in together.items()
        )
        if len(together) == 1:
            ((name, (costs, _)),) = together.items()
            smallest = self._smallest(costs, allowed, {}, clock)
            return (
                f"no allocation has {said}; the smallest achievable is {smallest}: raise the limit "
                f"or allow smaller widths"
            )
        achievable = []
        for name, (costs, _) in together.items():
            rest = {other: limit for other, limit in together.items() if other != name}
            achievable.append(f"{name} {self._smallest(costs, allowed, rest, clock)}")
        return (
            f"no allocation has {said} at once; with the others kept, the smallest achievable is "
            f"{' or '.join(achievable)}: raise one of the limits or allow smaller widths"
        )

    def _smallest(
        self,
        costs: Array,
        allowed: npt.NDArray[np.bool_],
        limits: Limits,
        clock: integer_program.Clock,
    ) -> str:
        found = self._minimise(costs, allowed, limits, clock)
        return "unknown" if found.pairs is None else shown_cost(_total(costs, found.pairs))

    def _require_some(self, allowed: npt.NDArray[np.bool_], what: str) -> None:
        for layer, pairs in zip(self.space.layers, allowed, strict=True):
            if not pairs.any():
                raise InfeasibleError(
                    f"no pair of widths that layer {layer.name!r} may have is {what}: choose "
                    f"another score or table, or other widths"
                )

    def _allocation(self, pairs: npt.NDArray[np.int64]) -> BitAllocation:
        names = [layer.name for layer in self.space.layers]
        return BitAllocation(names, pairs[:, 0].tolist(), pairs[:, 1].tolist())


def check_time_limit(seconds: float) -> None:
    """Check how long a solver may take.

    Raises:
        StudyError: If that is not a positive number of seconds.
    """
    if not seconds > 0:
        raise StudyError(f"time_limit_s must be a positive number of seconds, got {seconds}")


def allowed_pairs(space: BitSpace) -> npt.NDArray[np.bool_]:
    """Return which pairs of widths each layer of a space may have, ``L x 33 x 33``."""
    allowed = np.zeros((len(space.layers), 33, 33), dtype=np.bool_)
    for layer in range(len(space.layers)):
        pairs = np.ix_([layer], space.weight_choices(layer), space.activation_choices(layer))
        allowed[pairs] = True
    for weight, activation in space.forbid:
        allowed[:, weight, activation] = False
    for variable in space.variables:
        layers = [slot.layer for slot in variable.slots]
        for layer in {i for i in layers if layers.count(i) > 1}:
            allowed[layer] &= np.eye(33, dtype=np.bool_)
    return allowed


def _of_layers(space: BitSpace, what: str, values: Array) -> Array:
    expected = (len(space.layers), 33, 33)
    if values.shape != expected:
        raise SpaceError(f"{what} must have shape {expected}, got {values.shape}")
    return values


def _total(costs: Array, pairs: npt.NDArray[np.int64]) -> float:
    return math.fsum(costs[np.arange(len(pairs)), pairs[:, 0], pairs[:, 1]])
