"""Integer convolutions, linear layers and matrix products on codes of 8 bits or fewer.

The products are oneDNN's, summed in int32 without loss. Layers multiply unsigned activations by
signed weights with a scale per output channel; bias, activation and the quantization of the result
to the next layer's grid are part of the same call wherever oneDNN has it so.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..plain_layers import pad_same, plain_kind
from ..quantized_layers import QuantizedWeightLayer
from ..quantizers import CONTAINER_BITS
from .codes import LARGEST_CODE, CodeGrid, multiples_of

Clip = Literal["none", "relu", "relu6"]
"""What a kernel can apply to its result. The kernels compute curves, as GELU, too; but not in the
last bit as torch does, which a rounding boundary turns into another code."""

_HALF: int = 2 ** (CONTAINER_BITS - 1)
_LARGEST_SUM = 2**31 - 1

# Multiplications from which an integer product of two matrices outweighs the cost of its call, and
# the elements of products that are held as integers at a time.
_SMALL_PRODUCT = 2**19
_PRODUCT_BLOCK = 2**18


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """The weights of a layer in the order in which a kernel reads them, and its bias.

    Attributes:
        packed: The codes.
        scales: Scale of every output channel, float32.
        zero_points: Zeros, int32: the grids are symmetric.
        bias: float32 by output channel, or None.
        nbytes: Memory held.
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor
    bias: Tensor | None
    nbytes: int


def pack_conv(
    codes: Tensor, scales: Tensor, bias: Tensor | None, module: nn.Conv2d, grid: CodeGrid
) -> PackedWeight:
    """Pack the weights of a convolution.

    Args:
        codes: int8, in the shape of the module's weight.
        scales: float32, by output channel.
        bias: float32, by output channel, or None.
        module: Where stride, padding, dilation and groups are read.
        grid: Of the input: the packed weights depend on its zero point.
    """
    if _is_matrix_product(module):
        return pack_linear(codes.flatten(1), scales, bias)
    packed = torch.ops.onednn.qconv_prepack(
        codes, scales, grid.scale, grid.zero_point, *_geometry(module), None
    )
    return _packed(packed, scales, bias)


def pack_linear(codes: Tensor, scales: Tensor, bias: Tensor | None) -> PackedWeight:
    """Pack the weights of a linear layer.

    Args:
        codes: int8, ``out x in``.
        scales: float32, by output channel.
        bias: float32, by output channel, or None.
    """
    return _packed(torch.ops.onednn.qlinear_prepack(codes, None), scales, bias)


def _packed(packed: Tensor, scales: Tensor, bias: Tensor | None) -> PackedWeight:
    zero_points = torch.zeros(len(scales), dtype=torch.int32)
    nbytes = torch.ops.mkldnn._nbytes(packed) + scales.nbytes + zero_points.nbytes
    return PackedWeight(packed, scales, zero_points, bias, nbytes)


def conv(
    codes: Tensor,
    grid: CodeGrid,
    weight: PackedWeight,
    module: nn.Conv2d,
    clip: Clip,
    output: CodeGrid | None,
    accumulate: Tensor | None = None,
) -> Tensor:
    """Convolve codes.

    Args:
        codes: uint8, ``images x channels x height x width``; fastest in channels_last.
        grid: Of the input.
        weight: From `pack_conv`, for this grid.
        module: Where stride, padding, dilation and groups are read.
        clip: Applied to the result; with `accumulate` not ``relu6``.
        output: Grid of the codes to return, one width for all channels; None for float32.
        accumulate: float32 in the shape of the result, added before the activation; may be
            overwritten. Without `output` only.

    Returns:
        The result in channels_last, float32 or uint8.
    """
    if _is_matrix_product(module):
        rows = codes.permute(0, 2, 3, 1)
        added = None if accumulate is None else accumulate.permute(0, 2, 3, 1)
        product = linear(rows, grid, weight, clip, output, added)
        return product.view(*rows.shape[:3], module.out_channels).permute(0, 3, 1, 2)
    if plain_kind(module) == "same conv":
        codes = pad_same(codes, module, grid.zero_point)
    x, post_op = _operands(codes, grid, weight), _post_op(clip, output)
    if accumulate is not None:
        # The kernel takes the memory as channels_last, whatever the strides say.
        accumulate = accumulate.contiguous(memory_format=torch.channels_last)
        out: Tensor = torch.ops.onednn.qconv2d_pointwise.binary(
            *x, accumulate, weight.bias, *_geometry(module), 1.0, 0, torch.float32, 1.0, 0,
            "sum", 1.0, *post_op,
        )  # fmt: skip
        return out
    out = torch.ops.onednn.qconv_pointwise.default(
        *x, weight.bias, *_geometry(module), *_target(output), *post_op
    )
    return out


