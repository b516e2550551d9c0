"""Pricing allocations on a network's layers with a table."""

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..spaces import FLOAT_BITS, BitAllocation, EnergyTableError, Layer
from . import size
from .batch import sum_over_layers, supported_widths
from .geometry import check_layers, pair_fractions
from .options import EnergyOptions
from .report import EnergyReport
from .schema import EnergyTable
from .table import EnergyEvidenceWarning
from .terms import Floats, Terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of an allocation, as `bitfront.spaces.Measurement` carries them.

    Attributes:
        energy: In the table's unit.
        energy_pj: In pJ; None if that is not the table's unit.
        energy_vs_fp32: Over that of the float network; NaN if the table cannot price float.
        energy_vs_w8a8: Over that of the uniform 8-bit network.
        size_bytes: Weights, biases and scales.
        bops: Bit operations.
        mean_weight_bits: Over all weights.
        mean_activation_bits: Over all input elements.
    """

    energy: float
    energy_pj: float | None
    energy_vs_fp32: float
    energy_vs_w8a8: float
    size_bytes: int
    bops: int
    mean_weight_bits: float
    mean_activation_bits: float


@dataclass(frozen=True, eq=False)
class EnergyModel:
    """Prices bit allocations of one network under one table.

    The cost of a network is the sum over its layers, and that of a layer depends on its own two
    widths only; `layer_costs` is therefore the whole model of per-layer allocations. Where channels
    differ in width, arithmetic is priced by the pairs of channels that meet, and memory by the
    number of values of each width.

    Args:
        table: The numbers.
        layers: The network, ``L`` layers.
        options: How to apply them.

    Raises:
        EnergyTableError: If the table is of another network, or an option asks for what the table
            does not have.

    Warns:
        EnergyEvidenceWarning: If the table rests on numbers that could not be confirmed.
    """

    table: EnergyTable
    layers: Sequence[Layer]
    options: EnergyOptions = field(default=EnergyOptions(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if weak := self.table.weak_parts:
            parts = ", ".join(f"{name} ({level})" for name, level in weak.items())
            warnings.warn(
                f"energy table {self.table.id} rests on unconfirmed numbers: {parts}; "
                "do not draw conclusions from it alone",
                EnergyEvidenceWarning,
                stacklevel=3,
            )
        _ = self._terms  # what can never be priced fails here, not in the middle of a search

    @cached_property
    def _terms(self) -> Terms:
        return Terms(self.table, self.layers, self.options)

    @property
    def unit_is_pj(self) -> bool:
        """Whether prices are absolute energies."""
        return self.table.unit == "pJ"

    @cached_property
    def layer_costs(self) -> Floats:
        """Price of each layer by weight and activation width, ``L x 33 x 33``, read-only.

        NaN where the table does not support a width.
        """
        costs = self._terms.grid()
        costs.flags.writeable = False
        return costs

    @cached_property
    def digest(self) -> str:
        """A name of all prices of layers."""
        return hashlib.sha256(self.layer_costs.tobytes()).hexdigest()[:32]

    @cached_property
    def fp32(self) -> float:
        """Price of the float network; NaN if the table cannot price float."""
        return float(self.layer_costs[:, FLOAT_BITS, FLOAT_BITS].sum())

    @cached_property
    def w8a8(self) -> float:
        """Price of the network with 8 bits everywhere; NaN if the table has no 8 bits."""
        return float(self.layer_costs[:, 8, 8].sum())

    def price(self, allocation: BitAllocation) -> EnergyReport:
        """Return the itemised price of an allocation.

        Args:
            allocation: Widths of these layers, per layer or per channel.

        Raises:
            EnergyTableError: If the table does not support a width.
            SpaceError: If the allocation is not one of these layers.
        """
        fractions = pair_fractions(self.layers, allocation)
        self._require_supported(fractions > 0)
        costs = self._terms.mixed(fractions)
        return EnergyReport(
            table=self.table.id,
            quantity=self.table.quantity,
            unit=self.table.unit,
            layers=tuple(layer.name for layer in self.layers),
            items=tuple(costs),
            values=np.stack(list(costs.values()), axis=1),
            notes=self._terms.notes(),
        )

    def energy(self, allocation: BitAllocation) -> float:
        """Return the price of an allocation, in the table's unit.

        Raises:
            EnergyTableError: If the table does not support a width.
            SpaceError: If the allocation is not one of these layers.
        """
        if not allocation.is_layerwise:
            return self.price(allocation).total
        check_layers(self.layers, allocation)
        rows = np.array([allocation.weights]), np.array([allocation.activations])
        return float(self.price_many(*rows)[0])

    def price_many(
        self, weight_bits: npt.NDArray[np.integer], activation_bits: npt.NDArray[np.integer]
    ) -> Floats:
        """Return the prices of many per-layer allocations.

        Args:
            weight_bits: ``n x L`` integers.
            activation_bits: ``n x L`` integers.

        Returns:
            ``n`` prices in the table's unit.

        Raises:
            EnergyTableError: If the shapes do not fit, or the table does not support a width.
        """
        weights, activations = np.asarray(weight_bits), np.asarray(activation_bits)
        prices = sum_over_layers(self.layer_costs, weights, activations)
        if np.isnan(prices).any():
            row = int(np.argmax(np.isnan(prices)))
            used = np.zeros(self.layer_costs.shape, dtype=bool)
            used[np.arange(len(self.layers)), weights[row], activations[row]] = True
            self._require_supported(used)
        return prices

    def price_torch(self, weight_bits: "Tensor", activation_bits: "Tensor") -> "Tensor":
        """Return prices as a differentiable function of continuous widths.

        A formula is used as it stands. A table of discrete widths is interpolated linearly between
        the supported ones, operand by operand. At whole widths both equal `price_many`.

        Args:
            weight_bits: ``... x L`` floating-point tensor.
            activation_bits: ``... x L`` floating-point tensor.

        Returns:
            Prices ``...`` in the table's unit, of the widths' type; computed in float64.

        Raises:
            EnergyTableError: If a width is outside of what the table supports.
        """
        from .continuous import price_continuous

        return price_continuous(self._terms, self.layer_costs, weight_bits, activation_bits)

    def costs(self, allocation: BitAllocation) -> Costs:
        """Return every cost of an allocation that needs no measurement.

        Raises:
            EnergyTableError: If the table does not support a width.
            SpaceError: If the allocation is not one of these layers.
        """
        energy = self.energy(allocation)
        return Costs(
            energy=energy,
            energy_pj=energy if self.unit_is_pj else None,
            energy_vs_fp32=_ratio(energy, self.fp32),
            energy_vs_w8a8=_ratio(energy, self.w8a8),
            size_bytes=size.size_bytes(self.layers, allocation),
            bops=size.bops(self.layers, allocation),
            mean_weight_bits=size.mean_weight_bits(self.layers, allocation),
            mean_activation_bits=size.mean_activation_bits(self.layers, allocation),
        )

    def _require_supported(self, used: npt.NDArray[np.bool_]) -> None:
        """Raise unless every pair of widths in use, ``L x 33 x 33``, has a price."""
        unpriced = np.argwhere(used & np.isnan(self.layer_costs))
        if len(unpriced) == 0:
            return
        i, weight, activation = unpriced[0]
        ws, as_ = supported_widths(self.layer_costs)
        raise EnergyTableError(
            f"table {self.table.id} cannot price layer {self.layers[i].name!r} with weights of "
            f"{weight} and activations of {activation} bits; it supports weights of "
            f"{', '.join(map(str, ws))} and activations of {', '.join(map(str, as_))} bits"
        )


def _ratio(energy: float, baseline: float) -> float:
    """Return ``energy / baseline``; NaN where nothing is priced, as with both scales at 0."""
    return energy / baseline if baseline else math.nan
