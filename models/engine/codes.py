"""Activations as unsigned 8-bit codes, and back to whole numbers."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...spaces import Bits
from ..dynamic.container import Container
from ..quantizers import CONTAINER_BITS, Grid

LARGEST_CODE = 2**CONTAINER_BITS - 1

# At this size the distance of float32 numbers is 1: adding it rounds to the nearest integer, halves
# to the even one as `quantize` does, and leaves the integer in the low bits of the sum.
_ROUNDING = 1.5 * 2**23

# Elements quantized at a time: the passes over them then find them in the cache.
_BLOCK = 2**19


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """A grid whose codes are unsigned 8-bit integers.

    Attributes:
        scale: Distance of neighbouring codes' values: ``value = scale * (code - zero_point)``.
        zero_point: Code of zero, 0 to 255.
        highest: Largest code, at most 255; the smallest is 0.
        channel_bits: Width of every channel, a byte each, where they differ: the codes of a channel
            of b bits are multiples of ``2**(8 - b)``.
        channel_axis: Axis of the channels, counted from the end, where their widths differ.
        gate: Name of the operand whose gate chooses the widths, where one does: others may not
            read these codes.
    """

    scale: float
    zero_point: int
    highest: int
    channel_bits: bytes | None = None
    channel_axis: int | None = None
    gate: str | None = None


def code_grid(grid: Grid, bits: Bits, channel_axis: int = -1) -> CodeGrid:
    """Return a grid of at most 8 bits with its codes moved to start at 0.

    Args:
        grid: What `tensor_grid` or `channel_grid` gives.
        bits: The width it was made for, or the widths by channel.
        channel_axis: Axis of the channels, counted from the end.
    """
    widths = np.unique(bits)
    scale, zero_point, lowest, highest = (
        float(part.flatten()[0]) if isinstance(part, Tensor) else part
        for part in (grid.scale, grid.zero_point, grid.lowest, grid.highest)
    )
    shifted = int(zero_point - lowest)
    if len(widths) == 1:
        return CodeGrid(scale, shifted, int(highest - lowest))
    # The first channel's codes are every `step`-th of the container's.
    widths = np.asarray(bits, dtype=np.uint8)
    step = 2 ** (CONTAINER_BITS - int(widths[0]))
    scale, shifted = scale / step, shifted * step
    return CodeGrid(scale, shifted, LARGEST_CODE, widths.tobytes(), channel_axis)


def to_codes(x: Tensor, grid: CodeGrid, bits: Tensor | None = None) -> Tensor:
    """Quantize to the same codes as the reference.

    Args:
        x: float32, of any shape and memory format.
        grid: The grid.
        bits: Widths that a gate chose, whole numbers shaped to broadcast against `x`; inputs first.

    Returns:
        Codes in uint8, in the memory format of `x`.
    """
    low = _ROUNDING - grid.zero_point
    steps = _channel_steps(grid, x.dim()) if grid.channel_bits else None
    chosen = None if bits is None else _steps(bits, grid)
    codes = torch.empty_like(x, dtype=torch.uint8)
    start = 0
    for block, into in zip(*_blocks(x, codes, grid.channel_axis), strict=True):
        if chosen is not None:
            steps = _ChannelSteps(*(part[start : start + len(block)] for part in chosen))
            start += len(block)
        sums = block.mul(1 / grid.scale)
        if steps is None:
            sums.add_(_ROUNDING).clamp_(low, low + grid.highest)
        else:
            sums.add_(steps.rounding).sub_(steps.excess).clamp_(min=low)
            torch.minimum(sums, steps.high, out=sums)
        # Their lowest byte is the code less the zero point, modulo 256: that of 1.5 * 2^23 is 0.
        into.copy_(sums.view(torch.int32))
    return codes.add_(grid.zero_point) if grid.zero_point else codes


def _blocks(x: Tensor, codes: Tensor, channel_axis: int | None) -> list[tuple[Tensor, ...]]:
    """Return both tensors in blocks of about `_BLOCK` numbers, each with all channels."""
    if x.numel() <= _BLOCK:
        return [(x,), (codes,)]
    is_first = channel_axis is not None and channel_axis % x.dim() == 0
    rows = len(x) if is_first else max(1, len(x) * _BLOCK // x.numel())
    return [torch.split(x, rows), torch.split(codes, rows)]


class _ChannelSteps(NamedTuple):
    """What `to_codes` computes with where channels have several widths; broadcasts by channel."""

    rounding: Tensor
    """Adding it rounds to a multiple of the channel's step."""
    excess: Tensor
    """By how much that is more than `_ROUNDING`."""
    high: Tensor
    """The channel's highest code, moved by `_ROUNDING` and the zero point."""


@functools.lru_cache(maxsize=1024)
def _channel_steps(grid: CodeGrid, dim: int) -> _ChannelSteps:
    assert grid.channel_axis is not None
    shape = [1] * dim
    shape[grid.channel_axis] = -1
    return _steps(torch.tensor(list(grid.channel_bits or b"")).view(shape), grid)


def _steps(bits: Tensor, grid: CodeGrid) -> _ChannelSteps:
    step = torch.bitwise_left_shift(1, CONTAINER_BITS - bits).to(torch.float32)
    high = _ROUNDING - grid.zero_point + (2**CONTAINER_BITS - step)
    return _ChannelSteps(step * _ROUNDING, (step - 1) * _ROUNDING, high)


def gated_grid(container: Container, gate: str) -> CodeGrid:
    """Return the grid of codes whose widths a gate chooses.

    Args:
        container: The grids of the widths.
        gate: Name of the operand.
    """
    return CodeGrid(container.unit, container.zero_point, LARGEST_CODE, gate=gate)


def multiples_of(codes: Tensor, grid: CodeGrid) -> Tensor:
    """Return the whole numbers, in float32, that times the grid's scale are the codes' values."""
    return codes.to(torch.float32).sub_(grid.zero_point)
