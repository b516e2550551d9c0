"""How a table is applied: what a study may choose."""

from typing import Annotated, Literal

from pydantic import Field

from .parts import Frozen, Width

Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EnergyOptions(Frozen):
    """Choices of how to price, each with the common default.

    Attributes:
        output_bits: Width outputs are written at: ``input``, the width of the layer's own
            activations, or a number. A float layer always writes float.
        accumulator_bits: Width of the sums, or ``exact``; as the table says if None.
        count_tokens: Whether linear layers count once per token; as the table says if None.
            False prices networks as ptq-psu25 publishes them: once per call, no matmuls.
        reuse: ``one_pass``: every value crosses DRAM once. ``tiled``: as often as the buffer's
            capacity makes it (`bitfront.energy.traffic`).
        buffer_bytes: Capacity that bounds tiling; that of the table's largest buffer if None.
        dram: Name of the entry of dram-interfaces that replaces the table's DRAM.
        static_power: Whether to add leakage, for tables that give it.
        mac_scale: Factor on all arithmetic; E_MAC of eqat-glsvlsi25.
        memory_scale: Factor on all memory; E_access of eqat-glsvlsi25.
    """

    output_bits: Width | Literal["input"] = "input"
    accumulator_bits: Width | Literal["exact"] | None = None
    count_tokens: bool | None = None
    reuse: Literal["one_pass", "tiled"] = "one_pass"
    buffer_bytes: int | None = Field(default=None, gt=0)
    dram: str | None = None
    static_power: bool = False
    mac_scale: Scale = 1.0
    memory_scale: Scale = 1.0
