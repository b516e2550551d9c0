"""Which operands of a network choose their widths, between which, and what that costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..energy import EnergyModel, decision_cost, selector_costs
from ..models.dynamic.settings import SelectorSettings
from ..spaces import (
    BitAllocation,
    Bits,
    BitSpace,
    DynamicAllocation,
    InfeasibleError,
    Operand,
    Selector,
    Usage,
)
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS, Slot
from .budget import limit_text
from .pricing import Pricing, is_within, shown_cost
from .problem import Problem

if TYPE_CHECKING:
    from ..models.dynamic.fit import Operand as FittedOperand
    from ..models.dynamic.layout import Layout
    from ..models.dynamic.prices import Prices

Place = tuple[str, Operand]
"""A layer's name and which of its operands."""

Shares = Mapping[Place, npt.NDArray[np.float64]]
"""For each operand that chooses, how much of it is at which of its widths, ascending."""

REFERENCE_BITS = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """What there is to choose.

    Attributes:
        dynamic: Its members and selectors.
        operands: What chooses.
        prices: What choices cost.
        left_out: See `Offer`.
    """

    dynamic: DynamicAllocation
    operands: "Mapping[Place, FittedOperand]"
    prices: "Prices"
    left_out: Mapping[Place, float]


@dataclass(frozen=True, eq=False)
class Offer:
    """What may choose, whatever the widths of the rest.

    Attributes:
        operands: What chooses.
        selectors: By what, in the same order.
        left_out: Of operands that could choose but for the cost of their selector: that, as a share
            of what their layer costs at 8 bits.
    """

    operands: "Mapping[Place, FittedOperand]"
    selectors: tuple[Selector, ...]
    left_out: Mapping[Place, float]


def require_selector_prices(pricing: Pricing) -> None:
    """Check that the study's table can price selectors.

    Raises:
        EnergyTableError: If it prices the layers of one network only.
    """
    selector_costs(pricing.energy, [Selector("any", "activation", channels=1, positions=1)])


def choosing(space: BitSpace, widths: Sequence[int]) -> dict[Slot, tuple[int, ...]]:
    """Return the operands that may choose, and between which widths.

    These are activations that are not tied to anything, have two of the widths or more, and whose
    widths are forbidden with no width of the other operand.
    """
    found = {}
    for variable in space.variables:
        (slot, *tied) = variable.slots
        layer = space.layers[slot.layer]
        if tied or (slot.operand == "weight" and layer.kind != "matmul"):
            continue
        mine = tuple(bits for bits in variable.choices if bits in widths)
        place = int(slot.operand == "activation")
        forbidden = {pair[place] for pair in space.forbid}
        mine = tuple(bits for bits in mine if bits not in forbidden)
        if len(mine) > 1:
            found[slot] = mine
    return found


def narrowed(space: BitSpace, widths: Sequence[int], most_weight_bits: int | None) -> BitSpace:
    """Return the static part of a space that choices are made around.

    Args:
        space: The space, one width per operand.
        widths: Of activations that choose.
        most_weight_bits: Largest width of weights that have a choice; None for any.
    """
    free = choosing(space, widths)
    variables = []
    for variable in space.variables:
        choices = free.get(variable.slots[0], variable.choices)
        is_weight = any(
            slot.operand == "weight" and space.layers[slot.layer].kind != "matmul"
            for slot in variable.slots
        )
        if is_weight and most_weight_bits is not None:
            low = tuple(bits for bits in choices if bits <= most_weight_bits)
            choices = low or choices[:1]
        variables.append(replace(variable, choices=choices))
    return BitSpace(space.layers, variables, space.forbid)


def pinned(space: BitSpace, base: BitAllocation) -> BitSpace:
    """Return the part of a space that has the weights of an allocation."""

    def fixed(variable: Variable) -> Variable:
        for slot in variable.slots:
            if slot.operand == "weight" and space.layers[slot.layer].kind != "matmul":
                return replace(variable, choices=(int(np.max(base.weights[slot.layer])),))
        return variable

    return BitSpace(space.layers, [fixed(v) for v in space.variables], space.forbid)


