"""Matching the rows of a per-layer table to a network's layers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..spaces import EnergyTableError, Layer, nearest
from . import laws
from .parts import Row, Rows
from .schema import EnergyTable


def row_costs(
    table: EnergyTable, layers: Sequence[Layer], widths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return what each layer costs by the table's rows.

    Args:
        table: A table with ``rows``.
        layers: The network, ``L`` layers.
        widths: ``n`` widths.

    Returns:
        ``L x n x n`` array, by weight and activation width; NaN where the rows do not say, and 0
        for layers that the publication leaves out.

    Raises:
        EnergyTableError: If a layer has no row, or the rows are of another network.
    """
    rows = table.rows
    assert rows is not None
    priced = [layer for layer in layers if layer.name not in rows.unpriced]
    find = _by_order if rows.match == "order" else _by_name
    found = dict(zip((layer.name for layer in priced), find(table.id, rows, priced), strict=True))
    for layer in priced:
        if found[layer.name].macs not in (None, layer.macs):
            raise EnergyTableError(
                f"table {table.id} is of {rows.network}: its layer {found[layer.name].layer!r} has "
                f"{found[layer.name].macs} MACs, layer {layer.name!r} of this network {layer.macs}"
            )
    nothing = tuple((0.0,) * len(rows.activations) for _ in rows.weights)
    costs = [found[layer.name].costs if layer.name in found else nothing for layer in layers]
    return np.stack([laws.lookup(rows, matrix, widths) for matrix in costs])


def _by_order(table: str, rows: Rows, layers: Sequence[Layer]) -> list[Row]:
    if len(layers) != len(rows.layers):
        raise EnergyTableError(
            f"table {table} is of {rows.network}, {len(rows.layers)} layers in order; "
            f"this network has {len(layers)}"
        )
    return list(rows.layers)


def _by_name(table: str, rows: Rows, layers: Sequence[Layer]) -> list[Row]:
    named = {row.layer: row for row in rows.layers}
    missing = [layer.name for layer in layers if layer.name not in named]
    if layers and len(missing) == len(layers):
        raise EnergyTableError(
            f"table {table} is of {rows.network}; it has a row for none of this network's layers"
        )
    if missing:
        raise EnergyTableError(
            f"table {table} ({rows.network}) has no row for layer {missing[0]!r}; "
            f"{nearest(missing[0], named)}"
        )
    return [named[layer.name] for layer in layers]
