"""What a network costs that chooses its widths while it runs, deciding included.

Energies are means over inputs. The cost of a layer is linear in how much of it is computed at which
widths, except for tiled DRAM traffic, where it is taken as linear between homogeneous layers.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..spaces import DynamicAllocation, EnergyTableError, Layer, Selector, Usage
from .model import Costs, EnergyModel
from .schema import EnergyTable
from .size import PARAMETER_BITS, size_bytes
from .terms import Floats, Terms

SELECTOR_BITS = 8
"""Width of everything that decides: statistics, weights and hidden units of selectors."""

_OPERATIONS_PER_CLASS = 2
"""Of a confidence: an exponential and an addition, each counted as a multiply-accumulate."""


def selector_costs(energy: EnergyModel, selectors: Sequence[Selector]) -> Floats:
    """Return what selectors cost for one input, in the table's unit.

    Every operation counts as a multiply-accumulate of 8 bits. The weights cross all memories, as
    those of layers do. The values looked at are on the chip already, since their layer reads them:
    they are read from its buffers once more, and nothing else leaves the chip.

    Args:
        energy: Prices the network.
        selectors: ``S`` selectors.

    Returns:
        ``S`` costs.

    Raises:
        EnergyTableError: If the table prices the layers of one network only.
    """
    table = energy.table
    if table.rows is not None:
        raise EnergyTableError(
            f"table {table.id} prices whole layers of one network, and so no selectors of widths; "
            f"choose a table that prices multiply-accumulates"
        )
    return _costs_on_chip(energy, [_as_layer(selector) for selector in selectors])


def decision_cost(energy: EnergyModel, dynamic: DynamicAllocation) -> float:
    """Return what one decision costs, in the table's unit.

    Args:
        energy: Prices the network.
        dynamic: What is decided: all channels of a network by its selectors, or whether a member of
            a cascade is confident enough, which is next to nothing and free in a table of whole
            layers.

    Raises:
        EnergyTableError: If the table cannot price selectors.
    """
    if dynamic.kind == "channels":
        return math.fsum(selector_costs(energy, dynamic.selectors))
    if energy.table.rows is not None:
        return 0.0
    operations = _OPERATIONS_PER_CLASS * dynamic.classes
    classes = dynamic.classes
    softmax = Layer("confidence", "linear", operations, 0, 0, 0, 0, classes, 1)
    return float(_costs_on_chip(energy, [softmax])[0])


def usage_energy(energy: EnergyModel, usage: Usage) -> float:
    """Return the mean energy of an input, in the table's unit.

    Raises:
        EnergyTableError: If the table does not support a width, or cannot price selectors.
    """
    layers = _weighted(energy.layer_costs, usage)
    if math.isnan(layers):
        for member in usage.allocation.members:
            energy.price(member)  # says which width of which layer
    return layers + usage.decisions * decision_cost(energy, usage.allocation)


def usage_costs(energy: EnergyModel, usage: Usage) -> Costs:
    """Return every cost of what was chosen.

    Energy and bit operations are means over inputs, and mean widths those of what was computed. The
    size is that of all that has to be stored: selectors, and of a cascade the weights at every
    width that a member has them.

    Raises:
        EnergyTableError: If the table does not support a width, or cannot price selectors.
    """
    total = usage_energy(energy, usage)
    macs, weights, values, rights = (
        np.array([getattr(layer, name) for layer in energy.layers], dtype=np.float64)
        for name in ("macs", "weight_count", "input_count", "operand_count")
    )
    weight = np.arange(energy.layer_costs.shape[1], dtype=np.float64)[:, None]
    activation = weight.T
    one = np.ones_like(weight * activation)

    def mean_width(*operands: tuple[Floats, Floats]) -> float:
        bits = sum(_weighted(_outer(counts, width * one), usage) for counts, width in operands)
        whole = sum(_weighted(_outer(counts, one), usage) for counts, _ in operands)
        return bits / whole if whole else math.nan

    computed = _weighted(_outer(macs, weight * activation), usage)
    decided = sum(selector.macs for selector in usage.allocation.selectors) * SELECTOR_BITS**2
    return Costs(
        energy=total,
        energy_pj=total if energy.unit_is_pj else None,
        energy_vs_fp32=total / energy.fp32 if energy.fp32 else math.nan,
        energy_vs_w8a8=total / energy.w8a8 if energy.w8a8 else math.nan,
        size_bytes=_stored_bytes(energy.layers, usage.allocation),
        bops=round(computed + decided),
        mean_weight_bits=mean_width((weights, weight)),
        mean_activation_bits=mean_width((values, activation), (rights, weight)),
    )


def input_energies(
    energy: EnergyModel,
    dynamic: DynamicAllocation,
    choices: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]],
    decisions: Floats | float = 1.0,
) -> Floats:
    """Return the energy of every input, relative to uniform 8 bit.

    Args:
        energy: Prices the network.
        dynamic: What was chosen from.
        choices: For each layer the weight and the activation widths there are, ``k`` each, and how
            much of it every input had computed at these, ``n x k``.
        decisions: How often it was decided for each input.

    Returns:
        ``n`` energies.
    """
    total = decisions * decision_cost(energy, dynamic) + np.zeros(len(choices[0][2]))
    for number, (weights, activations, shares) in enumerate(choices):
        costs = energy.layer_costs[number, weights, activations]
        total += shares @ np.where(shares.any(axis=0), costs, 0.0)
    return total / energy.w8a8


def _weighted(costs: Floats, usage: Usage) -> float:
    """Return the sum of costs by layer and widths, each as often as it was incurred."""
    return math.fsum(
        share * costs[number, weight, activation]
        for number, triples in enumerate(usage.shares)
        for weight, activation, share in triples
        if share  # what was never chosen needs no price
    )


def _outer(by_layer: Floats, by_widths: Floats) -> Floats:
    return by_layer[:, None, None] * by_widths


def _stored_bytes(layers: Sequence[Layer], dynamic: DynamicAllocation) -> int:
    bits = 8 * size_bytes(layers, dynamic.widest)
    for selector in dynamic.selectors:
        bits += SELECTOR_BITS * selector.weight_count + PARAMETER_BITS * selector.bias_count
    if dynamic.kind == "channels":
        return -(-bits // 8)
    by_layer = zip(layers, *(member.weights for member in dynamic.members), strict=True)
    for layer, *widths in by_layer:
        if layer.kind == "matmul":
            continue
        for width in set(widths) - {widths[-1]}:  # the widest member's are counted
            bits += layer.weight_count * width + PARAMETER_BITS * layer.out_channels
    return -(-bits // 8)


def _as_layer(selector: Selector) -> Layer:
    return Layer(
        f"{selector.layer}.{selector.operand}.selector",
        "linear",
        macs=selector.macs,
        weight_count=selector.weight_count,
        bias_count=selector.bias_count,
        input_count=selector.values_read,
        output_count=0,
        in_channels=selector.channels,
        out_channels=selector.channels,
    )


def _costs_on_chip(energy: EnergyModel, layers: Sequence[Layer]) -> Floats:
    """Return the cost of layers at 8 bits of which only weights cross DRAM."""
    if not layers:
        return np.zeros(0)
    options = energy.options.model_copy(update={"reuse": "one_pass", "count_tokens": True})
    terms = Terms(_weights_only_from_dram(energy.table), layers, options)
    return terms.grid()[:, SELECTOR_BITS, SELECTOR_BITS]


def _weights_only_from_dram(table: EnergyTable) -> EnergyTable:
    memory = dict(table.memory)
    for name, level in memory.items():
        if level.kind == "dram":
            crossing = tuple(tensor for tensor in level.tensors if tensor == "weights")
            memory[name] = level.model_copy(update={"tensors": crossing})
    return table.model_copy(update={"memory": memory})