def linear(
    codes: Tensor,
    grid: CodeGrid,
    weight: PackedWeight,
    clip: Clip,
    output: CodeGrid | None,
    accumulate: Tensor | None = None,
) -> Tensor:
    """Multiply codes by the weights of a linear layer.

    Args:
        codes: uint8, features last.
        grid: Of the input.
        weight: From `pack_linear`.
        clip: Applied to the result; with `accumulate` not ``relu6``.
        output: Grid of the codes to return, one width for all features; None for float32.
        accumulate: float32 in the shape of the result, added before the activation; may be
            overwritten. Without `output` only.

    Returns:
        The result, float32 or uint8.
    """
    x, post_op = _operands(codes, grid, weight), _post_op(clip, output)
    if accumulate is not None:
        out: Tensor = torch.ops.onednn.qlinear_pointwise.binary(
            *x,
            accumulate.contiguous(),
            weight.bias,
            1.0,
            0,
            torch.float32,
            1.0,
            0,
            "sum",
            1.0,
            *post_op,
        )
        return out
    out = torch.ops.onednn.qlinear_pointwise.default(*x, weight.bias, *_target(output), *post_op)
    return out


def _operands(codes: Tensor, grid: CodeGrid, weight: PackedWeight) -> tuple[Any, ...]:
    # One scale for both operands, as in the reference: two would round the result twice.
    return (
        codes,
        1.0,
        grid.zero_point,
        weight.packed,
        weight.scales * grid.scale,
        weight.zero_points,
    )


_PostOp = tuple[str, list[float], str]
_CLIPS: dict[Clip, tuple[float, float]] = {
    "none": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
}


def _post_op(clip: Clip, output: CodeGrid | None) -> _PostOp:
    """Return oneDNN's name of an activation that also clips to the output's grid."""
    low, high = _CLIPS[clip]
    if output is not None and output.highest < LARGEST_CODE:
        low = max(low, -output.scale * output.zero_point)
        high = min(high, output.scale * (output.highest - output.zero_point))
    if math.isfinite(high):
        return "hardtanh", [low, high], ""
    return ("relu" if low == 0.0 else "none"), [], ""


def _target(output: CodeGrid | None) -> tuple[float, int, torch.dtype]:
    if output is None:
        return 1.0, 0, torch.float32
    return output.scale, output.zero_point, torch.uint8


def _is_matrix_product(module: nn.Conv2d) -> bool:
    """Whether every pixel is multiplied by one matrix; `linear` is faster at that."""
    kernel, stride = tuple(module.kernel_size), tuple(module.stride)
    return kernel == stride == (1, 1) and module.groups == 1 and _padding(module) == [0, 0]


def _geometry(module: nn.Conv2d) -> tuple[list[int], list[int], list[int], int]:
    padding = _padding(module)
    assert padding is not None
    return list(module.stride), padding, list(module.dilation), module.groups


