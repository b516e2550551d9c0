"""Looking up many allocations at once."""

import numpy as np
import numpy.typing as npt

from ..spaces import EnergyTableError

_BLOCK = 1 << 14
"""Allocations per block: its intermediate arrays stay in the processor's cache."""


def sum_over_layers(
    costs: npt.NDArray[np.float64],
    weight_bits: npt.NDArray[np.integer],
    activation_bits: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Return the sums of per-layer costs at given widths.

    Args:
        costs: ``L x 33 x 33``, by weight and activation width.
        weight_bits: ``n x L`` integers.
        activation_bits: ``n x L`` integers.

    Returns:
        ``n`` sums; NaN where a cost is.

    Raises:
        EnergyTableError: If the shapes do not fit, or an entry is not a width.
    """
    layers, size, _ = costs.shape
    for name, bits in (("weight", weight_bits), ("activation", activation_bits)):
        if bits.ndim != 2 or bits.shape[1] != layers or bits.dtype.kind not in "iu":
            raise EnergyTableError(
                f"{name} widths must be n x {layers} integers, got {bits.shape} {bits.dtype}"
            )
        if bits.size and not 0 <= bits.min() <= bits.max() < size:
            raise EnergyTableError(f"{name} widths must lie in 0 to {size - 1}")
    if weight_bits.shape != activation_bits.shape:
        raise EnergyTableError(
            f"{len(weight_bits)} allocations of weights, {len(activation_bits)} of activations"
        )
    flat = costs.reshape(layers, size * size)
    sums = np.zeros(len(weight_bits))
    for start in range(0, len(sums), _BLOCK):
        block = slice(start, start + _BLOCK)
        index = weight_bits[block].T.astype(np.intp) * size
        index += activation_bits[block].T
        for row, cost in zip(index, flat, strict=True):
            sums[block] += cost.take(row)
    return sums


def supported_widths(
    costs: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the weight and the activation widths that have a cost in every layer."""
    priced: npt.NDArray[np.bool_] = ~np.any(np.isnan(costs), axis=0)
    return np.flatnonzero(priced.any(axis=1)), np.flatnonzero(priced.any(axis=0))
