"""Quantization at widths that gates choose, with gradients to what decides about them.

With the points ``x_k`` of a value on the grids of the widths, and gates ``g_k`` that are 0 or 1,
each open only if the one before it is,

    quantized = x_0 + sum_k g_k (x_(k+1) - x_k)

Its derivative with respect to a gate is what the loss would feel of more bits, summed over all
values that the gate decides about; with respect to a value it is that of the grid it was put on.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..quantizers import fake_quantize
from .container import Container
from .layout import Layout


def gated_quantize(x: Tensor, container: Container, gates: Tensor, layout: Layout) -> Tensor:
    """Return values on the grids that gates choose, each rounded once.

    Gradients pass straight through to values that are not clipped by their grid.

    Args:
        x: The values.
        container: Grids of the widths.
        gates: ``n x decisions x (widths - 1)``, 0 or 1.
        layout: Which values each decides about.
    """
    chosen = layout.spread(_places(gates), x.dim())
    points = fake_quantize(x, container.chosen(chosen))
    out: Tensor = _GateGradient.apply(points, gates, x.detach(), container, layout)  # type: ignore[no-untyped-call]
    return out


def select(points: Sequence[Tensor], gates: Tensor, layout: Layout) -> Tensor:
    """Return of several tensors the one that gates choose, for each value.

    Gradients pass to the tensor that was chosen from; so grids may learn, too.

    Args:
        points: The values at each of the widths.
        gates: ``n x decisions x (widths - 1)``, 0 or 1.
        layout: Which values each decides about.
    """
    out: Tensor = _Select.apply(gates, layout, *points)  # type: ignore[no-untyped-call]
    return out


def _places(gates: Tensor) -> Tensor:
    return gates.detach().sum(-1).round().to(torch.int64)


class _GateGradient(torch.autograd.Function):
    """Hands points on; keeps the values, and finds from them what each gate would change."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, gates: Tensor, x: Tensor, container: Container, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.container, ctx.layout, ctx.dtype = container, layout, gates.dtype
        return points.view_as(points)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,), (x,) = gradients, ctx.saved_tensors
        container: Container = ctx.container
        places = range(len(container.widths))
        found = _by_gate(g, [fake_quantize(x, container.grid(k)) for k in places], ctx.layout)
        return g, found.to(ctx.dtype), None, None, None


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, layout: Layout, *points: Tensor) -> Tensor:
        chosen = layout.spread(_places(gates), points[0].dim())
        ctx.save_for_backward(chosen, *points)
        ctx.layout, ctx.dtype = layout, gates.dtype
        out = points[0]
        for place, wider in enumerate(points[1:], 1):
            out = torch.where(chosen == place, wider, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,), (chosen, *points) = gradients, ctx.saved_tensors
        found = _by_gate(g, points, ctx.layout).to(ctx.dtype)
        return found, None, *(g * (chosen == place) for place in range(len(points)))


def _by_gate(g: Tensor, points: Sequence[Tensor], layout: Layout) -> Tensor:
    """Return the gradient of each gate, ``n x decisions x gates``."""
    found = [
        layout.summed((wider - narrower).mul_(g)) for narrower, wider in itertools.pairwise(points)
    ]
    if not found:
        return layout.summed(g).new_zeros(len(g), layout.decisions, 0)
    return torch.stack(found, dim=-1)