def _padding(module: nn.Conv2d) -> list[int] | None:
    """Return the padding of both axes; None if the two sides of one differ."""
    if module.padding == "valid":
        return [0, 0]
    if isinstance(module.padding, str):
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return None if any(total % 2 for total in totals) else [total // 2 for total in totals]
    return list(module.padding)


def matmul(left: Tensor, left_grid: CodeGrid, right: Tensor, right_grid: CodeGrid) -> Tensor:
    """Multiply two activations, as attention does.

    Small matrices are multiplied in float: a call for each would take longer.

    Args:
        left: Codes, ``... x rows x inner``.
        left_grid: Their grid.
        right: Codes, ``... x inner x columns``, with the same leading sizes.
        right_grid: Their grid.

    Returns:
        The product, float32, contiguous.
    """
    *batch, rows, inner = left.shape
    columns = right.shape[-1]
    if rows * inner * columns < _SMALL_PRODUCT or inner * LARGEST_CODE**2 > _LARGEST_SUM:
        product = multiples_of(left, left_grid) @ multiples_of(right, right_grid)
        return product.mul_(left_grid.scale * right_grid.scale)
    a, a_zero = _left_operand(left.reshape(-1, rows, inner), left_grid)
    b, b_zero = _right_operand(right.reshape(-1, inner, columns), right_grid)
    # sum (a - a_zero) (b - b_zero) = sum a b - a_zero sum b - b_zero sum (a - a_zero)
    by_column = _total(b, -2).mul_(a_zero) if a_zero else None
    by_row = _total(a, -1).sub_(inner * a_zero).mul_(b_zero) if b_zero else None
    out = torch.empty(len(a), rows, columns)
    block = max(1, _PRODUCT_BLOCK // (rows * columns))
    products = torch.empty(min(block, len(a)), rows, columns, dtype=torch.int32)
    for start in range(0, len(a), block):
        part = slice(start, min(start + block, len(a)))
        sums = products[: part.stop - start]
        for one, other, into in zip(a[part], b[part], sums, strict=True):
            torch._int_mm(one, other, out=into)
        if by_column is not None:
            sums.sub_(by_column[part])
        if by_row is not None:
            sums.sub_(by_row[part])
        out[part].copy_(sums).mul_(left_grid.scale * right_grid.scale)
    return out.view(*batch, rows, columns)


def _left_operand(codes: Tensor, grid: CodeGrid) -> tuple[Tensor, int]:
    """Return 8-bit numbers, signed or not, and which of them is zero: 0 itself if that can be."""
    if grid.zero_point and _fit_when_centred(grid):
        return (codes - grid.zero_point).view(torch.int8), 0
    return codes, grid.zero_point


def _right_operand(codes: Tensor, grid: CodeGrid) -> tuple[Tensor, int]:
    """Like `_left_operand`, but always signed."""
    centre = grid.zero_point if _fit_when_centred(grid) else _HALF
    return (codes - centre).view(torch.int8), grid.zero_point - centre


def _fit_when_centred(grid: CodeGrid) -> bool:
    return grid.zero_point <= _HALF and grid.highest - grid.zero_point < _HALF


def _total(x: Tensor, axis: int) -> Tensor:
    total: Tensor = x.sum(axis, keepdim=True, dtype=torch.int32)
    return total


def supports(layer: QuantizedWeightLayer) -> str | None:
    """Return why the kernels cannot compute a layer, or None if they can."""
    inner = layer.inner
    kind = plain_kind(inner)
    if kind is None:
        return "it has its own forward"
    if kind == "conv":
        assert isinstance(inner, nn.Conv2d)
        if inner.padding_mode != "zeros":
            return f"its padding mode is {inner.padding_mode!r}"
        if _padding(inner) is None:
            return "its padding differs from side to side"
    weight: Tensor = inner.weight  # type: ignore[assignment]
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return f"its weights are {weight.dtype} on {weight.device.type}"
    if weight[0].numel() * LARGEST_CODE * _HALF > _LARGEST_SUM:
        return "its sums of products may not fit in 32 bits"
    return None


@functools.cache
def available() -> str | None:
    """Return why the kernels cannot run with this build on this CPU, or None if they can."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "torch was built without oneDNN"
    names = ("qconv_prepack", "qconv_pointwise", "qconv2d_pointwise", "qlinear_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in names):
        return "this version of torch lacks oneDNN's quantized operations"
    # Without these instructions pairs of products are summed in 16 bits, with saturation.
    if not torch.cpu._is_vnni_supported():
        return "the CPU has no instructions for products of 8-bit integers (AVX512-VNNI)"
    try:
        exact = _sums_are_exact()
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"the quantized operations of this build fail: {str(error).splitlines()[0]}"
    return None if exact else "the integer products of this build are not exact"


def _sums_are_exact() -> bool:
    """Check sums of the largest products, which would be the first to saturate."""
    count = 16
    grid = CodeGrid(1.0, 3, 255)
    codes = torch.full((count, count), 255, dtype=torch.uint8)
    weights = torch.full((count, count), 127, dtype=torch.int8)
    ones = torch.ones(count)
    product = linear(codes, grid, pack_linear(weights, ones, None), "none", None)
    module = nn.Conv2d(count, count, 2, bias=False)
    image = codes[:, :, None, None].expand(-1, -1, 2, 2)
    packed = pack_conv(weights[:, :, None, None].expand(-1, -1, 2, 2), ones, None, module, grid)
    convolved = conv(image, grid, packed, module, "none", None)
    largest = count * (255 - grid.zero_point) * 127
    sums = torch._int_mm(codes, weights)
    return all(
        torch.equal(found, torch.full_like(found, right))
        for found, right in [
            (product, largest),
            (convolved, 4 * largest),
            (sums, count * 255 * 127),
        ]
    )
