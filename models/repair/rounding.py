"""Rounding weights up or down as it disturbs a layer's output least.

Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training
Quantization" (arXiv:2004.10568), equation 18: the mean squared error of a layer's output is a
quadratic form in the error of each row of weights, ``(w - q) H (w - q)'`` with ``H = E[x x']``.
They relax it and descend its gradient. Here it is descended code by code, each to its best point
given all others, as Behdin et al. do for language models ("QuantEase", arXiv:2309.01885): the
result is deterministic, needs no step size, and is not bound to the two neighbouring points. In
turns with the codes, the scale of every row takes its best value, which has a closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it: directions that calibration images do not
show must not be taken for free."""

_SWEEPS = 4  # over all codes; there is little to gain after two
_REFITS = 2  # of the scales
_FIRST_SCALES = tuple(step / 10 for step in range(5, 14))
_FINE_SCALES = tuple(step / 25 for step in range(5, 40))
_FINEST_TURNED = 8  # bits, from which on the side of the extra code does not matter
_BLOCK = 64  # columns whose effect on all others is computed at once


@dataclass(frozen=True, slots=True, eq=False)
class RowGrids:
    """Grids of rows: whole numbers from a lowest to a highest, times a scale.

    Attributes:
        scale: Positive.
        lowest: Smallest code.
        highest: Largest code. All three are ``groups x 1 x rows``.
    """

    scale: Tensor
    lowest: Tensor
    highest: Tensor

    def nearest(self, weight: Tensor) -> Tensor:
        """Return the codes of the nearest points; both are ``groups x entries x rows``."""
        return torch.clamp((weight / self.scale).round_(), self.lowest, self.highest)

    def where(self, rows: Tensor, other: "RowGrids") -> "RowGrids":
        """Return these grids for some rows, and others for the rest."""
        return RowGrids(
            torch.where(rows, self.scale, other.scale),
            torch.where(rows, self.lowest, other.lowest),
            torch.where(rows, self.highest, other.highest),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Codes with their grids, and the mean squared error of the output that they cause.

    Attributes:
        codes: ``groups x entries x rows``.
        grids: Of the rows.
        error: ``groups x 1 x rows``.
    """

    codes: Tensor
    grids: RowGrids
    error: Tensor

    def or_better(self, other: "Rounded") -> "Rounded":
        """Return the better of two for every row."""
        rows = other.error < self.error
        return Rounded(
            torch.where(rows, other.codes, self.codes),
            other.grids.where(rows, self.grids),
            torch.minimum(other.error, self.error),
        )


def best_rounding(weight: Tensor, second: Tensor, grids: RowGrids, bits: int) -> Rounded:
    """Return codes and scales with a small mean squared error of the layer's output.

    It is never above that of the nearest points of the grids given.

    Args:
        weight: ``groups x entries x rows``: a column for each output channel.
        second: ``groups x entries x entries``: moments of the input, about zero or, if a bias takes
            up the mean error, about the mean.
        grids: To begin with; of their kind the result is.
        bits: Their width.
    """
    cost, unit = _damped(second)
    best = _with_best_scale(weight, cost, grids, bits, _FIRST_SCALES)
    found = _settled(weight, cost, best)
    best = best.or_better(found)
    for _ in range(_REFITS):
        found = _settled(weight, cost, _refitted(weight, cost, found))
        best = best.or_better(found)
    return Rounded(best.codes, best.grids, best.error * unit)


def best_scales(weight: Tensor, second: Tensor, grids: RowGrids, bits: int) -> Rounded:
    """Return nearest points, on grids whose scales give a small mean squared error of the output.

    Arguments and the error as for `best_rounding`.
    """
    cost, unit = _damped(second)
    best = _with_best_scale(weight, cost, grids, bits, _FINE_SCALES)
    return Rounded(best.codes, best.grids, best.error * unit)


def _damped(second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cost of errors, damped, and the unit it is in: ``groups x 1 x 1``."""
    unit = second.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=torch.finfo(second.dtype).tiny)
    eye = torch.eye(second.shape[1], dtype=second.dtype, device=second.device)
    return second / unit[:, None, None] + _DAMPING * eye, unit[:, None, None]


def _with_best_scale(
    weight: Tensor, cost: Tensor, grids: RowGrids, bits: int, factors: Sequence[float]
) -> Rounded:
    """Return nearest points for the scale that suits them best, of the given multiples."""
    best = _judged(weight, cost, grids.nearest(weight), grids)
    sides = [grids]
    if bits < _FINEST_TURNED:
        sides.append(RowGrids(grids.scale, -grids.highest, -grids.lowest))
    for side in sides:
        for factor in factors:
            tried = RowGrids(side.scale * factor, side.lowest, side.highest)
            best = best.or_better(_judged(weight, cost, tried.nearest(weight), tried))
    return best


def _judged(weight: Tensor, cost: Tensor, codes: Tensor, grids: RowGrids) -> Rounded:
    error = weight - codes * grids.scale
    return Rounded(codes, grids, (cost @ error).mul_(error).sum(1, keepdim=True))


def _refitted(weight: Tensor, cost: Tensor, rounded: Rounded) -> Rounded:
    """Return the same codes with the best scale of every row, ``w H q' / q H q'``."""
    weighted = cost @ rounded.codes
    above = (weight * weighted).sum(1, keepdim=True)
    below = (rounded.codes * weighted).sum(1, keepdim=True)
    grids = rounded.grids
    scale = torch.where((above > 0) & (below > 0), above / below, grids.scale)
    return Rounded(rounded.codes, RowGrids(scale, grids.lowest, grids.highest), rounded.error)


def _settled(weight: Tensor, cost: Tensor, rounded: Rounded) -> Rounded:
    """Return codes that are each the best given all others, or nearly."""
    codes, grids = rounded.codes.clone(), rounded.grids
    # What the error of all codes asks of each: half the negative gradient of its row's cost.
    pull = cost @ (weight - codes * grids.scale)
    per_code = 1 / (cost.diagonal(dim1=1, dim2=2)[:, :, None] * grids.scale)
    lowest, highest, scale = (part[:, 0] for part in (grids.lowest, grids.highest, grids.scale))
    for _ in range(_SWEEPS):
        is_settled = True
        for start in range(0, codes.shape[1], _BLOCK):
            block = slice(start, min(start + _BLOCK, codes.shape[1]))
            inside = cost[:, block, block]
            local, moved = pull[:, block].clone(), torch.zeros_like(pull[:, block])
            for index in range(local.shape[1]):
                old = codes[:, start + index]
                step = local[:, index] * per_code[:, start + index]
                new = step.add_(old).round_().clamp_(lowest, highest)
                moved[:, index] = (new - old).mul_(scale)
                old.copy_(new)
                # What is behind in the block sees it at once; what is before waits for its turn.
                local[:, index + 1 :].baddbmm_(
                    inside[:, index + 1 :, index : index + 1],
                    moved[:, index : index + 1],
                    alpha=-1,
                )
            if bool(moved.any()):
                is_settled = False
                pull.baddbmm_(cost[:, :, block], moved, alpha=-1)
        if is_settled:
            break
    return _judged(weight, cost, codes, grids)
