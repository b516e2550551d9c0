"""The parts of an energy table: small laws that compose, each with its numbers and their source.

One multiply-accumulate is priced either by a `Formula` (with an `Accumulate` beside it) or by
published `Points`; a whole layer by `Rows`; moving bits by `MemoryLevel`. All numbers are in the
table's one unit, per the quantity that the field's description names.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EvidenceLevel = Literal["read", "confirmed", "derived", "single", "recalled"]
"""How numbers were obtained: read in the source named; confirmed by independent copies; derived
from other entries; from a single secondary source; recalled, no copy found."""

Tensor = Literal["weights", "inputs", "outputs", "accumulator"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=32)]
Matrix = tuple[tuple[NonNegative, ...], ...]


class Frozen(BaseModel):
    """A part of a table: immutable, and no key passes unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
