"""Uniform quantizers: grids, and quantization with straight-through gradients.

A grid has the points ``scale * (code - zero_point)`` for the integer codes from ``lowest`` to
``highest``; quantization takes the nearest point, halves to the even code:

    code = clamp(round(x * (1 / scale)) + zero_point, lowest, highest)
    quantized = scale * (code - zero_point)

Multiplying by the reciprocal, in the type of `x`, is what integer kernels do: so both give the same
code also where a value lies on the boundary of two.

*Symmetric* grids of b bits have zero point 0, codes -2^(b-1) to 2^(b-1)-1 and
``scale = max|x| / (2^(b-1)-1)``; turned round, codes 1-2^(b-1) to 2^(b-1). *Affine* grids have
codes 0 to 2^b-1 and an integer zero point, over a range that contains 0; zero is a point of every
grid.

Gradients pass where the code was not clamped and stop where it was (Bengio, Leonard, Courville,
arXiv:1308.3432; Esser et al., "Learned Step Size Quantization", arXiv:1902.08153, equation 2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..spaces import FLOAT_BITS, Bits, ChannelBits
from .config import ActivationScheme

CONTAINER_BITS = 8
"""Width of the codes in which channels of unequal widths up to 8 bits are held together."""

_LARGEST_TURNED = 64
"""Largest code of a grid that may be turned round: that of 7 bits."""

_BLOCK_BYTES = 4 * 2**20
"""Larger activations go through all passes in blocks of this size, which caches hold in between."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The points that a quantized tensor may take, one grid for all or one per channel.

    Attributes:
        scale: Distance of the points; a number, or a tensor that broadcasts against the data.
        zero_point: Code of zero; like `scale`.
        lowest: Smallest code; like `scale`.
        highest: Largest code; like `scale`.
        unquantized: True for channels that stay in float; None if there is none.
        unit: Number of which every scale is a multiple by a power of two, if there is one: the
            points are whole multiples of it.
    """

    scale: float | Tensor
    zero_point: int | Tensor
    lowest: int | Tensor
    highest: int | Tensor
    unquantized: Tensor | None = None
    unit: float | None = None

    def reshaped(self, shape: Sequence[int], device: torch.device) -> "Grid":
        """Return a grid by channel in another shape and place."""

        def part(value: Any) -> Any:
            return value.view(shape).to(device) if isinstance(value, Tensor) else value

        return Grid(*(part(getattr(self, field.name)) for field in fields(self)))


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Return the codes of a tensor, without gradients.

    Returns:
        Integers held in the type of `x`; in float32 if `x` has a narrower one.
    """
    return _centred_codes(_wide(x.detach()), grid).add_(grid.zero_point)


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """Return the points that codes stand for."""
    return (codes - grid.zero_point) * grid.scale


def multiples(x: Tensor, grid: Grid) -> Tensor:
    """Return the whole numbers that times the grid's unit give the quantized tensor.

    Args:
        x: Any tensor; without gradients.
        grid: One that has a unit.

    Returns:
        Integers held in the type of `x`, in magnitude at most 255 for grids of 8 bits and fewer.
    """
    codes = _in_blocks(x, grid, _centred_codes)
    if isinstance(grid.scale, Tensor):
        assert grid.unit is not None
        codes.mul_(grid.scale / grid.unit)
    return codes


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """Return every value's nearest point of the grid, in float, with straight-through gradients.

    NaN stays NaN. Types narrower than float32 are computed in float32.
    """
    wide = _wide(x)
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _StraightThrough.apply(wide, grid)  # type: ignore[no-untyped-call]
    else:
        out = _nearest_points(wide, grid)
    return out.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Return a tensor whose type holds the codes of every width."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _nearest_points(x: Tensor, grid: Grid) -> Tensor:
    return _in_blocks(x, grid, _block_points)


