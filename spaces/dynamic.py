"""What a network may choose from while it runs, and what it chose.

A *dynamic* allocation is several static ones, its members, and a way to decide between them for
each input: channel by channel, or for the whole network at once.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from .allocation import BitAllocation
from .errors import SpaceError
from .slots import OPERANDS, Operand

DynamicKind = Literal["channels", "cascade"]

STATISTICS = 4
"""What a selector looks at: mean, variance, largest magnitude and entropy of a channel."""

_OPERATIONS_PER_VALUE = 4
"""Of the four statistics: an addition, a multiply-accumulate, a comparison, a count."""

ENTROPY_BINS = 8
"""Bins of the histogram that a channel's entropy is taken of."""


@dataclass(frozen=True, slots=True)
class Selector:
    """What decides the widths of one operand's channels: statistics, and a two-layer network.

    Attributes:
        layer: Name of the layer.
        operand: The operand; ``weight`` is the right one of a product of two activations.
        channels: How many decisions there are for an input: channels, or groups of them.
        positions: Values of each that are looked at.
        hidden: Hidden units of the network.
        shared: Whether all channels have one network, and a threshold each; if not, each has a
            network of its own.
    """

    layer: str
    operand: Operand
    channels: int
    positions: int
    hidden: int = 8
    shared: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a decision for all channels; each operation counts as one."""
        statistics = _OPERATIONS_PER_VALUE * self.positions + ENTROPY_BINS
        products = (STATISTICS + 1) * self.hidden
        scalings = STATISTICS + self.hidden
        return self.channels * (statistics + products + scalings)

    @property
    def values_read(self) -> int:
        """Values of the operand that are read once more."""
        return self.channels * self.positions

    @property
    def weight_count(self) -> int:
        """Weights of the network."""
        return (1 if self.shared else self.channels) * (STATISTICS + 1) * self.hidden

    @property
    def bias_count(self) -> int:
        """Scales, shifts and biases of the network, and a threshold for each channel."""
        scalings = 2 * (STATISTICS + self.hidden)
        return (1 if self.shared else self.channels) * scalings + self.channels


@dataclass(frozen=True)
class DynamicAllocation:
    """What a network chooses from for each input.

    ``channels``: every operand that has several widths among the members is given one of them for
    each of its channels, by its selector. ``cascade``: the first member answers; where it is not
    confident enough, others do, see `bitfront.models.dynamic.cascade`.

    Attributes:
        kind: How it is chosen.
        members: Static allocations of the same layers, widths rising from one to the next for
            ``channels``.
        selectors: For ``channels``: of every operand that has several widths.
        thresholds: For ``cascade``: of the confidence, falling; one fewer than members.
        temperatures: For ``cascade``: what logits are divided by before confidence is taken, for
            each member but the last.
        classes: For ``cascade``: how many there are.

    Raises:
        SpaceError: If these do not fit together.
    """

    kind: DynamicKind
    members: tuple[BitAllocation, ...]
    selectors: tuple[Selector, ...] = ()
    thresholds: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    classes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("channels", "cascade"):
            raise SpaceError(f"a dynamic allocation is 'channels' or 'cascade', got {self.kind!r}")
        if len(self.members) < 2:
            raise SpaceError(
                f"a dynamic allocation has at least 2 members, got {len(self.members)}"
            )
        if any(member.layers != self.layers for member in self.members):
            raise SpaceError("the members of a dynamic allocation must be of the same layers")
        if not all(member.is_layerwise for member in self.members):
            raise SpaceError("the members of a dynamic allocation have one width per operand")
        if self.kind == "channels":
            self._check_channels()
        else:
            self._check_cascade()

    def _check_channels(self) -> None:
        named = [(selector.layer, selector.operand) for selector in self.selectors]
        for number, name in enumerate(self.layers):
            for operand in OPERANDS:
                widths = [int(_widths(member, operand)[number]) for member in self.members]
                if widths != sorted(widths):
                    raise SpaceError(
                        f"widths must rise from member to member, got {widths} for {name}.{operand}"
                    )
                expected = int(len(set(widths)) > 1)
                if named.count((name, operand)) != expected:
                    raise SpaceError(
                        f"{name}.{operand} has widths {sorted(set(widths))} and "
                        f"{named.count((name, operand))} selectors, expected {expected}"
                    )
        if unknown := [layer for layer, _ in named if layer not in self.layers]:
            raise SpaceError(f"a selector is of layer {unknown[0]!r}, which there is not")
        if not self.selectors:
            raise SpaceError("nothing is chosen: all members have the same widths")

    def _check_cascade(self) -> None:
        if len(set(self.members)) < len(self.members):
            raise SpaceError("the members of a cascade must differ")
        if len(self.members) > 3:
            raise SpaceError(f"a cascade has 2 or 3 members, got {len(self.members)}")
        check_thresholds(self.thresholds, len(self.members))
        if len(self.temperatures) != len(self.members) - 1 or not all(
            0 < t < math.inf for t in self.temperatures
        ):
            raise SpaceError(
                "a cascade needs a positive temperature for each member but the last, got "
                f"{list(self.temperatures)} for {len(self.members)} members"
            )
        if self.classes < 2:
            raise SpaceError(f"a cascade needs at least 2 classes, got {self.classes}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return self.members[0].layers

    @property
    def widest(self) -> BitAllocation:
        """The last member, which it may come to."""
        return self.members[-1]

    def widths(self, layer: int, operand: Operand) -> tuple[int, ...]:
        """Return the widths that an operand may have, ascending; for ``channels``."""
        return tuple(sorted({int(_widths(member, operand)[layer]) for member in self.members}))

    @cached_property
    def choices(self) -> Mapping[tuple[str, Operand], tuple[int, ...]]:
        """The widths of every operand that has a selector, ascending."""
        return {
            (selector.layer, selector.operand): self.widths(
                self.layers.index(selector.layer), selector.operand
            )
            for selector in self.selectors
        }

    @cached_property
    def key(self) -> str:
        """A hexadecimal name of the content."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "kind": self.kind,
            "members": [member.to_dict() for member in self.members],
            "selectors": [
                {field.name: getattr(selector, field.name) for field in fields(selector)}
                for selector in self.selectors
            ],
            "thresholds": list(self.thresholds),
            "temperatures": list(self.temperatures),
            "classes": self.classes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DynamicAllocation":
        """Build a dynamic allocation from what `to_dict` returns.

        Raises:
            SpaceError: If it is not such a value.
        """
        try:
            return cls(
                values["kind"],
                tuple(BitAllocation.from_dict(member) for member in values["members"]),
                tuple(Selector(**selector) for selector in values["selectors"]),
                tuple(map(float, values["thresholds"])),
                tuple(map(float, values["temperatures"])),
                int(values["classes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"this is no dynamic allocation: {error}") from error


def check_thresholds(thresholds: Sequence[float], members: int) -> None:
    """Check the thresholds of a cascade.

    Args:
        thresholds: Confidence from which the first member's answer stays; then, where there are
            three members, confidence below which the last one answers.
        members: How many members there are.

    Raises:
        SpaceError: If there are too many or too few, one is no share, or they do not fall.
    """
    if len(thresholds) != members - 1:
        wanted = "1 threshold" if members == 2 else f"{members - 1} thresholds"
        raise SpaceError(f"a cascade of {members} members has {wanted}, got {len(thresholds)}")
    if not all(0.0 <= threshold <= 1.0 for threshold in thresholds):
        raise SpaceError(f"thresholds of confidence are in [0, 1], got {list(thresholds)}")
    if list(thresholds) != sorted(thresholds, reverse=True):
        raise SpaceError(
            f"thresholds of a cascade fall, such as [0.9, 0.6]: an answer stays from the first on "
            f"and is redone in the highest precision below the last; got {list(thresholds)}"
        )


def _widths(allocation: BitAllocation, operand: Operand) -> tuple[Any, ...]:
    return allocation.weights if operand == "weight" else allocation.activations
