"""Uniform quantization as a function of the values, of the range and of a real bit-width.

A grid has the points ``scale * code`` for the codes between two bounds. With a range in place of
a scale, the width decides both: for an affine grid of ``b`` bits from ``low`` to ``high``

    scale = (high - low) / (2^b - 1),    d scale / d b = -(high - low) 2^b ln 2 / (2^b - 1)^2

which for the range [-1, 1] is equation 18 of EQAT; for a symmetric one with largest magnitude ``r``

    scale = r / (2^(b-1) - 1),           d scale / d b = -r 2^(b-1) ln 2 / (2^(b-1) - 1)^2.

At whole widths these are the grids of `models.quantizers`. Between them the outermost point stays
at the end of the range, so that everything is continuous in ``b``.

The gradient passes straight through rounding (Bengio, Leonard, Courville, arXiv:1308.3432): with
``v = x / scale``, what rounding adds to ``v`` counts as a constant. So, per element (EQAT,
equation 17; Esser et al., arXiv:1902.08153, equation 3)

    d quantized / d x     = 1 inside, 0 outside
    d quantized / d scale = round(v) - v inside, the bound outside
    d quantized / d bound = scale outside that bound, 0 elsewhere

and autograd takes it from scale and bounds to range and width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
_LARGEST_IN_BYTE, _NINE_BITS = 127.0, 256.0
_BEYOND = 1 + 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class LearnedGrid:
    """The points a quantized tensor may take, as tensors that gradients flow to.

    Attributes:
        scale: Distance of the points; of no dimension, or one that broadcasts against the data.
        bottom: Smallest code; like `scale`, whole at whole widths.
        top: Largest code.
    """

    scale: Tensor
    bottom: Tensor
    top: Tensor


def affine_grid(low: Tensor, high: Tensor, bits: Tensor) -> LearnedGrid:
    """Return the grid of ``bits`` bits from ``low`` to ``high``, on which zero is a point.

    Args:
        low: Lower end of the range, at most 0.
        high: Upper end, at least 0.
        bits: Width, a real number.
    """
    low, high, width = low.double(), high.double(), bits.double()
    levels = torch.exp2(width) - 1
    scale = ((high - low) / levels).clamp_min(_TINY).to(bits.dtype)
    # Where zero falls on the grid is a whole number. Gradients pass through its rounding, so that
    # what is clipped moves with its own end. It follows from the rounded scale, as it does in
    # `quantizers.tensor_grid`: between two codes the last bit decides.
    exact = -low / scale.double()
    zero = exact + (torch.minimum(exact.round(), levels) - exact).detach()
    if low.device.type == "cpu" and low.item() == 0:  # none below: saves a pass
        zero = zero.detach()
    return LearnedGrid(scale, -zero.to(bits.dtype), (levels - zero).to(bits.dtype))


def symmetric_grid(largest: Tensor, bits: Tensor, turned: Tensor | None = None) -> LearnedGrid:
    """Return the grid about zero in two's complement, which has one code more below it than above.

    Args:
        largest: Magnitude that takes the largest code, by channel; shaped to broadcast.
        bits: Width, a real number; or one by channel.
        turned: Where the extra code stands above zero instead; nowhere if None. If given, 8 bits
            have no code beyond 127 on either side: a batch norm with a negative factor turns it
            round once it is folded, and then it would not fit in a byte.
    """
    width = bits.double()
    half = torch.exp2(width - 1)
    scale = (largest.double() / (half - 1)).clamp_min(_TINY)
    bottom, top = -half, half - 1
    if turned is not None:
        most = torch.where(half > _NINE_BITS, half, half.clamp_max(_LARGEST_IN_BYTE))
        bottom, top = torch.where(turned, -top, -most), torch.where(turned, most, top)
    dtype = largest.dtype
    return LearnedGrid(scale.to(dtype), bottom.to(dtype), top.to(dtype))


def refined(grid: LearnedGrid, extra_bits: int) -> LearnedGrid:
    """Return a grid with more bits from the same lowest point, as `quantizers.channel_grid` does.

    Args:
        grid: The grid.
        extra_bits: How many more.
    """
    factor = 2.0**extra_bits
    return LearnedGrid(grid.scale / factor, grid.bottom * factor, (grid.top + 1) * factor - 1)


def quantize_through(x: Tensor, grid: LearnedGrid) -> Tensor:
    """Return every value's nearest point of a grid, with the gradients of this module.

    Types narrower than float32 are computed in float32; the result has the type of `x`.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    out: Tensor = _Quantize.apply(wide, grid.scale, grid.bottom, grid.top)  # type: ignore[no-untyped-call]
    return out.to(x.dtype)


class _Quantize(torch.autograd.Function):
    """Keeps its input and its output, which the layers before and behind it keep anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
        codes = torch.mul(x, 1 / scale).round_()
        out = _clamped(codes, bottom, top).mul_(scale)
        ctx.save_for_backward(x, out, scale, bottom, top)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, out, scale, bottom, top = ctx.saved_tensors
        # Codes outside the bounds begin half a step beyond the last whole one inside, but not
        # before the bounds themselves, which PACT clips at.
        lowest = torch.minimum(bottom.ceil() - 0.5, bottom * _BEYOND) * scale
        highest = torch.maximum(top.floor() + 0.5, top * _BEYOND) * scale
        endless = torch.full_like(scale, torch.inf)
        inside = _between(g, x, lowest, highest)
        needs = ctx.needs_input_grad
        d_scale = d_bottom = d_top = None
        if needs[1]:
            # g (round(v) - v) inside and g bound outside are g out - (g inside) x, over the scale.
            d_scale = (_product(g, out, scale) - _product(inside, x, scale)) / scale
        if needs[2]:
            d_bottom = _summed(_between(g, x, -endless, lowest), scale) * scale
        if needs[3]:
            d_top = _summed(_between(g, x, highest, endless), scale) * scale
        return inside if needs[0] else None, d_scale, d_bottom, d_top


def _clamped(codes: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    if bottom.dim() == 0 and codes.device.type == "cpu":
        return codes.clamp_(bottom.item(), top.item())
    return torch.clamp(codes, bottom, top, out=codes)


def _between(g: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the gradients where x lies between two numbers, and 0 elsewhere."""
    if low.dim() == 0 and x.device.type == "cpu":
        # One pass; a mask and then a product takes two to six times as long.
        passed: Tensor = torch.ops.aten.hardtanh_backward(g, x, low.item(), high.item())
        return passed
    return g * ((x > low) & (x < high))


def _product(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Return the sum of ``a * b`` over all elements that have one entry of ``like`` in common."""
    if like.dim() == 0 and a.stride() == b.stride() and _is_dense(a):
        flat = (a.numel(),), (1,)
        return torch.dot(a.as_strided(*flat), b.as_strided(*flat))
    return _summed(a * b, like)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _summed(x: Tensor, like: Tensor) -> Tensor:
    return x.sum() if like.dim() == 0 else x.sum_to_size(like.shape)
