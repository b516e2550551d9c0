"""How the values of an operand belong to the decisions about them."""

import math
from dataclasses import dataclass

from torch import Tensor

from ...spaces import Layer, ModelError


@dataclass(frozen=True, slots=True)
class Layout:
    """Which values of an operand are decided about together.

    The first axis of an operand is that of the inputs. One of the others is that of the decisions:
    neighbours on it, ``group`` at a time, have one decision.

    Attributes:
        axis: Axis of the decisions, counted from the end.
        decisions: How many there are for an input.
        group: Neighbours that have one decision.
        sizes: Sizes of all further axes, if they are known.
    """

    axis: int
    decisions: int
    group: int = 1
    sizes: tuple[int, ...] = ()

    @property
    def available(self) -> int:
        """Values of each decision in one input, where `sizes` are known."""
        return self.group * math.prod(self.sizes)

    def positions(self, most: int) -> int:
        """Return how many values of each decision `sampled` looks at; of known `sizes`.

        Args:
            most: Most values that may be looked at.
        """
        return _count(self._extents(self.sizes), _stride(self._extents(self.sizes), most))

    def sampled(self, x: Tensor, most: int) -> Tensor:
        """Return the values that decisions look at: a regular grid of them.

        The grid has the smallest stride with which there are at most so many values, the same one
        along each axis, and lies in the middle.

        Args:
            x: The operand.
            most: Most values of each decision.

        Returns:
            A view of `x`: inputs first, decisions last; see `by_decision`.

        Raises:
            ModelError: If the operand has other channels.
        """
        self.check(x)
        x = x.movedim(self.axis, -1)
        if self.group > 1:
            x = x.reshape(*x.shape[:-1], self.decisions, self.group).transpose(-1, -2)
        sizes = x.shape[1:-1]
        stride = _stride(sizes, most)
        slices = (slice((size - 1) % stride // 2, None, stride) for size in sizes)
        return x[(slice(None), *slices)]

    def spread(self, decided: Tensor, dim: int) -> Tensor:
        """Return a value per decision, shaped to broadcast against the operand.

        Args:
            decided: ``n x decisions``.
            dim: Number of axes of the operand.
        """
        if self.group > 1:
            decided = decided.repeat_interleave(self.group, dim=1)
        shape = [len(decided)] + [1] * (dim - 1)
        shape[self.axis] = -1
        return decided.view(shape)

    def summed(self, x: Tensor) -> Tensor:
        """Return the sum of the values of each decision, ``n x decisions``; undoes `spread`."""
        axes = [axis for axis in range(1, x.dim()) if axis != x.dim() + self.axis]
        sums = x.sum(axes) if axes else x
        return sums.view(len(x), self.decisions, self.group).sum(-1) if self.group > 1 else sums

    def check(self, x: Tensor) -> None:
        """Check that an operand has this layout.

        Raises:
            ModelError: If it has not.
        """
        channels = self.decisions * self.group
        if x.dim() <= -self.axis or x.shape[self.axis] != channels:
            raise ModelError(
                f"a gate for {channels} channels on axis {self.axis} was given an operand of shape "
                f"{tuple(x.shape)}"
            )

    def _extents(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes, self.group) if self.group > 1 else sizes


def layout_for(layer: Layer, decisions: int) -> Layout:
    """Return the layout of an operand of a layer, of unknown `Layout.sizes`.

    Args:
        layer: The layer.
        decisions: How many decisions there are for an input.

    Raises:
        ModelError: If the layer's channels do not come in that many equal groups.
    """
    if layer.kind == "matmul":
        return Layout(-3, decisions)
    if decisions < 1 or layer.in_channels % decisions:
        raise ModelError(
            f"layer {layer.name!r} has {layer.in_channels} input channels, which do not come in "
            f"{decisions} equal groups"
        )
    if layer.kind == "conv" and decisions != layer.in_channels:
        raise ModelError(
            f"layer {layer.name!r} needs a decision for each of its {layer.in_channels} channels, "
            f"got {decisions}"
        )
    return Layout(-3 if layer.kind == "conv" else -1, decisions, layer.in_channels // decisions)


def by_decision(sampled: Tensor) -> Tensor:
    """Return ``n x decisions x values`` of what `Layout.sampled` gives, or is computed of it."""
    return sampled.reshape(len(sampled), -1, sampled.shape[-1]).transpose(1, 2)


def _stride(sizes: tuple[int, ...], most: int) -> int:
    """Return the smallest stride with at most so many positions."""
    if most < 1:
        raise ModelError(f"a decision looks at 1 value at least, got {most}")
    stride = 1
    while _count(sizes, stride) > most:
        stride += 1
    return stride


def _count(sizes: tuple[int, ...], stride: int) -> int:
    return math.prod(-(-size // stride) for size in sizes)
