"""The bit-width space every strategy searches: which widths each layer may take."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .allocation import BitAllocation, Bits
from .constraints import PairConstraints, Variable
from .elimination import Table
from .errors import InfeasibleError, SpaceError
from .layer import Layer
from .slots import Slot, slot_channels, slot_choices, tie_groups

Granularity = Literal["layer", "channel"]
Genes = npt.NDArray[np.int64]


class BitSpace:
    """Which widths the weights and input activations of every layer may take.

    Immutable. A *gene* is one independent choice: an operand of a layer (or a group of tied
    ones), or one channel of it. Pinned operands have no gene. Build one with `build`.

    Args:
        layers: The network's layers, in order.
        variables: The slots, grouped where they are tied; every slot exactly once.
        forbid: Pairs (weight width, activation width) that no layer may have; in a per-channel
            space no channel of the weights may meet such a channel of the activations.
        granularity: Whether widths are per ``layer`` or per ``channel``.

    Raises:
        SpaceError: If no allocation satisfies the constraints.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        variables: Sequence[Variable],
        forbid: Iterable[tuple[int, int]] = (),
        granularity: Granularity = "layer",
    ) -> None:
        self.layers = tuple(layers)
        self.variables = tuple(variables)
        self.forbid = frozenset(forbid)
        self.granularity = granularity
        self._names = tuple(layer.name for layer in self.layers)
        of_slot = {slot: v for v, var in enumerate(self.variables) for slot in var.slots}
        self._operands = [
            (of_slot[Slot(i, "weight")], of_slot[Slot(i, "activation")])
            for i in range(len(self.layers))
        ]
        self._pairs = PairConstraints(self.variables, self._operands, self.forbid)
        if self.size == 0:
            raise SpaceError(
                f"the space is empty: the forbidden pairs {sorted(self.forbid)} leave no "
                f"allocation; allow a pair or widen the choices"
            )

    @classmethod
    def build(
        cls,
        layers: Sequence[Layer],
        *,
        weights: Sequence[int] = (2, 3, 4, 5, 6, 7, 8),
        activations: Sequence[int] = (2, 3, 4, 5, 6, 7, 8),
        granularity: Granularity = "layer",
        first_last: int | None = 8,
        pins: Mapping[str, Mapping[str, int]] | None = None,
        choices: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        ties: Sequence[str | Sequence[str]] = (),
        forbid: Iterable[Sequence[int]] = (),
    ) -> "BitSpace":
        """Build a space from what a study says.

        Args:
            layers: The network's layers, in order.
            weights: Widths the weights may take: any of 2 to 8, 16 and 32 (float).
            activations: Widths the input activations may take.
            granularity: ``layer``, or ``channel`` (weights by output channel, activations by
                input channel; the matmuls of attention stay per layer).
            first_last: Width that both operands of the first and the last layer with weights are
                pinned to; None leaves them free.
            pins: Layer name or shell pattern -> ``{"weight": bits, "activation": bits}``.
            choices: The same keys -> the choices that replace ``weights`` / ``activations``.
            ties: Groups of slots that share one width: ``"layer.weight"``,
                ``"layer.activation"`` or ``"layer"`` for both, patterns allowed; or the words
                ``"weights=activations"`` and ``"shared-input"``.
            forbid: Pairs (weight width, activation width) no layer may have.

        Raises:
            SpaceError: If a width, a name or a combination of these cannot be.
        """
        allowed = slot_choices(layers, weights, activations, first_last, pins or {}, choices or {})
        variables = []
        for group in tie_groups(layers, ties):
            common = sorted(set.intersection(*(set(allowed[slot]) for slot in group)))
            if not common:
                said = ", ".join(f"{slot.show(layers)} {list(allowed[slot])}" for slot in group)
                raise SpaceError(f"tied slots have no width in common: {said}")
            counts = {slot_channels(layers, slot, granularity) for slot in group}
            if len(counts) > 1 and len(common) > 1:
                said = ", ".join(slot.show(layers) for slot in group)
                raise SpaceError(
                    f"tied slots must have equally many channels in a per-channel space: {said} "
                    f"have {sorted(counts)}; untie them or use granularity 'layer'"
                )
            channels = 1 if len(common) == 1 else counts.pop()
            variables.append(Variable(group, tuple(common), channels))
        pairs = [tuple(pair) for pair in forbid]
        if bad := [pair for pair in pairs if len(pair) != 2]:
            raise SpaceError(f"a forbidden pair is [weight bits, activation bits], got {bad[0]}")
        return cls(layers, variables, [(int(w), int(a)) for w, a in pairs], granularity)

    def layerwise(self) -> "BitSpace":
        """Return the part of the space in which every operand has one width for all channels.

        Its members are those of this space that are layer-wise; it is the space itself where
        widths are per layer. It is never empty: of whatever widths a layer's channels have, one
        alone meets no forbidden pair either.
        """
        if self.granularity == "layer":
            return self
        variables = [replace(variable, channels=1) for variable in self.variables]
        return BitSpace(self.layers, variables, self.forbid)

    # What there is

    @cached_property
    def size(self) -> int:
        """The exact number of allocations."""
        free = (
            len(var.choices) ** var.channels
            for v, var in enumerate(self.variables)
            if v not in self._pairs.touched
        )
        return int(math.prod(free) * self._pairs.ways)

    @cached_property
    def genes(self) -> int:
        """The number of independent choices."""
        return len(self.gene_choices)

    @cached_property
    def gene_choices(self) -> tuple[tuple[int, ...], ...]:
        """The widths each gene may take, in the order of `encode`."""
        return tuple(
            var.choices
            for var in self.variables
            if len(var.choices) > 1
            for _ in range(var.channels)
        )

    def weight_choices(self, layer: int) -> tuple[int, ...]:
        """Return the widths the weights of one layer may take, ascending."""
        return self.variables[self._operands[layer][0]].choices

    def activation_choices(self, layer: int) -> tuple[int, ...]:
        """Return the widths the input activation of one layer may take, ascending."""
        return self.variables[self._operands[layer][1]].choices

    def validate(self, allocation: BitAllocation) -> None:
        """Check that an allocation belongs to the space.

        Raises:
            SpaceError: Saying which layer has what, and what was expected.
        """
        if not isinstance(allocation, BitAllocation):
            raise SpaceError(f"expected a BitAllocation, got {type(allocation).__name__}")
        if allocation.layers != self._names:
            unlike = next(
                (i for i, (a, b) in enumerate(zip(allocation.layers, self._names)) if a != b),  # noqa: B905
                min(len(allocation.layers), len(self._names)),
            )
            raise SpaceError(
                f"the allocation is for other layers: {len(allocation.layers)} layers, expected "
                f"{len(self._names)}; the first that differs is number {unlike}"
            )
        for var in self.variables:
            first = _operand(allocation, var.slots[0])
            for slot in var.slots:
                bits = _operand(allocation, slot)
                self._check_bits(slot, bits, var)
                if not np.array_equal(bits, first):
                    raise SpaceError(
                        f"{slot.show(self.layers)} is tied to {var.slots[0].show(self.layers)} "
                        f"and must have its width: {_show(first)}, got {_show(bits)}"
                    )
        if (layer := self._forbidden_layer(allocation)) is not None:
            raise SpaceError(
                f"layer {self._names[layer]!r} has a forbidden pair of weight and activation "
                f"widths; forbidden: {sorted(self.forbid)}"
            )

    def contains(self, allocation: BitAllocation) -> bool:
        """Return whether an allocation belongs to the space."""
        try:
            self.validate(allocation)
        except SpaceError:
            return False
        return True

    # Points of it

    def uniform(self, weight: int, activation: int | None = None) -> BitAllocation:
        """Return the allocation nearest to one width everywhere; pins and ties hold.

        Args:
            weight: Width of the weights.
            activation: Width of the activations; as the weights' if None.
        """
        return self.project(BitAllocation.uniform(self.layers, weight, activation))

    def encode(self, allocation: BitAllocation) -> Genes:
        """Return the index of the choice of every gene; `decode` is the inverse.

        Raises:
            SpaceError: If the allocation is not in the space.
        """
        self.validate(allocation)
        parts = [
            np.searchsorted(
                var.choices, np.broadcast_to(_operand(allocation, var.slots[0]), var.channels)
            )
            for var in self.variables
            if len(var.choices) > 1
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def decode(self, genes: Sequence[int] | Genes) -> BitAllocation:
        """Return the allocation whose genes have these choices.

        Args:
            genes: One index into `gene_choices` per gene.

        Raises:
            SpaceError: If there are too many, too few, or an index is out of range; the
                allocation itself is not checked against the forbidden pairs.
        """
        values = np.asarray(genes, dtype=np.int64)
        if values.shape != (self.genes,):
            raise SpaceError(f"expected {self.genes} genes, got an array of shape {values.shape}")
        states, start = [], 0
        for var in self.variables:
            if len(var.choices) == 1:
                states.append(np.array(var.choices))
                continue
            part = values[start : start + var.channels]
            start += var.channels
            if part.min() < 0 or part.max() >= len(var.choices):
                raise SpaceError(
                    f"gene of {var.slots[0].show(self.layers)} must be 0 to "
                    f"{len(var.choices) - 1}, got {part.min()} to {part.max()}"
                )
            states.append(np.array(var.choices)[part])
        return self._assemble(states)

    def enumerate(self) -> Iterator[BitAllocation]:
        """Yield every allocation once, in a fixed order; `size` says how many."""
        yield from self._extend([], 0)

    def sample(self, rng: np.random.Generator) -> BitAllocation:
        """Draw an allocation, each equally likely.

        Args:
            rng: Source of randomness.
        """
        bound = self._pairs.sample(rng)
        return self._assemble(
            [
                bound[v] if v in bound else rng.choice(var.choices, size=var.channels)
                for v, var in enumerate(self.variables)
            ]
        )

    def neighbours(self, allocation: BitAllocation) -> Iterator[BitAllocation]:
        """Yield every allocation of the space that differs in exactly one gene."""
        genes = self.encode(allocation)
        for gene, choices in enumerate(self.gene_choices):
            for state in range(len(choices)):
                if state != genes[gene]:
                    changed = genes.copy()
                    changed[gene] = state
                    candidate = self.decode(changed)
                    if self._forbidden_layer(candidate) is None:
                        yield candidate

    def mutate(
        self, allocation: BitAllocation, rng: np.random.Generator, rate: float | None = None
    ) -> BitAllocation:
        """Return a copy with some genes redrawn, at least one; the same if none can change.

        Args:
            allocation: A member of the space.
            rng: Source of randomness.
            rate: Probability with which each gene changes; one gene on average if None.
        """
        genes = self.encode(allocation)
        if self.size == 1:
            return allocation
        sizes = np.array([len(choices) for choices in self.gene_choices])
        chance = 1 / self.genes if rate is None else rate
        for _ in range(64):  # only forbidden pairs can make an attempt fail
            mask = rng.random(self.genes) < chance
            mask[rng.integers(self.genes)] = True
            shift = 1 + (rng.random(self.genes) * (sizes - 1)).astype(np.int64)
            candidate = self.decode(np.where(mask, (genes + shift) % sizes, genes))
            if self._forbidden_layer(candidate) is None:
                return candidate
        near = list(self.neighbours(allocation))
        return near[rng.integers(len(near))] if near else self.sample(rng)

    def crossover(
        self, first: BitAllocation, second: BitAllocation, rng: np.random.Generator
    ) -> BitAllocation:
        """Return a child that takes every gene from one parent or the other.

        Genes bound by forbidden pairs are inherited together, so the child is always valid.

        Args:
            first: A member of the space.
            second: Another.
            rng: Source of randomness.
        """
        take = np.zeros(self.genes, dtype=bool)
        coins = rng.random(len(self._gene_groups)) < 0.5
        for group, coin in zip(self._gene_groups, coins, strict=True):
            take[group] = coin
        return self.decode(np.where(take, self.encode(first), self.encode(second)))

    def project(self, allocation: BitAllocation) -> BitAllocation:
        """Return a valid allocation near the given one.

        Tied slots take the largest of their widths; a width that is no choice becomes the next
        larger one, or the largest there is; a forbidden pair becomes the nearest allowed one
        (layer-wise there, in a per-channel space).

        Raises:
            SpaceError: If the allocation is for other layers.
        """
        if allocation.layers != self._names:
            self.validate(allocation)
        states = [self._snap(allocation, var) for var in self.variables]
        candidate = self._assemble(states)
        if self._forbidden_layer(candidate) is None:
            return candidate
        wish = [int(np.max(state)) for state in states]
        _, widths = self._pairs.cheapest(
            lambda i, w, a: 0.0,
            # A quarter more for lowering: of two equally near widths, keep the accuracy.
            lambda v, bits: abs(bits - wish[v]) + (0.25 if bits < wish[v] else 0.0),
        )
        return self._assemble([np.array([bits]) for bits in widths])

    def minimum(self, costs: npt.NDArray[np.float64]) -> tuple[float, BitAllocation]:
        """Return the smallest cost of any allocation, and that allocation.

        Args:
            costs: ``L x 33 x 33`` array, cost of a layer by weight and activation width. NaN
                marks a width the cost is not known for.

        Raises:
            InfeasibleError: If no allocation has a known cost.

        Note:
            Exact for per-layer spaces, and for per-channel ones with a cost that grows with
            every width.
        """
        known = np.where(np.isnan(costs), np.inf, costs)
        cheapest, widths = self._pairs.cheapest(lambda i, w, a: float(known[i, w, a]))
        if not math.isfinite(cheapest):
            raise InfeasibleError("no allocation of the space has a known cost")
        return cheapest, self._assemble([np.array([bits]) for bits in widths])

    # How it is done

    @cached_property
    def _gene_groups(self) -> list[list[int]]:
        """Genes that must be inherited together: those bound by forbidden pairs."""
        genes, start = [], 0
        for var in self.variables:
            width = var.channels if len(var.choices) > 1 else 0
            genes.append(list(range(start, start + width)))
            start += width
        free = [[g] for v, mine in enumerate(genes) if v not in self._pairs.touched for g in mine]
        bound = [[g for v in sorted(vs) for g in genes[v]] for vs in self._pairs.bound_together()]
        return free + [group for group in bound if group]

    def _extend(self, chosen: list[Table], v: int) -> Iterator[BitAllocation]:
        """Yield every allocation that begins with the widths chosen for the first ``v``."""
        if v == len(self.variables):
            yield self._assemble(chosen)
            return
        var = self.variables[v]
        for state in itertools.product(var.choices, repeat=var.channels):
            extended = [*chosen, np.array(state)]
            if not any(
                v in pair and max(pair) == v and self._pairs.clashes(*(extended[o] for o in pair))
                for pair in self._operands
            ):
                yield from self._extend(extended, v + 1)

    def _forbidden_layer(self, allocation: BitAllocation) -> int | None:
        operands = zip(allocation.weights, allocation.activations, strict=True)
        return next((i for i, (w, a) in enumerate(operands) if self._pairs.clashes(w, a)), None)

    def _check_bits(self, slot: Slot, bits: Bits, var: Variable) -> None:
        if not isinstance(bits, int) and bits.size != var.channels:
            what = f"{var.channels} per-channel widths" if var.channels > 1 else "one width"
            raise SpaceError(f"{slot.show(self.layers)} takes {what}, got {bits.size} widths")
        wrong = sorted(set(np.unique(bits).tolist()) - set(var.choices))
        if wrong:
            raise SpaceError(
                f"{slot.show(self.layers)} may be {_show_choices(var.choices)} bits, got {wrong[0]}"
            )

    def _snap(self, allocation: BitAllocation, var: Variable) -> Table:
        wishes = [np.asarray(_operand(allocation, slot)) for slot in var.slots]
        if var.channels == 1:
            wished = np.array([max(int(w.max()) for w in wishes)])
        else:
            wished = np.max([np.broadcast_to(w, var.channels) for w in wishes], axis=0)
        index = np.searchsorted(var.choices, wished)
        return np.array(var.choices)[np.minimum(index, len(var.choices) - 1)]

    def _assemble(self, states: Sequence[Table]) -> BitAllocation:
        """Return the allocation in which every variable has these widths."""
        weights: list[Any] = [0] * len(self.layers)
        activations: list[Any] = [0] * len(self.layers)
        for var, state in zip(self.variables, states, strict=True):
            bits = int(state[0]) if len(state) == 1 else state
            for slot in var.slots:
                (weights if slot.operand == "weight" else activations)[slot.layer] = bits
        return BitAllocation(self._names, weights, activations)


def _operand(allocation: BitAllocation, slot: Slot) -> Bits:
    both = allocation.weights if slot.operand == "weight" else allocation.activations
    return both[slot.layer]


def _show(bits: Bits) -> str:
    return str(bits) if isinstance(bits, int) else f"{bits.size} widths"


def _show_choices(choices: Sequence[int]) -> str:
    return ", ".join(map(str, choices))
