"""Measuring quantized networks on integer kernels; the reference stays `QuantizedModel`."""

from .engine import Engine, EngineReport, EngineWarning
from .steps import NonFiniteError

__all__ = ["Engine", "EngineReport", "EngineWarning", "NonFiniteError"]
