"""An itemised price."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .traffic import Item


@dataclass(frozen=True)
class EnergyReport:
    """What an allocation costs, and where.

    Attributes:
        table: Name of the table.
        quantity: What was priced: ``energy``, ``latency``, ...
        unit: Unit of every value.
        layers: Layer names.
        items: What the columns of ``values`` are spent on.
        values: ``L x items`` array.
        notes: What a reader should know before trusting the numbers.
    """

    table: str
    quantity: str
    unit: str
    layers: tuple[str, ...]
    items: tuple[Item, ...]
    values: npt.NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """The price of the network."""
        return float(self.values.sum())

    def by_layer(self) -> dict[str, float]:
        """Return the price of each layer."""
        return dict(zip(self.layers, self.values.sum(axis=1).tolist(), strict=True))

    def by_component(self) -> dict[str, float]:
        """Return the price of each component: ``multiply``, ``accumulate``, ``weights``, ..."""
        return _grouped(self.items, self.values.sum(axis=0), lambda item: item.component)

    def by_level(self) -> dict[str, float]:
        """Return the price of each memory level; what is no memory is ``arithmetic``."""
        return _grouped(
            self.items, self.values.sum(axis=0), lambda item: item.level or "arithmetic"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "table": self.table,
            "quantity": self.quantity,
            "unit": self.unit,
            "total": self.total,
            "components": self.by_component(),
            "levels": self.by_level(),
            "layers": [
                {
                    "name": name,
                    "total": float(row.sum()),
                    "items": [
                        {"component": item.component, "level": item.level, "value": value}
                        for item, value in zip(self.items, row.tolist(), strict=True)
                    ],
                }
                for name, row in zip(self.layers, self.values, strict=True)
            ],
            "notes": list(self.notes),
        }


def _grouped(
    items: tuple[Item, ...], values: npt.NDArray[np.float64], key: Callable[[Item], str]
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for item, value in zip(items, values.tolist(), strict=True):
        sums[key(item)] = sums.get(key(item), 0.0) + value
    return sums
