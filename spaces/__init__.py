"""Layers, bit-width spaces, allocations, measurements and fronts: the values every floor needs."""

from .allocation import KNOWN_WIDTHS, BitAllocation, Bits, ChannelBits
from .dynamic import DynamicAllocation, DynamicKind, Selector, check_thresholds
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
from .slots import OPERANDS, Operand
from .space import BitSpace, Granularity
from .usage import Ablation, InputGroup, Usage

__all__ = [
    "DEFAULT_OBJECTIVES",
    "FLOAT_BITS",
    "KNOWN_WIDTHS",
    "METRICS",
    "OBJECTIVES",
    "OPERANDS",
    "Ablation",
    "BitAllocation",
    "BitSpace",
    "BitfrontError",
    "Bits",
    "ChannelBits",
    "DataError",
    "DynamicAllocation",
    "DynamicKind",
    "EnergyTableError",
    "EvaluationError",
    "Granularity",
    "InfeasibleError",
    "InputGroup",
    "Layer",
    "LayerKind",
    "Measurement",
    "ModelError",
    "Objective",
    "Operand",
    "OutOfTimeError",
    "Scores",
    "Selector",
    "SolverError",
    "SpaceError",
    "Split",
    "StudyError",
    "Usage",
    "as_costs",
    "check_thresholds",
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
