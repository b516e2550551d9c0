"""The levels of precision that a deployed network switches between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ...spaces import BitAllocation, EnergyTableError, ModelError
from ..engine import Engine

NAMES = {2: ("low", "high"), 3: ("low", "mid", "high")}
"""What levels are called, by how many there are."""


class Prices(Protocol):
    """What prices allocations: an `bitfront.energy.EnergyModel`, which is on the same floor."""

    @property
    def w8a8(self) -> float:
        """Price of uniform 8 bit."""

    @property
    def unit_is_pj(self) -> bool:
        """Whether prices are absolute energies."""

    def energy(self, allocation: BitAllocation) -> float:
        """Return the price of an allocation."""


@dataclass(frozen=True)
class Level:
    """One precision of a deployed network.

    Attributes:
        name: What the audit log calls it.
        allocation: Its widths.
        energy: Of one inference, relative to uniform 8 bit.
        energy_pj: The same in pJ; None if the table has no absolute scale.
        run: From a batch of inputs to logits, with everything prepared.
    """

    name: str
    allocation: BitAllocation
    energy: float
    energy_pj: float | None
    run: Callable[[Tensor], Tensor]


def check_levels(levels: Sequence[Level]) -> None:
    """Check that levels can be switched between.

    Raises:
        ModelError: If there are fewer than two, names repeat, they are of different layers, or one
            does not cost more than the one before.
    """
    if len(levels) < 2:
        raise ModelError(f"a controller switches between at least 2 levels, got {len(levels)}")
    names = [level.name for level in levels]
    if len(set(names)) < len(names):
        raise ModelError(f"the names of levels must differ, got {names}")
    for lower, higher in pairwise(levels):
        if lower.allocation.layers != higher.allocation.layers:
            raise ModelError(f"levels {lower.name!r} and {higher.name!r} are of different layers")
        if not lower.energy < higher.energy:
            raise ModelError(
                f"level {lower.name!r} must cost less than {higher.name!r}, but it costs "
                f"{lower.energy:.4g} of uniform 8 bit and {higher.name!r} {higher.energy:.4g}; "
                f"put them in the order of their costs"
            )


def prepare_levels(
    engine: Engine,
    prices: Prices,
    allocations: Sequence[BitAllocation],
    example: Tensor,
    *,
    names: Sequence[str] | None = None,
) -> tuple[Level, ...]:
    """Bind allocations of a network, so that switching is choosing another of them.

    Each is run once, which packs its weights: the first switch is as quick as all others.

    Args:
        engine: Runs the network.
        prices: Prices allocations of its layers.
        allocations: From the cheapest to the highest precision.
        example: A few inputs.
        names: What to call them; low, mid and high if None.

    Raises:
        ModelError: If an allocation is not of this network, or does not cost more than the one
            before.
        EnergyTableError: If the table does not support a width.
    """
    if names is None:
        names = NAMES.get(len(allocations), [f"level{n}" for n in range(len(allocations))])
    if not prices.w8a8 > 0:
        raise EnergyTableError("the energy table has no price for uniform 8 bit; choose another")
    levels = []
    for name, allocation in zip(names, allocations, strict=True):
        cost = prices.energy(allocation)
        run = _first_of(engine.prepare([allocation]))
        pj = cost if prices.unit_is_pj else None
        levels.append(Level(name, allocation, cost / prices.w8a8, pj, run))
    check_levels(levels)
    for level in levels:
        level.run(example[:1])
    return tuple(levels)


def _first_of(run: Callable[[Tensor], list[Tensor]]) -> Callable[[Tensor], Tensor]:
    @torch.inference_mode()
    def first(x: Tensor) -> Tensor:
        return run(x)[0]

    return first
