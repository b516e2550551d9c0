"""The budget loop of HAQ: from the widest widths down, one choice at a time, until it fits.

[HAQ19] Wang, Liu, Lin, Lin, Han. HAQ: Hardware-Aware Automated Quantization with Mixed Precision.
CVPR 2019. Section 3.3, and the code of mit-han-lab/haq.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, BitSpace, InfeasibleError
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS
from .base import Searcher
from .budget import limit_text
from .pricing import is_within, shown_cost
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .steps import Widths, allocation_of, cost_of, widest, width_of, widths_of, with_width

Limits = Mapping[str, tuple[npt.NDArray[np.float64], float]]
"""Name of a cost -> what every layer costs (``L x 33 x 33``), and the most their sum may be."""


@register("budget_loop")
@dataclass(frozen=True, kw_only=True)
class BudgetLoop(Searcher):
    """Lowers one operand after the other by one choice, from the last layer to the first [HAQ19].

    No look at the network: this is what HAQ does to an episode that is too dear, here from the
    widest widths, and so the bar for every strategy that claims to know which layers matter.

    Each target on the cost has one answer. The first is that of the budget's limits, or the widest
    widths where there are none; then come the targets farthest from those before, so that any
    budget spans the costs from the widest to the narrowest widths.
    """

    summary: ClassVar[str] = "Lowers layer by layer, from the last to the first, until it fits."
    paper: ClassVar[str] = "Wang et al., HAQ, CVPR 2019, section 3.3"
    deterministic: ClassVar[bool] = True

    def search(self, problem: Problem) -> None:
        """Measure where the loop ends, for targets from the limits down."""
        costs = problem.layer_costs(problem.cost_name)
        ends = self._ends(problem, costs)
        prices = [cost_of(costs, widths_of(end)) for end in ends]
        chosen = farthest_first(prices)[: problem.remaining]
        problem.findings["targets"] = {
            "cost": problem.cost_name,
            "values": {ends[index].key: prices[index] for index in chosen},
        }
        problem.evaluate([ends[index] for index in chosen])

    def _ends(self, problem: Problem, costs: npt.NDArray[np.float64]) -> list[BitAllocation]:
        """Return where the loop ends for some target on the cost, within the limits."""
        ends: list[BitAllocation] = []
        lowest = np.inf
        for widths in way_down(problem.space):
            cost = cost_of(costs, widths)
            if cost < lowest:  # otherwise a target it meets has been met before
                candidate = allocation_of(problem.space, widths)
                if problem.allows(candidate):
                    ends.append(candidate)
                    lowest = cost
        if not ends:
            limits = {
                name: (problem.layer_costs(name), limit)
                for name, limit in problem.budget.limits.items()
            }
            raise InfeasibleError(_too_dear(problem.space, limits))
        return ends


def budget_loop(
    space: BitSpace, limits: Limits, start: BitAllocation | None = None
) -> BitAllocation:
    """Return the first allocation on the way down that respects every limit.

    Args:
        space: A space per layer; its pins, ties and forbidden pairs hold.
        limits: What has to come down, all of it at once.
        start: Where to start, a member of the space; the widest widths if None.

    Raises:
        InfeasibleError: If no allocation on the way does; it says the smallest achievable cost.
    """
    for widths in way_down(space, start):
        if all(is_within(cost_of(costs, widths), limit) for costs, limit in limits.values()):
            return allocation_of(space, widths)
    raise InfeasibleError(_too_dear(space, limits, start))


def way_down(space: BitSpace, start: BitAllocation | None = None) -> Iterator[Widths]:
    """Yield every state of the loop, from the start to where nothing can be lowered.

    From the last layer to the first, the activation goes one choice lower, then the weight, and so
    again from the last layer. Tied operands go together, at the turn of the last of them. A step
    the space forbids is left out, until its next turn.

    Args:
        space: A space per layer.
        start: Where to start, a member of the space; the widest widths if None.
    """
    state = widest(space) if start is None else widths_of(start)
    yield state
    turns = sorted(space.variables, key=_turn, reverse=True)
    stuck = False
    while not stuck:
        stuck = True
        for variable in turns:
            rank = variable.choices.index(width_of(state, variable))
            lower = with_width(space, state, variable, variable.choices[rank - 1]) if rank else None
            if lower is not None:
                state, stuck = lower, False
                yield state


def _turn(variable: Variable) -> tuple[int, int]:
    return max((slot.layer, OPERANDS.index(slot.operand)) for slot in variable.slots)


def _too_dear(space: BitSpace, limits: Limits, start: BitAllocation | None = None) -> str:
    *_, end = way_down(space, start)
    said = ", ".join(
        f"{name} {shown_cost(cost_of(costs, end))} (limit {limit_text(limit)}, smallest "
        f"achievable {shown_cost(space.minimum(costs)[0])})"
        for name, (costs, limit) in limits.items()
    )
    return f"the budget loop ends at {said}: raise the limit or allow smaller widths"