def offered(
    space: BitSpace,
    energy: EnergyModel,
    settings: SelectorSettings,
    layouts: "Mapping[Place, Layout]",
) -> Offer:
    """Return what may choose.

    Args:
        space: The space.
        energy: Prices the network.
        settings: What selectors there are.
        layouts: Of all operands that could choose.

    Raises:
        EnergyTableError: If the table cannot price selectors.
    """
    from ..models.dynamic.fit import Operand as FittedOperand

    free = choosing(space, settings.widths)
    operands: dict[Place, FittedOperand] = {}
    selectors: list[Selector] = []
    left_out: dict[Place, float] = {}
    for slot, widths in sorted(free.items(), key=lambda each: (each[0].layer, each[0].operand)):
        layer = space.layers[slot.layer]
        place: Place = layer.name, slot.operand
        layout = layouts.get(place)
        if layout is None or not _is_wanted(layer.kind == "matmul", layout, settings.attention):
            continue
        selector = Selector(
            layer.name,
            slot.operand,
            layout.decisions,
            layout.positions(settings.positions),
            settings.hidden,
            settings.selectors == "shared",
        )
        (cost,) = selector_costs(energy, [selector])
        share = float(cost / energy.layer_costs[slot.layer, REFERENCE_BITS, REFERENCE_BITS])
        if not share <= settings.max_overhead:
            left_out[place] = share
            continue
        operands[place] = FittedOperand(widths, layout)
        selectors.append(selector)
    return Offer(operands, tuple(selectors), left_out)


def plan(
    space: BitSpace,
    energy: EnergyModel,
    base: BitAllocation,
    settings: SelectorSettings,
    layouts: "Mapping[Place, Layout]",
) -> Plan | None:
    """Return what there is to choose; None if there is nothing.

    Args:
        space: The space.
        energy: Prices the network.
        base: Widths of all that does not choose.
        settings: What selectors there are.
        layouts: Of all operands that could choose.

    Raises:
        EnergyTableError: If the table cannot price selectors.
        SpaceError: If what there is to choose between is not in the space.
    """
    offer = offered(space, energy, settings, layouts)
    if not offer.operands:
        return None
    dynamic = DynamicAllocation("channels", _members(base, offer.operands), offer.selectors)
    for member in dynamic.members:
        space.validate(member)
    return Plan(dynamic, offer.operands, _prices(energy, dynamic), offer.left_out)


def widest_plan(
    space: BitSpace,
    pricing: Pricing,
    limits: Mapping[str, float],
    settings: SelectorSettings,
    weights: int,
    layouts: "Mapping[Place, Layout]",
) -> Plan | None:
    """Return the plan with the widest uniform weights that can be within limits.

    Args:
        space: The space.
        pricing: Prices the network.
        limits: What has to be met, if not by the widest choices then by the narrowest.
        settings: What selectors there are.
        weights: Largest width of the weights.
        layouts: Of all operands that could choose.

    Returns:
        The plan; None if there is nothing to choose.

    Raises:
        InfeasibleError: If no width of the weights is within the limits.
    """
    smallest = dict.fromkeys(limits, math.inf)
    for bits in range(weights, 1, -1):
        found = plan(
            space, pricing.energy, space.uniform(bits, settings.widths[-1]), settings, layouts
        )
        if found is None:
            return None
        narrowest = {place: np.eye(len(o.widths))[0] for place, o in found.operands.items()}
        usage = usage_of(pricing.energy, found.dynamic, narrowest, 1)
        prices = {name: pricing.price_of_usage(usage, name) for name in limits}
        if all(is_within(prices[name], limits[name]) for name in limits):
            return found
        smallest = {name: min(price, smallest[name]) for name, price in prices.items()}
    said = ", ".join(
        f"{name} {shown_cost(smallest[name])} (limit {limit_text(limit)})"
        for name, limit in limits.items()
    )
    raise InfeasibleError(
        f"activations of {settings.widths[0]} bits with their selectors, and weights of at most "
        f"{weights} bits, are not within the limits; the smallest achievable is {said}: raise the "
        f"limit or allow smaller widths"
    )


