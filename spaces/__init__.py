"""Layers, bit-width spaces, allocations, measurements and fronts: the values every floor needs."""

from .allocation import KNOWN_WIDTHS, BitAllocation, Bits, ChannelBits
from .errors import (
    BitfrontError,
    DataError,
    EnergyTableError,
    EvaluationError,
    InfeasibleError,
    ModelError,
    OutOfTimeError,
    SolverError,
    SpaceError,
    StudyError,
    nearest,
)
from .front import (
    dominates,
    hypervolume,
    igd_plus,
    non_dominated,
    pareto_front,
    reference_point,
)
from .layer import FLOAT_BITS, Layer, LayerKind
from .measurement import METRICS, Measurement, Split
from .objectives import DEFAULT_OBJECTIVES, OBJECTIVES, Objective, as_costs, objective
from .scores import Scores, score_signature
from .space import BitSpace, Granularity

__all__ = [
    "DEFAULT_OBJECTIVES",
    "FLOAT_BITS",
    "KNOWN_WIDTHS",
    "METRICS",
    "OBJECTIVES",
    "BitAllocation",
    "BitSpace",
    "BitfrontError",
    "Bits",
    "ChannelBits",
    "DataError",
    "EnergyTableError",
    "EvaluationError",
    "Granularity",
    "InfeasibleError",
    "Layer",
    "LayerKind",
    "Measurement",
    "ModelError",
    "Objective",
    "OutOfTimeError",
    "Scores",
    "SolverError",
    "SpaceError",
    "Split",
    "StudyError",
    "as_costs",
    "dominates",
    "hypervolume",
    "igd_plus",
    "nearest",
    "non_dominated",
    "objective",
    "pareto_front",
    "reference_point",
    "score_signature",
]
