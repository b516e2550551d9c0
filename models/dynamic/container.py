"""The one grid of 8-bit codes in which an operand's channels have whatever width is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...spaces import ModelError
from ..config import ActivationScheme
from ..quantizers import CONTAINER_BITS, Grid, channel_grid

LARGEST_CODE = 2**CONTAINER_BITS - 1


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """The grids of several widths, all on one grid of 8-bit codes.

    Codes of b bits are multiples of ``2**(8 - b)``; see `quantizers.channel_grid`.

    Attributes:
        widths: Ascending, at most 8 bits each.
        grids: Their grids: each part has one entry per width.
        unit: Distance of neighbouring 8-bit codes' values.
        zero_point: 8-bit code of zero, counted from 0.
    """

    widths: tuple[int, ...]
    grids: Grid
    unit: float
    zero_point: int

    @classmethod
    def of(
        cls,
        ranges: Mapping[int, tuple[float, float]],
        widths: tuple[int, ...],
        scheme: ActivationScheme,
    ) -> "Container":
        """Return the container of widths that may be chosen.

        A constant choice is bit for bit what fixed widths by channel give, as long as all of the
        widths are there: which widths there are decides the range.

        Args:
            ranges: Calibrated lower and upper end of each width.
            widths: See `check_widths`.
            scheme: Of activations.
        """
        check_widths(widths)
        grids = channel_grid(ranges, np.array(widths, dtype=np.uint8), scheme)
        assert grids.unit is not None
        lowest, zero = (part[0].item() for part in _tensors(grids.lowest, grids.zero_point))
        step = 2 ** (CONTAINER_BITS - widths[0])
        return cls(widths, grids, grids.unit, int(zero - lowest) * step)

    def chosen(self, index: Tensor) -> Grid:
        """Return the grid for a choice.

        Args:
            index: Places among the widths; shaped to broadcast against the data.
        """
        g = self.grids
        parts = _tensors(g.scale, g.zero_point, g.lowest, g.highest)
        scale, zero_point, lowest, highest = (part.to(index.device)[index] for part in parts)
        return Grid(scale, zero_point, lowest, highest, unit=self.unit)

    def grid(self, place: int) -> Grid:
        """Return the grid of one of the widths."""
        g = self.grids
        parts = _tensors(g.scale, g.zero_point, g.lowest, g.highest)
        scale, zero_point, lowest, highest = (part[place].item() for part in parts)
        return Grid(scale, int(zero_point), int(lowest), int(highest), unit=self.unit)

    def whole(self, x: Tensor) -> Tensor:
        """Return values on the finest grid, as whole numbers in float32 with zero at 0."""
        codes = torch.mul(x.detach().to(torch.float32), 1 / self.unit).round_()
        return codes.clamp_(-self.zero_point, LARGEST_CODE - self.zero_point)


def check_widths(widths: tuple[int, ...]) -> None:
    """Check widths that a gate may choose from.

    Raises:
        ModelError: If there is none, they do not rise, or one does not fit into 8-bit codes.
    """
    if not widths or list(widths) != sorted(set(widths)):
        raise ModelError(f"a gate needs widths that rise, such as (4, 8), got {tuple(widths)}")
    if widths[0] < 2 or widths[-1] > CONTAINER_BITS:
        raise ModelError(f"a gate chooses from widths of 2 to 8 bits, got {tuple(widths)}")


def _tensors(*parts: float | Tensor) -> tuple[Tensor, ...]:
    assert all(isinstance(part, Tensor) for part in parts)
    return parts  # type: ignore[return-value]
