"""The cost terms of one table applied to one network: what `EnergyModel` adds up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import FLOAT_BITS, KNOWN_WIDTHS, EnergyTableError, Layer
from . import laws
from .geometry import MAX_BITS, Geometry
from .options import EnergyOptions
from .rows import row_costs
from .schema import EnergyTable
from .table import with_dram
from .traffic import Item, Stored, memory_costs

Array = Any
Floats = npt.NDArray[np.float64]

WIDTHS = np.arange(MAX_BITS + 1)

MULTIPLY, ACCUMULATE, STATIC, LAYER = map(Item, ("multiply", "accumulate", "static", "layer"))


class Terms:
    """A table with its options, on the geometry of a network.

    Args:
        table: The numbers.
        layers: The network, ``L`` layers.
        options: How to apply them.

    Attributes:
        table: The table, its DRAM replaced if the options say so.
        geometry: The layers' sizes, ``L`` entries each.
        arithmetic: Cost of the multiply-accumulates (or of whole layers, for a table of rows) by
            item, each ``L x 33 x 33`` by weight and activation width; NaN if unsupported.
        sums: Width of partial sums, ``L x 33 x 33``.
        stored: Width at which values of each width are stored, ``33``; NaN if unsupported.

    Raises:
        EnergyTableError: If the table is of another network, or an option asks for what the
            table does not have.
    """

    def __init__(self, table: EnergyTable, layers: Sequence[Layer], options: EnergyOptions) -> None:
        if options.static_power and table.static is None:
            raise EnergyTableError(f"table {table.id} gives no static power; drop static_power")
        self.table = table if options.dram is None else with_dram(table, options.dram)
        self.options = options
        self.buffer_bytes = tiling_capacity(table, options)
        counted = table.count_tokens if options.count_tokens is None else options.count_tokens
        self.geometry = Geometry.of(layers, count_tokens=counted)
        w, a = _all_pairs(WIDTHS.astype(np.float64))
        sums = self._sum_widths(w, a, np, self.geometry)
        self.sums = _layers_first(sums)
        if table.rows is not None:
            self.arithmetic = {LAYER: options.mac_scale * row_costs(table, layers, WIDTHS)}
        else:
            costs = self._arithmetic(w, a, sums, np, self.geometry)
            grids = {item: _layers_first(cost) for item, cost in costs.items()}
            self.arithmetic = {
                i: np.where(_priced(table), grid, np.nan) for i, grid in grids.items()
            }
        self.stored = laws.stored_widths(table.storage_widths, WIDTHS)

    def grid(self) -> Floats:
        """Return the cost of each layer by weight and activation width, ``L x 33 x 33``."""
        w, a = _all_pairs(self.stored)
        sums = self.sums.transpose(1, 2, 0)
        memory = self._memory(w, a, self._output_widths(a, np), sums, np, self.geometry)
        total = np.zeros_like(self.sums)
        for cost in self.arithmetic.values():
            total = total + cost
        for cost in memory.values():
            total = total + _layers_first(cost)
        known = np.isin(WIDTHS, KNOWN_WIDTHS)
        return np.where(known[:, None] & known, total, np.nan)

    def mixed(self, fractions: Floats) -> dict[Item, Floats]:
        """Return the cost of each layer and item where channels may differ in width.

        Args:
            fractions: Which part of a layer's multiply-accumulates has which widths, ``L x 33 x
                33``, none of them unsupported.
        """
        costs: dict[Item, Floats] = {
            item: (fractions * np.nan_to_num(grid)).sum(axis=(1, 2))
            for item, grid in self.arithmetic.items()
        }
        by_weight, by_activation = fractions.sum(axis=2), fractions.sum(axis=1)
        stored = np.nan_to_num(self.stored)
        return costs | self._memory(
            by_weight @ stored,
            by_activation @ stored,
            by_activation @ self._output_widths(stored, np),
            (fractions * self.sums).sum(axis=(1, 2)),
            np,
            self.geometry,
        )

    def continuous(self, w: Array, a: Array, xp: Any, geometry: Geometry) -> Array:
        """Return the cost of each layer, ``... x L``, for a table that `is_formula`.

        Args:
            w: Weight widths, ``... x L``.
            a: Activation widths, ``... x L``.
            xp: ``numpy`` or ``torch``.
            geometry: `geometry` in that namespace.
        """
        sums = self._sum_widths(w, a, xp, geometry)
        costs = self._arithmetic(w, a, sums, xp, geometry)
        costs |= self._memory(w, a, self._output_widths(a, xp), sums, xp, geometry)
        return sum(costs.values(), 0.0 * geometry.macs)

    def notes(self) -> tuple[str, ...]:
        """Return what a reader should know before trusting a price."""
        table, options = self.table, self.options
        notes = [f"table {table.id}, evidence: {table.evidence.level}"]
        notes += [f"{name} is {level}, not confirmed" for name, level in table.weak_parts.items()]
        if table.quantity != "energy":
            notes.append(f"this is {table.quantity} in {table.unit}, not energy")
        elif not options.static_power:
            notes.append("dynamic energy only: static power is not included")
        if options.dram is not None:
            notes.append(f"DRAM replaced by {options.dram} of dram-interfaces")
        if self.buffer_bytes is not None:
            notes.append(f"DRAM traffic of layers tiled for a buffer of {self.buffer_bytes} bytes")
        return tuple(notes)

    def _arithmetic(
        self, w: Array, a: Array, sums: Array, xp: Any, geometry: Geometry
    ) -> dict[Item, Array]:
        """Return the cost of the multiply-accumulates, ``... x L``; NaN if unsupported."""
        table, macs = self.table, geometry.macs * self.options.mac_scale
        if table.points is not None:  # whole widths only: see `EnergyTable.is_formula`
            cost = laws.lookup(table.points, table.points.costs, WIDTHS)
            costs = {MULTIPLY: cost[..., None] * macs}
        elif table.multiply is not None:
            multiply, accumulate = laws.arithmetic(table, geometry, w, a, sums, xp)
            costs = {MULTIPLY: multiply * macs}
            if table.accumulate is not None:
                costs[ACCUMULATE] = accumulate * macs
        else:
            return {}
        if self.options.static_power and table.static is not None:
            costs[STATIC] = costs[MULTIPLY] * table.static.per_multiply
        return costs

    def _sum_widths(self, w: Array, a: Array, xp: Any, geometry: Geometry) -> Array:
        bits = self.options.accumulator_bits or self.table.accumulator_bits
        widths = laws.accumulator_width(bits, geometry, w, a)
        if self.table.float32 is None:
            return widths
        return xp.where(laws.is_float(w, a), float(FLOAT_BITS), widths)

    def _output_widths(self, a: Array, xp: Any) -> Array:
        """Return the width outputs are written at, for inputs stored at ``a``."""
        if self.options.output_bits == "input":
            return a
        stored = laws.stored_widths(self.table.storage_widths, np.array(self.options.output_bits))
        return xp.where(a >= FLOAT_BITS, a, float(stored))

    def _memory(
        self, w: Array, a: Array, out: Array, sums: Array, xp: Any, geometry: Geometry
    ) -> dict[Item, Array]:
        """Return the cost of each tensor in each memory, for stored widths ``... x L``."""
        bias = self.table.bias_bits
        stored = Stored(w, w if bias == "weight" else float(bias), a, out, sums)
        costs = memory_costs(self.table, geometry, stored, self.buffer_bytes, xp)
        return {item: cost * self.options.memory_scale for item, cost in costs.items()}


def tiling_capacity(table: EnergyTable, options: EnergyOptions) -> int | None:
    """Return the capacity in bytes that tiles are made for; None for one pass.

    Raises:
        EnergyTableError: If tiling is asked for where there is no DRAM, or no known buffer.
    """
    if options.reuse == "one_pass":
        return None
    if not any(level.kind == "dram" for level in table.memory.values()):
        raise EnergyTableError(f"table {table.id} has no DRAM, so reuse: tiled means nothing in it")
    buffers = [x.capacity_bytes or 0 for x in table.memory.values() if x.kind == "buffer"]
    capacity = options.buffer_bytes or max(buffers, default=0)
    if not capacity:
        raise EnergyTableError(
            f"table {table.id} has no buffer of known capacity; give buffer_bytes for reuse: tiled"
        )
    return capacity


def _priced(table: EnergyTable) -> npt.NDArray[np.bool_]:
    """Return the pairs of widths that a table's arithmetic is valid for, ``33 x 33``."""
    valid = table.max_bits >= WIDTHS
    valid[FLOAT_BITS] = table.float_as_integer or table.float32 is not None
    if table.points is not None:
        valid[:] = True  # the points themselves say where they end
    return np.logical_and.outer(valid, valid)


def _all_pairs(widths: Floats) -> tuple[Floats, Floats]:
    """Return weight and activation widths, ``n x n x 1`` each; the last axis is the layers'."""
    w, a = np.meshgrid(widths, widths, indexing="ij")
    return w[..., None], a[..., None]


def _layers_first(grid: Floats) -> Floats:
    return np.moveaxis(grid, -1, 0)
