"""Prices of widths between whole bits, differentiable; the one file here that needs torch."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..spaces import EnergyTableError
from .batch import supported_widths
from .terms import Floats, Terms

Knots = npt.NDArray[np.intp]


def price_continuous(terms: Terms, costs: Floats, weight: Tensor, activation: Tensor) -> Tensor:
    """Return the prices of continuous widths; see `EnergyModel.price_torch`.

    Args:
        terms: The table on the network.
        costs: Its ``L x 33 x 33`` costs at whole widths.
        weight: ``... x L`` floating-point tensor.
        activation: ``... x L`` floating-point tensor.
    """
    knots_w, knots_a = supported_widths(costs)
    _check(terms, "weight", weight, knots_w, len(costs))
    _check(terms, "activation", activation, knots_a, len(costs))
    w, a = weight.double(), activation.double()
    if terms.table.is_formula:
        per_layer = terms.continuous(w, a, torch, terms.geometry.to_torch(w.device))
    else:
        known = costs[:, knots_w][:, :, knots_a]
        per_layer = _interpolated(known, knots_w, knots_a, w, a)
    total: Tensor = per_layer.sum(dim=-1)
    return total.to(weight.dtype)


def _interpolated(known: Floats, knots_w: Knots, knots_a: Knots, w: Tensor, a: Tensor) -> Tensor:
    """Interpolate ``L x knots x knots`` costs linearly in each width; ``... x L``."""
    table = torch.as_tensor(known, device=w.device)
    layer = torch.arange(len(known), device=w.device)
    low_w, high_w, share_w = _segment(knots_w, w)
    low_a, high_a, share_a = _segment(knots_a, a)
    total = torch.zeros_like(w * a)
    for at_w, part_w in ((low_w, 1 - share_w), (high_w, share_w)):
        for at_a, part_a in ((low_a, 1 - share_a), (high_a, share_a)):
            total = total + part_w * part_a * table[layer, at_w, at_a]
    return total


def _segment(knots: Knots, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of the knots around each width, and how far along it is, in [0, 1]."""
    at = torch.as_tensor(knots, dtype=bits.dtype, device=bits.device)
    last = len(knots) - 1
    above = torch.searchsorted(at, bits.detach().contiguous(), right=True)
    low = (above - 1).clamp(0, max(last - 1, 0))
    high = (low + 1).clamp(max=last)
    # A lone knot has no segment; the width is on it, and the share is zero.
    return low, high, (bits - at[low]) / (at[high] - at[low]).clamp(min=1.0)


def _check(terms: Terms, operand: str, bits: Tensor, knots: Knots, layers: int) -> None:
    if bits.shape[-1:] != (layers,) or not bits.is_floating_point():
        raise EnergyTableError(
            f"{operand} widths must be a floating-point tensor ... x {layers}, "
            f"got {tuple(bits.shape)} {bits.dtype}"
        )
    lowest, highest = float(bits.detach().min()), float(bits.detach().max())
    floor = 0.0 if terms.table.is_formula else float(np.min(knots))
    if lowest < floor or highest > float(np.max(knots)):
        raise EnergyTableError(
            f"table {terms.table.id} prices {operand} widths from {floor:g} to {np.max(knots)} "
            f"bits, got {lowest:g} to {highest:g}"
        )
