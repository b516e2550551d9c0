"""The laws a table composes, written once for NumPy arrays and torch tensors.

``xp`` is the namespace, the module ``numpy`` or ``torch``; only names that both have are used.
Widths may be of any shape that broadcasts against a trailing axis of ``L`` layers.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import FLOAT_BITS
from .geometry import Geometry
from .parts import Formula, Grid, Matrix
from .schema import EnergyTable

Array = Any


def evaluate(formula: Formula, w: Array, a: Array, xp: Any) -> Array:
    """Return the cost of one multiplication of ``w`` bits by ``a`` bits."""
    wider = xp.maximum(w, a)
    terms = (
        (formula.weight, w),
        (formula.activation, a),
        (formula.product, w * a),
        (formula.root_product, xp.sqrt(w * a)),
        (formula.sum_of_widths, w + a),
        (formula.square_of_wider, wider * wider),
    )
    # What a formula does not use must not enter: sqrt has no gradient at zero width.
    used = [coefficient * term for coefficient, term in terms if coefficient]
    return sum(used, xp.zeros_like(w * a) + formula.constant)


def accumulator_width(bits: int | str, geometry: Geometry, w: Array, a: Array) -> Array:
    """Return the width of the sums.

    An exact one holds the product of two signed operands, ``(w - 1) + (a - 1) + 1`` bits, and as
    many more as the number of terms asks for (qkeras, qtools/accumulator_impl.py).

    Args:
        bits: A width, or ``exact``.
        geometry: The layers.
        w: Weight widths.
        a: Activation widths.
    """
    if bits == "exact":
        return w + a - 1.0 + geometry.sum_growth
    return 0.0 * (w + a) + float(bits)


def arithmetic(
    table: EnergyTable, geometry: Geometry, w: Array, a: Array, acc: Array, xp: Any
) -> tuple[Array, Array]:
    """Return the cost of one multiplication and of one addition by formula, per layer.

    Args:
        table: A table with ``multiply``.
        geometry: ``L`` layers.
        w: Weight widths, ``... x L``.
        a: Activation widths, ``... x L``.
        acc: Widths of the sums, ``... x L``.
        xp: ``numpy`` or ``torch``.
    """
    assert table.multiply is not None
    multiply = evaluate(table.multiply, w, a, xp)
    if table.multiply_linear is not None:
        multiply = xp.where(geometry.is_conv, multiply, evaluate(table.multiply_linear, w, a, xp))
    accumulate = xp.zeros_like(multiply)
    if (law := table.accumulate) is not None:
        accumulate = law.per_bit * acc + law.sum_of_widths * (w + a)
    if (floats := table.float32) is not None:
        multiply = xp.where(is_float(w, a), floats.multiply, multiply)
        accumulate = xp.where(is_float(w, a), floats.accumulate, accumulate)
    return multiply, accumulate


def is_float(w: Array, a: Array) -> Array:
    """Return where an operand is float, so that the multiply-accumulate is."""
    return (w >= FLOAT_BITS) | (a >= FLOAT_BITS)


def lookup(grid: Grid, costs: Matrix, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the cost at every pair of whole widths; NaN outside the grid.

    Args:
        grid: The knots, and the rule between them.
        costs: The grid's costs, or those of one of its rows.
        widths: ``n`` widths.

    Returns:
        ``n x n`` array, by weight width and activation width.
    """
    along_w = _weights_of_knots(grid.weights, grid.between, widths)
    along_a = _weights_of_knots(grid.activations, grid.between, widths)
    values: npt.NDArray[np.float64] = along_w @ np.array(costs) @ along_a.T
    return values


def _weights_of_knots(
    knots: tuple[int, ...], between: str, widths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return ``n x knots`` weights; a row of NaN where the width lies outside."""
    unit = np.eye(len(knots))
    outside = np.full(len(knots), np.nan)
    if between == "round_up":
        return np.vstack([unit, outside])[np.searchsorted(knots, widths)]
    columns = [np.interp(widths, knots, column, np.nan, np.nan) for column in unit]
    return np.stack(columns, axis=1)


def stored_widths(
    supported: tuple[int, ...] | None, widths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the widths that values are stored at; NaN where none is wide enough."""
    if supported is None:
        return widths.astype(np.float64)
    return np.append(np.array(supported, np.float64), np.nan)[np.searchsorted(supported, widths)]
