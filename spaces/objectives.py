"""What is compared: objectives and their directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import SpaceError, nearest
from .measurement import Measurement


@dataclass(frozen=True, slots=True)
class Objective:
    """One quantity to improve.

    Attributes:
        name: The word used in studies and tables.
        attribute: The field of `Measurement` it reads.
        maximize: Whether more is better.
        unit: Unit of the value, for axes and tables.
    """

    name: str
    attribute: str
    maximize: bool
    unit: str

    def of(self, measurement: Measurement) -> float:
        """Return the objective's value in its own direction and unit."""
        return float(getattr(measurement, self.attribute))


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "accuracy", True, "fraction"),
        Objective("loss", "loss", False, "nats"),
        Objective("energy", "energy_vs_w8a8", False, "of uniform 8 bit"),
        Objective("size", "size_bytes", False, "bytes"),
        Objective("bops", "bops", False, "bit operations"),
        Objective("mean_weight_bits", "mean_weight_bits", False, "bits"),
        Objective("mean_activation_bits", "mean_activation_bits", False, "bits"),
    )
}
"""The objectives a study may name. ``energy`` is relative, so that every table can serve it."""

DEFAULT_OBJECTIVES = (OBJECTIVES["accuracy"], OBJECTIVES["energy"])


def objective(name: str) -> Objective:
    """Return the objective of that name.

    Raises:
        SpaceError: If there is none; the message names the nearest.
    """
    if name not in OBJECTIVES:
        raise SpaceError(f"no objective {name!r}; {nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def as_costs(
    measurements: Sequence[Measurement], objectives: Sequence[Objective] = DEFAULT_OBJECTIVES
) -> npt.NDArray[np.float64]:
    """Return an ``n x d`` array in which less is better in every column.

    Args:
        measurements: ``n`` measurements.
        objectives: ``d`` objectives; columns of maximized ones are negated.
    """
    rows = [[-o.of(m) if o.maximize else o.of(m) for o in objectives] for m in measurements]
    return np.array(rows, dtype=np.float64).reshape(len(measurements), len(objectives))
