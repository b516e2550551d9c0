"""How a search went, step by step: what people are shown as curves and heat maps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

from ..spaces import BitAllocation, Bits, StudyError

_DIGITS = 3
"""Decimal places of a mean width; no picture shows more."""


@dataclass
class Trace:
    """Where a search stood after each of its steps.

    A step is whatever a strategy goes by: an episode, an epoch, a generation. Nothing here is used
    to decide; it is for people.

    Attributes:
        step: What one step is called.
        layers: Layer names, in network order.
        metrics: One value per step by the metric's name; None where a step has none.
        weight_bits: Mean width of the weights of each layer, steps x L. A learned width is a real
            number, between those that a layer may take.
        activation_bits: Mean width of the input activations of each layer, steps x L.

    Examples:
        >>> trace = Trace("epoch", ("conv", "fc"))
        >>> trace.add(BitAllocation(["conv", "fc"], [8, 4], [8, [4, 8]]), {"reward": 0.5})
        >>> trace.metrics, trace.weight_bits, trace.activation_bits
        ({'reward': [0.5]}, [[8, 4]], [[8, 6.0]])
    """

    step: str
    layers: tuple[str, ...]
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    weight_bits: list[list[float]] = field(default_factory=list)
    activation_bits: list[list[float]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.weight_bits)

    def add(
        self,
        allocation: BitAllocation,
        metrics: Mapping[str, SupportsFloat | None],
        *,
        weight_bits: Sequence[SupportsFloat] | None = None,
        activation_bits: Sequence[SupportsFloat] | None = None,
    ) -> None:
        """Add a step.

        Args:
            allocation: What the search stood at.
            metrics: Values by name. What is not finite counts as no value; a metric may be new,
                and may be missing.
            weight_bits: Widths of the layers' weights to show in place of the allocation's.
            activation_bits: The same for their input activations.

        Raises:
            StudyError: If a value is no number, a width is not finite or not one for each layer,
                or the allocation is one of other layers.
        """
        if allocation.layers != self.layers:
            raise StudyError("an allocation of other layers than those of the trace was logged")
        values = {name: finite(name, value) for name, value in metrics.items()}
        rows = [
            _means(bits) if learned is None else self._row(name, learned)
            for name, learned, bits in (
                ("weight_bits", weight_bits, allocation.weights),
                ("activation_bits", activation_bits, allocation.activations),
            )
        ]
        for name in values:
            self.metrics.setdefault(name, [None] * len(self))
        for name, column in self.metrics.items():
            column.append(values.get(name))
        self.weight_bits.append(rows[0])
        self.activation_bits.append(rows[1])

    def _row(self, name: str, widths: Sequence[SupportsFloat]) -> list[float]:
        """Return learned widths as plain numbers.

        Raises:
            StudyError: If they are not a finite number for each layer.
        """
        try:
            row = [round(float(width), _DIGITS) for width in widths]
        except (TypeError, ValueError, OverflowError) as error:
            raise StudyError(f"{name} must be a list of finite numbers, got {widths!r}") from error
        if len(row) != len(self.layers) or not all(map(math.isfinite, row)):
            raise StudyError(
                f"{name} must have a finite number for each of the {len(self.layers)} layers, "
                f"got {row}"
            )
        return row

    def last(self, metric: str) -> float | None:
        """Return the last value that a metric has; None if it never had one."""
        column = self.metrics.get(metric, [])
        return next((value for value in reversed(column) if value is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "step": self.step,
            "layers": list(self.layers),
            "metrics": {name: list(column) for name, column in self.metrics.items()},
            "weight_bits": [list(row) for row in self.weight_bits],
            "activation_bits": [list(row) for row in self.activation_bits],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Trace":
        """Build a trace from what `to_dict` returns.

        Raises:
            StudyError: If the values are no trace.
        """
        try:
            trace = cls(
                str(values["step"]),
                tuple(map(str, values["layers"])),
                {
                    str(name): [finite(name, value) for value in column]
                    for name, column in values["metrics"].items()
                },
                [[_number(bits) for bits in row] for row in values["weight_bits"]],
                [[_number(bits) for bits in row] for row in values["activation_bits"]],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(f"these values are no trace: {error!r}") from error
        steps, layers = len(trace), len(trace.layers)
        rows = (*trace.weight_bits, *trace.activation_bits)
        if (
            len(trace.activation_bits) != steps
            or any(len(column) != steps for column in trace.metrics.values())
            or any(len(row) != layers for row in rows)
        ):
            raise StudyError("these values are no trace: its columns differ in length")
        return trace


def finite(name: str, value: SupportsFloat | None) -> float | None:
    """Return a metric's value as a plain number, None where there is none.

    Raises:
        StudyError: If it is no number.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise StudyError(f"the metric {name!r} must be a number, got {value!r}") from error
    return number if math.isfinite(number) else None


def _means(bits: Sequence[Bits]) -> list[float]:
    return [b if isinstance(b, int) else round(float(b.mean()), _DIGITS) for b in bits]


def _number(bits: Any) -> float:
    """Return a width as it was written: whole ones stay whole."""
    return bits if isinstance(bits, int) else float(bits)
