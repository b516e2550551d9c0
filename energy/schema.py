"""The schema of an energy table: data only, every number with a unit, a source and a level.

A table composes a few laws. One multiply-accumulate is priced either by a `Formula` (with an
`Accumulate` beside it) or by published `Points`; a whole layer by `Rows`; moving bits by the levels
of ``memory``. All numbers are in the table's one ``unit``, per the quantity its field names.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EvidenceLevel = Literal["read", "confirmed", "derived", "single", "recalled"]
"""How numbers were obtained: read in the source named; confirmed by independent copies; derived
from other entries; from a single secondary source; recalled, no copy found."""

WEAK_EVIDENCE: frozenset[EvidenceLevel] = frozenset({"single", "recalled"})
"""Levels that must not pass silently."""

Tensor = Literal["weights", "inputs", "outputs", "accumulator"]
Quantity = Literal["energy", "latency", "cycles", "toggles", "gates"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=32)]
Matrix = tuple[tuple[NonNegative, ...], ...]


class Frozen(BaseModel):
    """A part of a table: immutable, and no key passes unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Source(Frozen):
    """A publication or repository, and where in it the numbers stand."""

    ref: str
    locator: str = ""


class Evidence(Frozen):
    """How well the numbers are supported, and by what."""

    level: EvidenceLevel
    note: str = ""


class Technology(Frozen):
    """What the numbers were characterised on, as far as published."""

    node_nm: float | None = None
    supply_v: float | None = None
    clock_hz: float | None = None
    device: str | None = None


class Sourced(Frozen):
    """A group of numbers with one origin.

    Attributes:
        source: A key of the table's ``sources``.
        evidence: Level of these numbers; the table's own if None.
    """

    source: str
    evidence: EvidenceLevel | None = None


class Formula(Sourced):
    """Cost of one multiplication, a sum of terms in weight width ``w`` and activation width ``a``.

    Attributes:
        constant: Per multiplication.
        weight: Times ``w``.
        activation: Times ``a``.
        product: Times ``w * a``.
        root_product: Times ``sqrt(w * a)``.
        sum_of_widths: Times ``w + a``.
        square_of_wider: Times ``max(w, a) ** 2``.
    """

    constant: NonNegative = 0.0
    weight: NonNegative = 0.0
    activation: NonNegative = 0.0
    product: NonNegative = 0.0
    root_product: NonNegative = 0.0
    sum_of_widths: NonNegative = 0.0
    square_of_wider: NonNegative = 0.0


class Accumulate(Sourced):
    """Cost of adding one product to the sum.

    Attributes:
        per_bit: Per bit of the accumulator.
        sum_of_widths: Times ``w + a``, the width of the product.
    """

    per_bit: NonNegative = 0.0
    sum_of_widths: NonNegative = 0.0


class FloatMac(Sourced):
    """Cost of a float32 multiply-accumulate; used where either operand has width 32."""

    multiply: NonNegative
    accumulate: NonNegative


class Grid(Sourced):
    """Knots of a cost known at some widths only.

    Attributes:
        weights: Known weight widths, rising.
        activations: Known activation widths, rising.
        between: What a width between two knots costs: as the next knot (hardware that supports
            only these widths), or in proportion (a sample of a continuous quantity).
    """

    weights: tuple[Width, ...] = Field(min_length=1)
    activations: tuple[Width, ...] = Field(min_length=1)
    between: Literal["round_up", "interpolate"] = "round_up"

    def check_matrix(self, costs: Matrix, where: str) -> None:
        """Raise ValueError unless ``costs`` has one entry for every pair of knots."""
        shape = (len(self.weights), len(self.activations))
        if len(costs) != shape[0] or any(len(row) != shape[1] for row in costs):
            raise ValueError(f"{where} must be {shape[0]} x {shape[1]}, weights x activations")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for knots in (self.weights, self.activations):
            if list(knots) != sorted(set(knots)):
                raise ValueError(f"widths must rise, got {list(knots)}")
        return self


class Points(Grid):
    """Cost of one whole multiply-accumulate, known at some widths.

    Attributes:
        costs: By weight width, then activation width.
    """

    costs: Matrix

    @model_validator(mode="after")
    def _shaped(self) -> Self:
        self.check_matrix(self.costs, "costs")
        return self


class Row(Frozen):
    """Cost of one layer of one network.

    Attributes:
        layer: The layer's name.
        macs: Multiply-accumulates at batch 1, to recognise the network by; unchecked if None.
        costs: By weight width, then activation width.
    """

    layer: str
    costs: Matrix
    macs: int | None = None


class Rows(Grid):
    """Cost of whole layers of one network, measured on a device or by a simulator.

    Attributes:
        network: What the rows belong to, in words.
        match: Rows are found by the layers' names, or by their order.
        layers: One row per layer.
        unpriced: Layers the publication leaves out; they cost nothing here.
    """

    network: str
    match: Literal["name", "order"]
    layers: tuple[Row, ...]
    unpriced: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _shaped(self) -> Self:
        for row in self.layers:
            self.check_matrix(row.costs, f"costs of {row.layer!r}")
        return self


class MemoryLevel(Sourced):
    """A memory, and what crosses it.

    Attributes:
        kind: ``dram``: every value crosses it once per pass over the layer (once in all, unless
            tiling makes it come again). ``buffer``: every value is read, and every output
            written, once. ``register_file``: every multiply-accumulate reads a weight and an
            input and reads and writes a partial sum.
        read: Per bit read.
        write: Per bit written.
        capacity_bytes: Its size; the largest buffer bounds tiling.
        tensors: What it holds.
    """

    kind: Literal["dram", "buffer", "register_file"]
    read: NonNegative
    write: NonNegative
    capacity_bytes: int | None = Field(default=None, gt=0)
    tensors: tuple[Tensor, ...] = ("weights", "inputs", "outputs", "accumulator")


class Static(Sourced):
    """Leakage while the arithmetic runs.

    Attributes:
        per_multiply: Leakage over dynamic energy of the arithmetic; both grow with unit-cycles.
    """

    per_multiply: NonNegative


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
