"""What crosses the memories of a table.

*One pass.* Every weight and input crosses DRAM once and every output once: the least there can be.

*Tiled.* A buffer of ``B`` bits holds a part of one operand while the other streams past it. With
the weights held in ``n_w = ceil(weight bits / (B blocks))`` parts, the inputs come ``n_w`` times;
with the inputs held in ``n_i = ceil(input bits / (B blocks))``, the weights come ``n_i`` times. The
order with fewer bits is taken, layer by layer::

    min(weight bits + n_w * input bits, input bits + n_i * weight bits) + output bits

``blocks`` are parts of a layer that share nothing (groups, heads): cutting between them repeats no
read. A part holds whole sums, so that partial sums never leave the chip. If the buffer holds either
operand, or is unbounded, this is one pass.
"""

from typing import Any, NamedTuple

from .geometry import Geometry
from .parts import MemoryLevel
from .schema import EnergyTable

Array = Any


class Item(NamedTuple):
    """One entry of a breakdown: what the energy is spent on, and in which memory."""

    component: str
    level: str | None = None


class Stored(NamedTuple):
    """Widths in memory, each ``... x L`` (means, where channels differ).

    Attributes:
        weights: Of weights, and of the right operand of a matmul.
        biases: Of biases.
        inputs: Of inputs.
        outputs: Of outputs.
        sums: Of partial sums.
    """

    weights: Array
    biases: Array
    inputs: Array
    outputs: Array
    sums: Array


def memory_costs(
    table: EnergyTable, geometry: Geometry, stored: Stored, buffer_bytes: int | None, xp: Any
) -> dict[Item, Array]:
    """Return the cost of each tensor in each memory.

    Args:
        table: Its ``memory`` levels.
        geometry: ``L`` layers.
        stored: Widths, ``... x L``.
        buffer_bytes: Capacity of the buffer that tiles are made for; None for one pass.
        xp: ``numpy`` or ``torch``.
    """
    times_weights, times_inputs = 1.0, 1.0
    if buffer_bytes is not None:
        times_weights, times_inputs = _repeats(geometry, stored, 8.0 * buffer_bytes, xp)
    costs: dict[Item, Array] = {}
    for name, level in table.memory.items():
        if level.kind == "register_file":
            crossing = _per_mac(level, geometry, stored)
        elif level.kind == "dram":
            crossing = _per_value(level, geometry, stored, times_weights, times_inputs)
        else:
            crossing = _per_value(level, geometry, stored, 1.0, 1.0)
        costs |= {
            Item(tensor, name): cost for tensor, cost in crossing.items() if tensor in level.tensors
        }
    return costs


def _per_mac(level: MemoryLevel, geometry: Geometry, stored: Stored) -> dict[str, Array]:
    return {
        "weights": geometry.macs * stored.weights * level.read,
        "inputs": geometry.macs * stored.inputs * level.read,
        "accumulator": geometry.macs * stored.sums * (level.read + level.write),
    }


def _per_value(
    level: MemoryLevel,
    geometry: Geometry,
    stored: Stored,
    times_weights: Array,
    times_inputs: Array,
) -> dict[str, Array]:
    weight_bits = geometry.rights * stored.weights * times_weights
    return {
        "weights": (weight_bits + geometry.biases * stored.biases) * level.read,
        "inputs": geometry.inputs * stored.inputs * times_inputs * level.read,
        "outputs": geometry.outputs * stored.outputs * level.write,
    }


def _repeats(
    geometry: Geometry, stored: Stored, buffer_bits: float, xp: Any
) -> tuple[Array, Array]:
    """Return how often weights and inputs cross DRAM when tiled."""
    weight_bits = geometry.rights * stored.weights
    input_bits = geometry.inputs * stored.inputs
    parts_w = xp.clip(xp.ceil(weight_bits / (buffer_bits * geometry.blocks)), 1.0, None)
    parts_i = xp.clip(xp.ceil(input_bits / (buffer_bits * geometry.blocks)), 1.0, None)
    hold_weights = weight_bits + parts_w * input_bits <= input_bits + parts_i * weight_bits
    one = xp.ones_like(parts_w)
    return xp.where(hold_weights, one, parts_i), xp.where(hold_weights, parts_w, one)
