"""Comparing the integer steps of a plan with the reference, each on the same codes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .codes import CodeGrid, multiples_of, to_codes
from .graph import activate
from .plan import Plan
from .steps import Kernel, Product, Quantize, Value

RELATIVE_ERROR = 1e-5
"""Most that a layer's float output may differ from the reference's, norm over norm."""

MOVED_CODES = 1e-3
"""Largest share of codes that may be off by one. Sums beyond 2^24 differ in their last bit, and a
value next to a rounding boundary then takes the neighbouring code."""


def disagreements(plan: Plan, inputs: Sequence[Tensor]) -> dict[str, str]:
    """Return how layers differ from the reference, by their names; empty if none does.

    Args:
        plan: What is computed.
        inputs: Of the plan's graph.
    """
    values: dict[Value, Any] = {(place, None): x for place, x in enumerate(inputs)}
    found: dict[str, str] = {}
    for number, step in enumerate(plan.steps):
        operands = [values[value] for value in step.reads]
        taken = [
            value.clone() if read == step.overwrites else value
            for read, value in zip(step.reads, operands, strict=True)
        ]
        if isinstance(step, Kernel | Product):
            values[step.writes], reason = _tried(step, operands, taken)
        else:
            values[step.writes], reason = step.run(taken), None
        if isinstance(step, Quantize):
            expected, _ = step.quantizer.multiples(operands[0], step.bits)
            reason = _difference_of_codes(values[step.writes], expected, step.grid)
        if reason is not None:
            assert isinstance(step, Kernel | Product | Quantize)
            found.setdefault(step.layer.layer.name, reason)
        for value in step.reads:
            if plan.last_reads[value] == number:
                values.pop(value, None)
    return found


def _tried(
    step: Kernel | Product, operands: Sequence[Any], taken: Sequence[Any]
) -> tuple[Tensor, str | None]:
    """Return what a kernel gives, and why it is not to be used; the reference's if it fails."""
    grid = step.writes[1]
    try:
        result = step.run(taken)
    except Exception as error:  # of shapes and strides that oneDNN does not take
        expected = _expected(step, operands)
        reason = f"it fails: {str(error).splitlines()[0]}"
        return expected if grid is None else to_codes(expected, grid), reason
    return result, _difference(result, _expected(step, operands), grid)


def _expected(step: Kernel | Product, operands: Sequence[Any]) -> Tensor:
    """Return what the reference makes of the codes."""
    if isinstance(step, Product):
        left, right = (
            multiples_of(codes, grid) for codes, grid in zip(operands, step.grids, strict=True)
        )
        return step.layer.whole_product(left, right, step.grids[0].scale * step.grids[1].scale)
    codes = multiples_of(operands[0], step.grid)
    weight = step.layer.weight_codes(step.weight_bits)
    out = step.layer.whole_product(codes, step.grid.scale, weight)
    return activate(out if len(operands) == 1 else out + operands[1], step.clip)


def _difference(result: Tensor, expected: Tensor, grid: CodeGrid | None) -> str | None:
    if grid is not None:
        scaled = expected.mul(1 / grid.scale).round_()
        centred = scaled.clamp_(-grid.zero_point, grid.highest - grid.zero_point)
        return _difference_of_codes(result, centred, grid)
    size, distance = _norm(expected), _norm(expected.sub_(result))
    if distance <= RELATIVE_ERROR * size:
        return None
    return f"relative error {distance / max(size, 1e-30):.2g}"


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _difference_of_codes(codes: Tensor, expected: Tensor, grid: CodeGrid) -> str | None:
    distance = (multiples_of(codes, grid) - expected).abs_()
    moved = float((distance > 0).float().mean())
    if float(distance.max()) <= 1 and moved <= max(MOVED_CODES, 1.0 / codes.numel()):
        return None
    return f"codes differ by up to {float(distance.max()):g}, {moved:.2%} of them"
