"""A budget loop for widths by kernel: layer by layer down, and in the last step kernel by kernel.

The loop is that of [HAQ19, section 3.3] (`budget_loop`); a step that would lower a whole layer
further than the limits ask for lowers only the kernels it has to.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, BitSpace, ChannelBits, InfeasibleError
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS
from .budget import limit_text
from .pricing import Pricing, is_within, shown_cost

Ranks = list[npt.NDArray[np.int64]]
"""A state: for every variable of a space the index of its choice, one for all or one by channel."""

Costs = dict[str, npt.NDArray[np.float64]]
"""What every layer costs, by the name of the cost."""


class ChannelBudget:
    """Lowers the widths of a state until all limits are met.

    Args:
        space: What the states are of; its pins, ties and forbidden pairs hold. Activations have
            one width for all their channels here, also in a per-channel space.
        pricing: What allocations cost.
        limits: The most of each cost, by its name.
    """

    def __init__(self, space: BitSpace, pricing: Pricing, limits: Mapping[str, float]) -> None:
        self._space = space
        self._pricing = pricing
        self._limits = limits
        self._tables = {name: pricing.layer_costs(name) for name in limits}
        free = [v for v, variable in enumerate(space.variables) if len(variable.choices) > 1]
        self._turns = sorted(free, key=lambda v: _turn(space.variables[v]), reverse=True)
        self._of_slot = {
            (slot.layer, slot.operand): v
            for v, variable in enumerate(space.variables)
            for slot in variable.slots
        }
        self._choices = [np.array(variable.choices) for variable in space.variables]
        self._is_forbidden = np.zeros((33, 33), dtype=bool)
        for pair in space.forbid:
            self._is_forbidden[pair] = True

    def ranks(self, allocation: BitAllocation) -> Ranks:
        """Return the state of an allocation; `allocation` is the inverse."""
        return [
            np.atleast_1d(np.searchsorted(variable.choices, _bits(allocation, variable)))
            for variable in self._space.variables
        ]

    def allocation(self, ranks: Ranks) -> BitAllocation:
        """Return the allocation of a state."""
        operands: dict[str, list[ChannelBits]] = {
            operand: [np.empty(0, np.uint8)] * len(self._space.layers) for operand in OPERANDS
        }
        for variable, choices, rank in zip(
            self._space.variables, self._choices, ranks, strict=True
        ):
            for slot in variable.slots:
                operands[slot.operand][slot.layer] = choices[rank].astype(np.uint8)
        names = [layer.name for layer in self._space.layers]
        return BitAllocation(names, operands["weight"], operands["activation"])

    def replaced(self, ranks: Ranks, variable: int, wanted: npt.NDArray[np.int64]) -> Ranks:
        """Return a state with other ranks of one variable, but for what the space forbids.

        Args:
            ranks: A state of the space; it stays as it is.
            variable: Which variable changes.
            wanted: Its ranks. Where one of them would make a forbidden pair, that of the state
                stays.
        """
        changed = list(ranks)
        changed[variable] = wanted
        if not self._space.forbid:
            return changed
        before = np.broadcast_to(ranks[variable], wanted.shape)
        clashes = np.zeros(wanted.shape, dtype=bool)
        for slot in self._space.variables[variable].slots:
            weight, activation = (
                self._widths(changed, self._of_slot[slot.layer, operand]) for operand in OPERANDS
            )
            pairs = self._is_forbidden[weight[:, None], activation]
            clashes |= pairs.any(axis=1) if slot.operand == "weight" else pairs.any()
        changed[variable] = np.where(clashes, before, wanted)
        return changed

    def fits(self, ranks: Ranks) -> bool:
        """Return whether a state respects the limits if the costs of channels add up.

        They do for most tables; `allows` says for certain, and takes ten times as long.
        """
        return self._fits(self._layer_costs(ranks))

    def allows(self, ranks: Ranks) -> bool:
        """Return whether a state respects the limits."""
        return self._pricing.allows(self.allocation(ranks), self._limits)

    def within(self, ranks: Ranks, preferences: Sequence[npt.NDArray[np.floating]]) -> Ranks:
        """Return the first state on the way down that respects every limit.

        From the last layer to the first, the activation goes one choice lower, then the weights of
        all kernels, and so again from the last layer. Of the step that meets the limits only the
        kernels are kept that it takes, those that are least preferred.

        Args:
            ranks: Where to start, a state of the space.
            preferences: For every variable one number by channel; smaller ones go first.

        Raises:
            InfeasibleError: If no state on the way does; it says the smallest achievable cost.
        """
        costs = self._layer_costs(ranks)
        if self._fits(costs) and self.allows(ranks):
            return ranks
        for variable, before, after in self._way_down(ranks):
            lower = self._changed(costs, variable, after)
            if self._fits(lower):
                changes = np.flatnonzero(after[variable] < before[variable])
                order = changes[np.argsort(preferences[variable][changes], kind="stable")]
                ends = range(1, len(order) + 1)
                steps = [_partly(variable, before, after, order[:end]) for end in ends]
                enough = partial(self._is_enough, costs, variable)
                for state in steps[bisect_left(steps, True, key=enough) :]:
                    if self.allows(state):
                        return state
            costs = lower
        raise InfeasibleError(self._too_dear(ranks))

    def _way_down(self, ranks: Ranks) -> Iterator[tuple[int, Ranks, Ranks]]:
        """Yield every step: which variable, the state before and the state after it."""
        stuck = False
        while not stuck:
            stuck = True
            for variable in self._turns:
                lower = np.maximum(ranks[variable] - 1, 0)
                after = self.replaced(ranks, variable, lower)
                if (after[variable] < ranks[variable]).any():
                    yield variable, ranks, after
                    ranks, stuck = after, False

    def _is_enough(self, costs: Costs, variable: int, ranks: Ranks) -> bool:
        return self._fits(self._changed(costs, variable, ranks))

    def _fits(self, costs: Costs) -> bool:
        """Return whether a state respects the limits as far as a layer's kernels add up."""
        return all(is_within(costs[name].sum(), limit) for name, limit in self._limits.items())

    def _layer_costs(self, ranks: Ranks) -> Costs:
        return {
            name: np.array([self._mean(table, layer, ranks) for layer, table in enumerate(tables)])
            for name, tables in self._tables.items()
        }

    def _changed(self, costs: Costs, variable: int, ranks: Ranks) -> Costs:
        """Return the costs of a state that differs in one variable from that of these costs."""
        changed = {name: by_layer.copy() for name, by_layer in costs.items()}
        for layer in {slot.layer for slot in self._space.variables[variable].slots}:
            for name, by_layer in changed.items():
                by_layer[layer] = self._mean(self._tables[name][layer], layer, ranks)
        return changed

    def _mean(self, table: npt.NDArray[np.float64], layer: int, ranks: Ranks) -> float:
        """Return the mean cost of the pairs of widths that meet in a layer."""
        weight, activation = (self._widths(ranks, self._of_slot[layer, o]) for o in OPERANDS)
        return float(table[weight[:, None], activation].mean())

    def _widths(self, ranks: Ranks, variable: int) -> npt.NDArray[np.int64]:
        widths: npt.NDArray[np.int64] = self._choices[variable][ranks[variable]]
        return widths

    def _too_dear(self, ranks: Ranks) -> str:
        *_, end = ranks, *(after for _, _, after in self._way_down(ranks))
        said = ", ".join(
            f"{name} {shown_cost(self._pricing.price(self.allocation(end), name))} (limit "
            f"{limit_text(limit)}, smallest achievable "
            f"{shown_cost(self._pricing.smallest(self._space, name))})"
            for name, limit in self._limits.items()
        )
        return f"the budget loop ends at {said}: raise the limit or allow smaller widths"


def _partly(variable: int, before: Ranks, after: Ranks, chosen: npt.NDArray[np.int64]) -> Ranks:
    """Return the state before a step, with what it does to some channels only."""
    state = list(before)
    state[variable] = before[variable].copy()
    state[variable][chosen] = after[variable][chosen]
    return state


def _bits(allocation: BitAllocation, variable: Variable) -> npt.NDArray[np.int64]:
    slot = variable.slots[0]
    operands = allocation.weights if slot.operand == "weight" else allocation.activations
    return np.asarray(operands[slot.layer], dtype=np.int64)


def _turn(variable: Variable) -> tuple[int, int]:
    return max((slot.layer, OPERANDS.index(slot.operand)) for slot in variable.slots)
