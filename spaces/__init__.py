"""Layers, bit-width spaces, allocations, measurements and fronts: the values every floor needs."""

from .allocation import KNOWN_WIDTHS, BitAllocation, Bits, ChannelBits
from .errors import (
    BitfrontError,
    DataError,
    EnergyTableError,
    EvaluationError,
    InfeasibleError,
    ModelError,
    SpaceError,
    StudyError,
    nearest,
)
from .layer import FLOAT_BITS, Layer, LayerKind
from .measurement import Measurement, Split
from .objectives import DEFAULT_OBJECTIVES, OBJECTIVES, Objective, as_costs, objective

__all__ = [
    "DEFAULT_OBJECTIVES",
    "FLOAT_BITS",
    "KNOWN_WIDTHS",
    "OBJECTIVES",
    "BitAllocation",
    "BitfrontError",
    "Bits",
    "ChannelBits",
    "DataError",
    "EnergyTableError",
    "EvaluationError",
    "InfeasibleError",
    "Layer",
    "LayerKind",
    "Measurement",
    "ModelError",
    "Objective",
    "Split",
    "SpaceError",
    "StudyError",
    "as_costs",
    "nearest",
    "objective",
]