def note_static(problem: Problem, settings: SelectorSettings, offer: Offer) -> None:
    """Say what does not choose, where it could have but for what that costs."""
    if offer.left_out:
        most = f"max_overhead of {100 * settings.max_overhead:g} %"
        dearest = max(offer.left_out, key=lambda place: offer.left_out[place])
        count = len(offer.left_out)
        who = f"{count} activation{' has' if count == 1 else 's have'} one width for all inputs"
        note = (
            f"{who if offer.operands else f'nothing chooses: {who}'}, since selectors would cost "
            f"more than the {most} of the layer; most of all that of {dearest[0]} with "
            f"{100 * offer.left_out[dearest]:.1f} %"
        )
    elif not offer.operands:
        besides = "" if settings.attention else ", besides those of attention, which are not asked"
        note = (
            f"nothing chooses: the space leaves no activation two of the widths "
            f"{list(settings.widths)} to choose from{besides}"
        )
    else:
        return
    problem.findings.setdefault("notes", []).append(note)


def usage_of(energy: EnergyModel, dynamic: DynamicAllocation, shares: Shares, inputs: int) -> Usage:
    """Return what choices come to, if operands of one layer choose independently of each other."""
    layers = []
    for number, name in enumerate(dynamic.layers):
        pairs: list[tuple[tuple[int, ...], npt.NDArray[np.float64]]] = []
        for operand in OPERANDS:
            widths = dynamic.widths(number, operand)
            pairs.append((widths, shares.get((name, operand), np.ones(1))))
        (weights, often), (activations, as_often) = pairs
        layers.append(
            tuple(
                (w, a, float(often[i] * as_often[j]))
                for i, w in enumerate(weights)
                for j, a in enumerate(activations)
            )
        )
    deciding = decision_cost(energy, dynamic) / energy.w8a8
    return Usage(dynamic, inputs, tuple(layers), deciding=deciding)


def _is_wanted(is_product: bool, layout: "Layout", attention: bool) -> bool:
    return attention or not (is_product or layout.group > 1)


def _members(
    base: BitAllocation, operands: "Mapping[Place, FittedOperand]"
) -> tuple[BitAllocation, ...]:
    most = max(len(operand.widths) for operand in operands.values())
    members = []
    for number in range(most):
        both = {operand: list(_widths(base, operand)) for operand in OPERANDS}
        for (name, operand), chosen in operands.items():
            bits = chosen.widths[min(number, len(chosen.widths) - 1)]
            both[operand][base.layers.index(name)] = bits
        members.append(BitAllocation(base.layers, both["weight"], both["activation"]))
    return tuple(members)


def _widths(allocation: BitAllocation, operand: Operand) -> tuple[Bits, ...]:
    return allocation.weights if operand == "weight" else allocation.activations


def _prices(energy: EnergyModel, dynamic: DynamicAllocation) -> "Prices":
    from ..models.dynamic.prices import LayerPrice, Prices

    layers, rest = [], [decision_cost(energy, dynamic) / energy.w8a8]
    for number, name in enumerate(dynamic.layers):
        rows, columns = (dynamic.widths(number, operand) for operand in OPERANDS)
        costs = energy.layer_costs[np.ix_([number], rows, columns)][0] / energy.w8a8
        if costs.size > 1:
            layers.append(LayerPrice(name, costs))
        else:
            rest.append(float(costs[0, 0]))
    return Prices(layers, math.fsum(rest))
