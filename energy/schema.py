"""The schema of an energy table: data only, every number with a unit, a source and a level."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from .parts import (
    Accumulate,
    Evidence,
    EvidenceLevel,
    FloatMac,
    Formula,
    Frozen,
    MemoryLevel,
    Points,
    Rows,
    Source,
    Sourced,
    Static,
    Technology,
    Width,
)

Quantity = Literal["energy", "latency", "cycles", "toggles", "gates"]

WEAK_EVIDENCE: frozenset[EvidenceLevel] = frozenset({"single", "recalled"})
"""Levels that must not pass silently."""


class EnergyTable(Frozen):
    """Numbers that price a bit-width allocation.

    Attributes:
        id: Name of the table; of a variant, ``table:variant``.
        title: One line.
        quantity: What is priced.
        unit: Unit of the result; every number of the table is in it.
        technology: What it was characterised on.
        sources: By the keys that the parts refer to.
        evidence: Level of every part that does not state its own.
        multiply: Cost of a multiplication by formula.
        multiply_linear: The formula of linear layers and matmuls, where it differs.
        accumulate: Cost of an addition; goes with ``multiply``.
        accumulator_bits: Width of the sums; ``exact`` is as wide as the largest sum needs.
        float32: Cost where an operand is float; None if unknown.
        float_as_integer: Price float32 as a 32-bit integer.
        max_bits: Widest integer the formula holds for.
        points: Cost of a multiply-accumulate by lookup, instead of ``multiply``.
        rows: Cost of layers by lookup, instead of everything else.
        memory: Levels by name.
        storage_widths: Widths values are stored at, a width between costing as the next; None
            if they are packed exactly.
        bias_bits: Width of biases in memory; ``weight`` is the width of their layer's weights.
        count_tokens: Whether a linear layer's multiply-accumulates count once per token.
        static: Leakage, priced only on request.
        assumptions: What the numbers take for granted.
        limits: Where they stop being valid.
    """

    id: str
    title: str
    quantity: Quantity = "energy"
    unit: str
    technology: Technology = Technology()
    sources: Mapping[str, Source] = Field(min_length=1)
    evidence: Evidence
    multiply: Formula | None = None
    multiply_linear: Formula | None = None
    accumulate: Accumulate | None = None
    accumulator_bits: Width | Literal["exact"] = 32
    float32: FloatMac | None = None
    float_as_integer: bool = False
    max_bits: Width = 16
    points: Points | None = None
    rows: Rows | None = None
    memory: Mapping[str, MemoryLevel] = {}
    storage_widths: tuple[Width, ...] | None = None
    bias_bits: Width | Literal["weight"] = 32
    count_tokens: bool = True
    static: Static | None = None
    assumptions: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Sourced]:
        """The parts that carry numbers, by their place in the file."""
        named = {
            name: part
            for name in type(self).model_fields
            if isinstance(part := getattr(self, name), Sourced)
        }
        return named | {f"memory.{name}": level for name, level in self.memory.items()}

    @property
    def weak_parts(self) -> dict[str, EvidenceLevel]:
        """The parts that rest on weak evidence, and its level."""
        levels = {name: part.evidence or self.evidence.level for name, part in self.parts.items()}
        return {name: level for name, level in levels.items() if level in WEAK_EVIDENCE}

    @property
    def is_formula(self) -> bool:
        """Whether the cost is a formula that holds for widths between whole bits too."""
        return self.points is None and self.rows is None and self.storage_widths is None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.parts:
            raise ValueError("give at least one of multiply, points, rows and memory")
        if self.multiply is not None and self.points is not None:
            raise ValueError("multiply and points exclude each other: both price a multiplication")
        if self.rows is not None and set(self.parts) != {"rows"}:
            raise ValueError("rows price whole layers: no other cost may stand beside them")
        if self.multiply is None and (self.accumulate or self.multiply_linear):
            raise ValueError("accumulate and multiply_linear need multiply")
        if self.float_as_integer and self.float32 is not None:
            raise ValueError("float_as_integer and float32 exclude each other")
        for name, part in self.parts.items():
            if part.source not in self.sources:
                raise ValueError(f"{name}.source is {part.source!r}, which sources does not hold")
        return self
