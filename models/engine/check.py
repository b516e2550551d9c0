"""Comparing the integer steps of a plan with the reference, each on the same codes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .graph import activate
from .kernels import CodeGrid, from_codes, to_codes
from .plan import Plan
from .steps import Kernel, Quantize, Value

RELATIVE_ERROR = 1e-5
"""Most that a layer's float output may differ from the reference's, norm over norm."""

MOVED_CODES = 1e-3
"""Largest share of codes that may be off by one: sums differ in their last bit, and a value next to
a rounding boundary then takes the neighbouring code."""


def disagreements(plan: Plan, x: Tensor) -> dict[str, str]:
    """Return how layers differ from the reference, by their names; empty if none does.

    Args:
        plan: What is computed.
        x: A batch of images.
    """
    values: dict[Value, Any] = {(0, None): x}
    found: dict[str, str] = {}
    for step in plan.steps:
        operands = [values[value] for value in step.reads]
        if step.overwrites is not None:
            operands[1] = operands[1].clone()
        values[step.writes] = result = step.run(operands)
        if isinstance(step, Kernel):
            expected = _expected(step, [values[value] for value in step.reads])
            reason = _difference(result, expected, step.writes[1], step.layer.left.channel_axis)
        elif isinstance(step, Quantize):
            reason = _difference(result, operands[0], step.grid, step.layer.left.channel_axis)
        else:
            continue
        if reason is not None:
            found.setdefault(step.layer.layer.name, reason)
    return found


def _expected(step: Kernel, operands: Sequence[Any]) -> Tensor:
    """Return what the reference makes of the codes."""
    out = step.layer.product(from_codes(operands[0], step.grid), step.weight_bits)
    return activate(out if len(operands) == 1 else out + operands[1], step.activation)


def _difference(
    result: Tensor, expected: Tensor, grid: CodeGrid | None, channel_axis: int
) -> str | None:
    if grid is not None:
        return _difference_of_codes(result, to_codes(expected, grid, channel_axis))
    error = float((result - expected).double().norm() / expected.double().norm().clamp_min(1e-30))
    return None if error <= RELATIVE_ERROR else f"relative error {error:.2g}"


def _difference_of_codes(codes: Tensor, expected: Tensor) -> str | None:
    distance = (codes.int() - expected.int()).abs_()
    moved = float((distance > 0).float().mean())
    if int(distance.max()) <= 1 and moved <= max(MOVED_CODES, 1.0 / codes.numel()):
        return None
    return f"codes differ by up to {int(distance.max())}, {moved:.2%} of them"