def _in_blocks(x: Tensor, grid: Grid, compute: Callable[..., Tensor]) -> Tensor:
    differs_by_row = isinstance(grid.scale, Tensor) and grid.scale.shape[:1] > (1,)
    if x.nbytes <= _BLOCK_BYTES or differs_by_row:
        return compute(x, grid)
    out = torch.empty_like(x)
    rows = max(1, _BLOCK_BYTES * len(x) // x.nbytes)
    for source, target in zip(torch.split(x, rows), torch.split(out, rows), strict=True):
        compute(source, grid, target)
    return out


def _block_points(x: Tensor, grid: Grid, out: Tensor | None = None) -> Tensor:
    out = _centred_codes(x, grid, out).mul_(grid.scale)
    return out if grid.unquantized is None else torch.where(grid.unquantized, x, out, out=out)


def _centred_codes(x: Tensor, grid: Grid, out: Tensor | None = None) -> Tensor:
    """Return the codes less the zero point; clamping the difference saves two passes."""
    codes = torch.mul(x, 1 / grid.scale, out=out).round_()
    return _clamp(codes, grid.lowest - grid.zero_point, grid.highest - grid.zero_point)


def _clamp(codes: Tensor, low: Any, high: Any) -> Tensor:
    if not isinstance(low, Tensor):
        return codes.clamp_(low, high)
    low, high = low.to(codes.dtype), high.to(codes.dtype)
    if codes.stride(max(range(-low.dim(), 0), key=low.size)) == 1:
        return codes.clamp_(low, high)
    # Where neighbours in memory have the same bounds, `clamp_` takes five times as long as this.
    return torch.minimum(torch.maximum(codes, low, out=codes), high, out=codes)


class _StraightThrough(torch.autograd.Function):
    """Keeps its input, which most networks keep anyway, and finds from it what was clamped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return _nearest_points(x, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        beyond, low, high = _beyond(x.detach(), ctx.grid)
        # The derivative of hardtanh lets a gradient pass or not in one pass; a mask of bools, and
        # then a product or `where`, takes two to six times as long.
        return torch.ops.aten.hardtanh_backward(gradients[0], beyond, low, high), None


@torch.no_grad()
def _beyond(x: Tensor, grid: Grid) -> tuple[Tensor, float, float]:
    """Return numbers, and the ends between which they are where codes were not clamped."""
    low: Any = grid.lowest - grid.zero_point
    high: Any = grid.highest - grid.zero_point
    codes = x.mul(1 / grid.scale).round_()
    if grid.unquantized is not None:
        low = torch.where(grid.unquantized, -torch.inf, low)
        high = torch.where(grid.unquantized, torch.inf, high)
    if isinstance(low, Tensor):
        return codes - _clamp(codes.clone(), low, high), -0.5, 0.5
    return codes, low - 0.5, high + 0.5


def weight_grid(largest: Tensor, bits: Bits) -> Grid:
    """Return symmetric grids by output channel.

    Two's complement has one code more below zero than above. A channel whose largest magnitude is
    given as a negative number has the grid the other way round, with the extra code above zero:
    that of a scale below zero. So it is for widths below 8 bits only, whose codes fit in a byte
    either way.

    Args:
        largest: Magnitude that takes the largest code, per channel; shaped to broadcast against
            the weights, channels first. Negative to turn the grid round.
        bits: One width, or one per channel; channels of 32 bits stay in float.
    """
    half: Any
    if isinstance(bits, int):
        half, unquantized = 2 ** (min(bits, 31) - 1), None
        if bits == FLOAT_BITS:
            unquantized = torch.ones_like(largest, dtype=torch.bool)
    else:
        widths = torch.from_numpy(bits.astype(np.int64)).to(largest.device).view(largest.shape)
        half = (2.0 ** (widths.clamp(max=31) - 1)).to(largest.dtype)
        unquantized = widths == FLOAT_BITS
        unquantized = unquantized if bool(unquantized.any()) else None
    scale = _positive(largest.abs() / (half - 1))
    turned = (largest < 0) & (torch.as_tensor(half, device=largest.device) <= _LARGEST_TURNED)
    if not bool(turned.any()):
        return Grid(scale, 0, -half, half - 1, unquantized)
    lowest = torch.where(turned, 1.0 - half, -1.0 * half)
    highest = torch.where(turned, 1.0 * half, half - 1.0)
    return Grid(scale, 0, lowest, highest, unquantized)


def tensor_grid(low: float, high: float, bits: int, scheme: ActivationScheme) -> Grid:
    """Return the one grid of a whole activation tensor.

    Args:
        low: Lower end of the range; taken as 0 if positive. Without effect if symmetric.
        high: Upper end of the range; taken as 0 if negative.
        bits: Width, below 32.
        scheme: ``affine``, or ``symmetric`` about zero with ``high`` as the largest magnitude.
    """
    if scheme == "symmetric":
        half = 2 ** (bits - 1)
        scale = _float32(high / (half - 1))
        return Grid(scale, 0, -half, half - 1, unit=scale)
    low, high, top = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = _float32((high - low) / top)
    return Grid(scale, min(round(-low / scale), top), 0, top, unit=scale)


def channel_grid(
    ranges: Mapping[int, tuple[float, float]], bits: ChannelBits, scheme: ActivationScheme
) -> Grid:
    """Return a grid with a width per channel, whose codes up to 8 bits share one 8-bit container.

    An integer kernel has one scale and one zero point for its whole input. So all channels of at
    most 8 bits lie on one grid of 8-bit codes, and a channel of b bits uses every 2^(8-b)-th of
    them: its codes are multiples of 2^(8-b). Let m be the smallest width present. The range is
    the smallest that contains the calibrated range of every width present up to 8; the m-bit
    channels have the grid `tensor_grid` gives for that range, and a channel of b bits has steps
    2^(b-m) times finer, from the same lowest point. Hence equal widths everywhere give exactly
    the grid of `tensor_grid`, and no channel is clipped because of another.

    Channels of 16 bits have the 16-bit grid of the tensor; channels of 32 bits stay in float.

    Args:
        ranges: Calibrated lower and upper end, by width; every width below 32 present is needed.
        bits: Width per channel.
        scheme: ``affine`` or ``symmetric``.

    Returns:
        A grid whose parts have one entry per channel.
    """
    widths = [int(b) for b in np.unique(bits)]
    grids = {b: tensor_grid(*ranges[b], b, scheme) for b in widths if b < FLOAT_BITS}
    if contained := [b for b in widths if b <= CONTAINER_BITS]:
        low = min(ranges[b][0] for b in contained)
        high = max(ranges[b][1] for b in contained)
        coarsest = tensor_grid(low, high, contained[0], scheme)
        grids |= {b: _refined(coarsest, b - contained[0]) for b in contained}
        unit = coarsest.scale / 2 ** (CONTAINER_BITS - contained[0])
    grids[FLOAT_BITS] = Grid(1.0, 0, 0, 0)

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(grids[int(b)], name) for b in bits], dtype=torch.float32)

    unquantized = torch.from_numpy(bits == FLOAT_BITS)
    return Grid(
        column("scale"),
        column("zero_point"),
        column("lowest"),
        column("highest"),
        unquantized if bool(unquantized.any()) else None,
        unit if contained == widths else None,
    )


def _refined(grid: Grid, extra_bits: int) -> Grid:
    """Return a grid with more bits from the same lowest point; powers of two keep it exact."""
    factor = 2**extra_bits
    highest = (grid.highest + 1) * factor - 1
    return Grid(grid.scale / factor, grid.zero_point * factor, grid.lowest * factor, highest)


def _float32(scale: float) -> float:
    """Round to float32, where every kernel will see the same scale; 1 for an empty range."""
    rounded = float(np.float32(scale))
    return rounded if rounded >= np.finfo(np.float32).tiny else 1.0


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, 1.0)
