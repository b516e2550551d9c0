"""What allocations cost before anything is measured, and whether limits on it can be met."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..energy import usage_costs, usage_energy
from ..spaces import (
    FLOAT_BITS,
    OBJECTIVES,
    BitAllocation,
    BitSpace,
    InfeasibleError,
    Measurement,
    StudyError,
    Usage,
    nearest,
)
from .budget import limit_text

if TYPE_CHECKING:
    from ..energy import EnergyModel

Floats = npt.NDArray[np.float64]

_WIDTHS = FLOAT_BITS + 1

SLACK = 1e-12
"""Share of a limit by which a cost may be above it."""


@dataclass(frozen=True)
class Pricing:
    """Prices the allocations of one network by name.

    A cost is called ``energy`` (relative to uniform 8 bit), ``energy:TABLE`` (the same under a
    further table, such as a latency table), ``size`` (bytes), ``bops``, ``mean_weight_bits`` or
    ``mean_activation_bits``.

    Attributes:
        energy: The energy model.
        tables: Further energy models of the same network, by the name of their table.
    """

    energy: "EnergyModel"
    tables: "Mapping[str, EnergyModel]" = field(default_factory=dict)

    def price(self, allocation: BitAllocation, name: str = "energy") -> float:
        """Return what an allocation costs.

        Raises:
            StudyError: If there is no such cost.
            EnergyTableError: If a table does not support a width.
        """
        if ":" in name:
            model = self._model(name)
            return model.energy(allocation) / model.w8a8
        _require_known(name)
        return float(getattr(self.energy.costs(allocation), OBJECTIVES[name].attribute))

    def layer_costs(self, name: str = "energy") -> Floats:
        """Return the cost of each layer by weight and activation width.

        Their sum over the layers is the price of a per-layer allocation; of ``size``, before it is
        rounded up to a byte.

        Returns:
            ``L x 33 x 33`` array; NaN where a table does not support a width.

        Raises:
            StudyError: If there is no such cost.
        """
        if name == "energy" or ":" in name:
            model = self._model(name)
            return model.layer_costs / model.w8a8
        _require_known(name)
        layers, bits = self.energy.layers, np.arange(_WIDTHS, dtype=np.float64)
        weight, activation = np.broadcast_arrays(bits[:, None], bits[None, :])

        def of_layers(attribute: str) -> Floats:
            return np.array([getattr(layer, attribute) for layer in layers], dtype=np.float64)

        if name == "bops":
            return _outer(of_layers("macs"), weight * activation)
        if name == "mean_weight_bits":
            counts = of_layers("weight_count")
            return _outer(counts / counts.sum(), weight)
        if name == "mean_activation_bits":
            left, right = of_layers("input_count"), of_layers("operand_count")
            total = left.sum() + right.sum()
            return _outer(left / total, activation) + _outer(right / total, weight)
        return np.stack([self._sizes(weight, index) for index in range(len(layers))])

    def sum_limit(self, name: str, limit: float) -> float:
        """Return how large the sum of `layer_costs` may be for the price to be within a limit.

        A size is rounded up to whole bytes.
        """
        return math.floor(limit) if name == "size" else limit

    def allows(self, allocation: BitAllocation, limits: Mapping[str, float]) -> bool:
        """Return whether every limited cost is known (not NaN) and within its limit."""
        return all(is_within(self.price(allocation, name), limits[name]) for name in limits)

    def price_of(self, measurement: Measurement, name: str = "energy") -> float:
        """Return what was measured costs: of a dynamic allocation, on average over its inputs.

        Raises:
            StudyError: If there is no such cost.
            EnergyTableError: If a table does not support a width, or cannot price a decision.
        """
        if measurement.dynamic is None:
            return self.price(measurement.allocation, name)
        return self.price_of_usage(measurement.dynamic, name)

    def price_of_usage(self, usage: Usage, name: str = "energy") -> float:
        """Return what a dynamic allocation costs on average, by how often it chose what.

        Raises:
            StudyError: If there is no such cost.
            EnergyTableError: If a table does not support a width, or cannot price a decision.
        """
        if ":" in name:
            model = self._model(name)
            return usage_energy(model, usage) / model.w8a8
        _require_known(name)
        return float(getattr(usage_costs(self.energy, usage), OBJECTIVES[name].attribute))

    def within(self, measurement: Measurement, limits: Mapping[str, float]) -> bool:
        """Return whether what was measured respects limits; see `price_of`."""
        return all(is_within(self.price_of(measurement, name), limits[name]) for name in limits)

    def smallest(self, space: BitSpace, name: str) -> float:
        """Return the smallest cost any allocation of a space has.

        Raises:
            InfeasibleError: If no allocation of the space has a known cost.
        """
        _, cheapest = space.minimum(self.layer_costs(name))
        return self.price(cheapest, name)

    def check_feasible(self, space: BitSpace, limits: Mapping[str, float]) -> None:
        """Check that some allocation of a space respects each limit, by itself.

        Raises:
            StudyError: If a limit names a cost there is not.
            InfeasibleError: Saying the smallest achievable cost.
        """
        for name, limit in limits.items():
            smallest = self.smallest(space, name)
            if not is_within(smallest, limit):
                raise InfeasibleError(
                    f"no allocation has {name} <= {limit_text(limit)} ({unit_of(name)}); the "
                    f"smallest achievable is {shown_cost(smallest)}: raise the limit or allow "
                    f"smaller widths"
                )

    def _model(self, name: str) -> "EnergyModel":
        _, _, table = name.partition(":")
        if not table:
            return self.energy
        known = {self.energy.table.id: self.energy, **self.tables}
        if table not in known:
            raise StudyError(
                f"{name!r} is a cost under a table the study does not name; {nearest(table, known)}"
            )
        return known[table]

    def _sizes(self, weight: Floats, index: int) -> Floats:
        from ..energy.size import PARAMETER_BITS

        layer = self.energy.layers[index]
        if layer.kind == "matmul":
            return np.zeros_like(weight)
        scales = np.where(weight == FLOAT_BITS, 0, layer.out_channels)
        bits: Floats = layer.weight_count * weight + PARAMETER_BITS * (layer.bias_count + scales)
        return bits / 8


def _outer(layers: Floats, pairs: Floats) -> Floats:
    return layers[:, None, None] * pairs


def is_within(cost: Any, limit: float) -> Any:
    """Return whether a cost, or each of an array, is at most a limit.

    The last digits of a sum depend on the order of its terms. A limit that an allocation meets
    exactly is met however its cost was added up: that is what the slack is for.

    Examples:
        >>> is_within(0.1 + 0.2, 0.3), is_within(0.3 * (1 + 1e-9), 0.3), is_within(math.nan, 1.0)
        (True, False, False)
    """
    return cost <= limit + SLACK * abs(limit)


def shown_cost(cost: float) -> str:
    """Return a cost with four digits, rounded up, so that it is one that can be asked for.

    Examples:
        >>> shown_cost(0.123412), shown_cost(1234567)
        ('0.1235', '1235000')
    """
    if not math.isfinite(cost):
        return str(cost)
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal(cost):f}"


def unit_of(name: str) -> str:
    """Return the unit of a cost."""
    return OBJECTIVES[name.partition(":")[0]].unit


def _require_known(name: str) -> None:
    known = [o.name for o in OBJECTIVES.values() if o.name not in ("accuracy", "loss")]
    if name not in known:
        raise StudyError(f"no cost {name!r} is known before measuring; {nearest(name, known)}")
