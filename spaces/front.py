"""Dominance, fronts and the indicators that compare them; `moocore` does the geometry.

Cost arrays are ``n x d`` with less better in every column, as `as_costs` makes them.
"""

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from .errors import SpaceError
from .measurement import Measurement
from .objectives import DEFAULT_OBJECTIVES, Objective, as_costs

Costs = npt.NDArray[np.float64]


def dominates(first: npt.ArrayLike, second: npt.ArrayLike) -> bool:
    """Return whether one cost vector is nowhere worse than another and somewhere better.

    Examples:
        >>> dominates([1, 2], [1, 3]), dominates([1, 2], [1, 2])
        (True, False)
    """
    a, b = np.asarray(first), np.asarray(second)
    return bool((a <= b).all() and (a < b).any())


def non_dominated(costs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which rows no other row dominates; of equal rows, the first.

    Args:
        costs: ``n x d`` array; rows with NaN are never on the front.
    """
    values = _rows(costs)
    on_front: npt.NDArray[np.bool_] = np.logical_not(np.isnan(values).any(axis=1))
    if on_front.any():
        on_front[on_front] = moocore.is_nondominated(values[on_front], keep_weakly=False)
    return on_front


def pareto_front(
    measurements: Sequence[Measurement], objectives: Sequence[Objective] = DEFAULT_OBJECTIVES
) -> list[Measurement]:
    """Return the measurements that no other dominates, cheapest first.

    Failed measurements are left out; of equally good ones the first is kept.

    Args:
        measurements: Any measurements, of one split.
        objectives: What to compare; the last one orders the front.
    """
    valid = [m for m in measurements if not m.failed]
    mask = non_dominated(as_costs(valid, objectives))
    front = [m for m, keep in zip(valid, mask, strict=True) if keep]
    return sorted(front, key=lambda m: tuple(reversed(as_costs([m], objectives)[0])))


def reference_point(objectives: Sequence[Objective] = DEFAULT_OBJECTIVES) -> Costs:
    """Return the standard reference for the hypervolume: accuracy 0 at uniform 8-bit energy.

    Fixed, so that volumes of different studies compare.

    Raises:
        SpaceError: For an objective with no natural worst value (size, bops).
    """
    worst = {"accuracy": 0.0, "energy": 1.0}
    if unknown := [o.name for o in objectives if o.name not in worst]:
        raise SpaceError(
            f"objective {unknown[0]!r} has no standard reference for the hypervolume; give one"
        )
    return np.array([worst[o.name] for o in objectives])


def hypervolume(costs: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the volume dominated by the costs, up to the reference point.

    Args:
        costs: ``n x d`` array; rows beyond the reference and rows with NaN add nothing.
        reference: ``d`` values, worse than what counts.
    """
    values = _rows(costs)
    values = values[~np.isnan(values).any(axis=1)]
    if len(values) == 0:
        return 0.0
    return float(moocore.hypervolume(values, ref=np.asarray(reference, dtype=np.float64)))


def igd_plus(costs: npt.ArrayLike, reference_front: npt.ArrayLike) -> float:
    """Return the modified inverted generational distance to a reference front.

    H. Ishibuchi et al., "Modified distance calculation in generational distance and inverted
    generational distance", EMO 2015. Weakly Pareto-compliant; 0 when the costs dominate or cover
    the reference.

    Args:
        costs: ``n x d`` array, n >= 1.
        reference_front: ``m x d`` array to be approximated.
    """
    return float(moocore.igd_plus(_rows(costs), ref=_rows(reference_front)))


def _rows(costs: npt.ArrayLike) -> Costs:
    values = np.asarray(costs, dtype=np.float64)
    if values.ndim != 2:
        raise SpaceError(f"costs must be an n x d array, got shape {values.shape}")
    return np.ascontiguousarray(values)
