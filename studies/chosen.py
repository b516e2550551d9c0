"""Which widths a dynamic network chose, and where: by layer, by depth, by role in attention."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces import InputGroup, Measurement, Operand, Usage
from ..spaces.slots import OPERANDS

TERCILES = ("low", "middle", "high")
"""What thirds of the inputs are called, by the entropy of their histograms."""

_THIRDS = 3

_ROLES = {
    ("qk", "activation"): "Q",
    ("qk", "weight"): "K",
    ("av", "activation"): "softmax",
    ("av", "weight"): "V",
}
"""What operands of the two products of an attention are, by the last part of the layer's name; see
`bitfront.models.attention`."""


@dataclass(frozen=True, slots=True)
class SlotChoices:
    """What was chosen for one operand.

    Attributes:
        layer: Number of the layer.
        operand: The operand.
        decisions: How many there are for an input: channels, or groups of them.
        shares: Mean share of the decisions by width, ascending; they sum to 1.
    """

    layer: int
    operand: Operand
    decisions: int
    shares: dict[int, float]

    @property
    def wide(self) -> float:
        """Share of the largest width there was to choose."""
        return self.shares[max(self.shares)]


def slot_choices(usage: Usage) -> list[SlotChoices]:
    """Return what was chosen for every operand that has a selector, in the network's order."""
    dynamic = usage.allocation
    found = []
    for selector in dynamic.selectors:
        layer = dynamic.layers.index(selector.layer)
        column = OPERANDS.index(selector.operand)
        widths = dynamic.choices[selector.layer, selector.operand]
        shares = {width: usage.share_of(layer, column, width) for width in widths}
        found.append(SlotChoices(layer, selector.operand, selector.channels, shares))
    return sorted(found, key=lambda slot: (slot.layer, -OPERANDS.index(slot.operand)))


def wide_share(usage: Usage) -> float:
    """Return the share of decisions for the largest width; of a cascade, what its last answered."""
    if usage.allocation.kind == "cascade":
        return usage.answered[-1]
    return _wide(slot_choices(usage))


def early_and_late(usage: Usage) -> tuple[float, float] | None:
    """Return the share of the largest width in the first and in the last third of the layers.

    Layers that choose nothing are not among them. None if fewer than three do.
    """
    slots = slot_choices(usage)
    layers = sorted({slot.layer for slot in slots})
    if len(layers) < _THIRDS:
        return None
    early, *_, late = np.array_split(layers, _THIRDS)
    return _wide(s for s in slots if s.layer in early), _wide(s for s in slots if s.layer in late)


def width_shares(usage: Usage) -> dict[int, float]:
    """Return the share of decisions by width, over all operands that have a selector."""
    slots = slot_choices(usage)
    widths = sorted({width for slot in slots for width in slot.shares})
    whole = sum(slot.decisions for slot in slots)
    return {
        width: sum(slot.decisions * slot.shares.get(width, 0.0) for slot in slots) / whole
        for width in widths
    }


def attention_shares(usage: Usage) -> dict[str, float]:
    """Return the share of the largest width of queries, keys, softmax and values; of what chooses.

    Empty for a network without attention.
    """
    roles: dict[str, list[SlotChoices]] = {}
    for slot in slot_choices(usage):
        last = usage.allocation.layers[slot.layer].rpartition(".")[2]
        if (role := _ROLES.get((last, slot.operand))) is not None:
            roles.setdefault(role, []).append(slot)
    return {role: _wide(roles[role]) for role in _ROLES.values() if role in roles}


def named_terciles(usage: Usage) -> dict[str, InputGroup]:
    """Return the thirds of the inputs by name; nothing of fewer than three inputs."""
    complete = len(usage.terciles) == len(TERCILES)
    return dict(zip(TERCILES, usage.terciles, strict=True)) if complete else {}


def computed_shares(usage: Usage, operand: Operand) -> list[dict[int, float]]:
    """Return, for each layer, how much of it was computed with an operand at each width, of 1."""
    column = OPERANDS.index(operand)
    found = []
    for layer, triples in enumerate(usage.shares):
        widths = sorted({(weight, activation)[column] for weight, activation, _ in triples})
        found.append({width: usage.share_of(layer, column, width) for width in widths})
    return found


def mean_widths(measurement: Measurement, operand: Operand) -> list[float]:
    """Return the mean width of an operand by layer, over channels and what was chosen for inputs.

    What is computed several times, as in cascades, counts as often.
    """
    if measurement.dynamic is not None:
        shares = computed_shares(measurement.dynamic, operand)
        return [sum(width * share for width, share in mine.items()) for mine in shares]
    allocation = measurement.allocation
    widths = allocation.weights if operand == "weight" else allocation.activations
    return [float(np.mean(width)) for width in widths]


def _wide(slots: Iterable[SlotChoices]) -> float:
    counted: Sequence[SlotChoices] = list(slots)
    return float(np.average([s.wide for s in counted], weights=[s.decisions for s in counted]))
