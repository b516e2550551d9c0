"""Scoring the same allocations under several tables: the winner can depend on the table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spaces import BitAllocation, Layer, Usage
from .dynamic import usage_energy
from .geometry import check_layers
from .model import EnergyModel
from .options import EnergyOptions
from .schema import EnergyTable


@dataclass(frozen=True)
class Scores:
    """Prices of ``n`` candidates under ``t`` tables, and how far the tables agree.

    Attributes:
        tables: Table names.
        values: ``t x n`` prices, each row in its table's unit.
        relative: ``t x n`` prices over those of uniform 8 bit.
        tau: ``t x t`` rank agreement, Kendall's tau-b: 1 if two tables order the candidates
            alike, -1 if in reverse; NaN if a table prices all of them the same.
    """

    tables: tuple[str, ...]
    values: npt.NDArray[np.float64]
    relative: npt.NDArray[np.float64]
    tau: npt.NDArray[np.float64]

    def cheapest(self) -> dict[str, int]:
        """Return, for each table, the index of the candidate it prices lowest."""
        return dict(zip(self.tables, self.values.argmin(axis=1).tolist(), strict=True))


def score_under(
    tables: Sequence[EnergyTable],
    layers: Sequence[Layer],
    candidates: Sequence[BitAllocation | Usage],
    *,
    options: EnergyOptions | None = None,
) -> Scores:
    """Price candidates under several tables.

    What was chosen while a network ran is priced as the mean over its inputs, deciding included.

    Args:
        tables: ``t`` tables.
        layers: The network.
        candidates: ``n`` allocations of it, or what was chosen in it.
        options: How to apply every table.

    Raises:
        EnergyTableError: If a table cannot price one of the candidates, or the selectors of one.
        SpaceError: If a candidate is not one of these layers.
    """
    chosen = options or EnergyOptions()
    models = [EnergyModel(table, layers, options=chosen) for table in tables]
    values = np.array([[_energy(model, c) for c in candidates] for model in models])
    return Scores(
        tables=tuple(table.id for table in tables),
        values=values,
        relative=values / np.array([[model.w8a8] for model in models]),
        tau=_rank_agreement(values),
    )


def _energy(model: EnergyModel, candidate: BitAllocation | Usage) -> float:
    if isinstance(candidate, Usage):
        check_layers(model.layers, candidate.allocation.widest)
        return usage_energy(model, candidate)
    return model.energy(candidate)


def _rank_agreement(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.stats import kendalltau

    tau = np.empty((len(values), len(values)))
    for i, one in enumerate(values):
        for j in range(i + 1):
            tau[i, j] = tau[j, i] = kendalltau(one, values[j]).statistic
    return tau
