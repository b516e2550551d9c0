"""The operands a width is chosen for, and how a study names them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from .allocation import KNOWN_WIDTHS
from .errors import SpaceError, nearest
from .layer import Layer

Operand = Literal["weight", "activation"]
T = TypeVar("T")
OPERANDS: tuple[Operand, Operand] = ("weight", "activation")


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One operand of one layer.

    Attributes:
        layer: Index of the layer.
        operand: ``weight`` or ``activation``.
    """

    layer: int
    operand: Operand

    def show(self, layers: Sequence[Layer]) -> str:
        """Return the name users know it by, such as ``conv1.weight``."""
        return f"{layers[self.layer].name}.{self.operand}"


def slot_channels(layers: Sequence[Layer], slot: Slot, granularity: str) -> int:
    """Return how many widths a slot has: 1, or its channels in a per-channel space.

    The operands of an attention matmul have one width each in every space.
    """
    layer = layers[slot.layer]
    if granularity == "layer" or layer.kind == "matmul":
        return 1
    return layer.out_channels if slot.operand == "weight" else layer.in_channels


def slot_choices(
    layers: Sequence[Layer],
    weights: Sequence[int],
    activations: Sequence[int],
    first_last: int | None,
    pins: Mapping[str, Mapping[str, int]],
    choices: Mapping[str, Mapping[str, Sequence[int]]],
) -> dict[Slot, tuple[int, ...]]:
    """Return the widths every slot may take; see `BitSpace.build` for the arguments.

    What is said later and of fewer layers wins: ``choices`` over the defaults, ``first_last`` over
    ``choices``, ``pins`` over all.

    Raises:
        SpaceError: If a width or a name is unknown.
    """
    if not layers:
        raise SpaceError("a space needs at least one layer, got none")
    default = {
        "weight": _widths("weights", weights),
        "activation": _widths("activations", activations),
    }
    allowed = {Slot(i, o): default[o] for i in range(len(layers)) for o in OPERANDS}
    for pattern, entry in choices.items():
        for operand, widths in _operands(f"choices of {pattern!r}", entry).items():
            for i in _matching(layers, pattern):
                allowed[Slot(i, operand)] = _widths(f"choices of {pattern!r}", widths)
    if first_last is not None:
        weighted = [i for i, layer in enumerate(layers) if layer.kind != "matmul"]
        for i in {weighted[0], weighted[-1]} if weighted else ():
            for operand in OPERANDS:
                allowed[Slot(i, operand)] = _widths("first_last", [first_last])
    for pattern, pin in pins.items():
        for operand, width in _operands(f"pin of {pattern!r}", pin).items():
            for i in _matching(layers, pattern):
                allowed[Slot(i, operand)] = _widths(f"pin of {pattern!r}", [width])
    return allowed


def tie_groups(
    layers: Sequence[Layer], ties: Sequence[str | Sequence[str]]
) -> list[tuple[Slot, ...]]:
    """Partition all slots into groups that share their width(s), in network order.

    Raises:
        SpaceError: If a name matches nothing.
    """
    parent = {Slot(i, o): Slot(i, o) for i in range(len(layers)) for o in OPERANDS}

    def root(slot: Slot) -> Slot:
        while parent[slot] != slot:
            slot = parent[slot]
        return slot

    for tie in ties:
        for group in _named_groups(layers, tie):
            for slot in group[1:]:
                low, high = sorted((root(group[0]), root(slot)), key=_network_order)
                parent[high] = low
    members: dict[Slot, list[Slot]] = {}
    for slot in sorted(parent, key=_network_order):
        members.setdefault(root(slot), []).append(slot)
    return [tuple(group) for group in members.values()]


def _network_order(slot: Slot) -> tuple[int, int]:
    return slot.layer, OPERANDS.index(slot.operand)


def _named_groups(layers: Sequence[Layer], tie: str | Sequence[str]) -> list[list[Slot]]:
    """Return the groups of slots that one entry of ``ties`` binds together."""
    if tie == "weights=activations":
        return [[Slot(i, o) for o in OPERANDS] for i in range(len(layers))]
    if tie == "shared-input":
        fed: dict[str, list[Slot]] = {}
        for i, layer in enumerate(layers):
            if layer.source:
                fed.setdefault(layer.source, []).append(Slot(i, "activation"))
        return list(fed.values())
    if isinstance(tie, str):
        raise SpaceError(
            f"a tie is a list of slots, 'weights=activations' or 'shared-input', got {tie!r}"
        )
    groups: dict[Operand, list[Slot]] = {"weight": [], "activation": []}
    mixed = False
    for name in tie:
        stem, _, suffix = name.rpartition(".")
        if suffix in OPERANDS:
            operand: Operand = "weight" if suffix == "weight" else "activation"
            groups[operand] += [Slot(i, operand) for i in _matching(layers, stem)]
            mixed = True
        else:
            for o in OPERANDS:
                groups[o] += [Slot(i, o) for i in _matching(layers, name)]
    # Slots named with their operand are all tied, whichever operand; whole layers, each to each.
    return [groups["weight"] + groups["activation"]] if mixed else list(groups.values())


def _matching(layers: Sequence[Layer], pattern: str) -> list[int]:
    found = [i for i, layer in enumerate(layers) if fnmatchcase(layer.name, pattern)]
    if not found:
        names = [layer.name for layer in layers]
        raise SpaceError(f"no layer matches {pattern!r}; {nearest(pattern, names)}")
    return found


def _operands(where: str, entry: Mapping[str, T]) -> dict[Operand, T]:
    if not entry or not set(entry) <= set(OPERANDS):
        raise SpaceError(f"{where} must have 'weight' and/or 'activation', got {list(entry)}")
    return {o: entry[o] for o in OPERANDS if o in entry}


def _widths(where: str, widths: Sequence[int]) -> tuple[int, ...]:
    values = tuple(sorted(set(widths)))
    if not values:
        raise SpaceError(f"{where}: expected at least one width, got none")
    if unknown := [w for w in values if w not in KNOWN_WIDTHS]:
        known = ", ".join(map(str, KNOWN_WIDTHS))
        raise SpaceError(f"{where}: width {unknown[0]} is not one of {known}")
    return values
