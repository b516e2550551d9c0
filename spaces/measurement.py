"""What is known of an allocation once it has been measured."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .allocation import BitAllocation
from .usage import Usage

Split = Literal["calibration", "search", "test"]
"""Quantizers are fitted on ``calibration``, strategies select on ``search``, what is reported is
measured on ``test``."""

_NULLABLE = ("accuracy", "accuracy_se", "loss", "energy_vs_fp32", "energy_vs_w8a8")
"""Fields that may be NaN, for which JSON has no word; they are null there."""

METRICS = (
    "accuracy",
    "accuracy_se",
    "loss",
    "energy_vs_w8a8",
    "energy_vs_fp32",
    "energy_pj",
    "size_bytes",
    "bops",
    "mean_weight_bits",
    "mean_activation_bits",
)
"""Fields of a `Measurement` that say how good and how dear an allocation is, wherever listed."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The quality and the cost of one allocation.

    Costs of what was chosen while it ran are means over inputs, the cost of deciding included.

    Attributes:
        allocation: What was measured; of a dynamic allocation, its widest member.
        accuracy: Top-1 accuracy in [0, 1]; NaN if the evaluation failed.
        accuracy_se: Its standard error, sqrt(p (1 - p) / samples).
        loss: Mean cross-entropy in nats.
        energy_vs_fp32: Energy over that of the float32 network, same table; NaN where the table
            cannot price float.
        energy_vs_w8a8: Energy over that of the uniform 8-bit network, same table; NaN where the
            table cannot price the allocation.
        energy_pj: Energy of one inference in pJ; None where the table has no absolute scale.
        energy_table: Identifier of the table that priced it.
        size_bytes: Weights (at their widths), biases and scales.
        bops: Sum over layers of MACs x weight bits x activation bits.
        mean_weight_bits: Mean over all weights.
        mean_activation_bits: Mean over all input elements.
        samples: Images the accuracy was taken on.
        wall_s: Seconds the evaluation took where it ran.
        split: The data split it was measured on.
        fidelity: Share of the split's images that were used, in (0, 1].
        weights: Where the weights are if they were trained for this allocation; None for the
            network's own.
        error: Why it failed; None if it did not.
        images_forward: Images that adapting the network to the allocation passed forward.
        images_backward: Images that it passed backward.
        network: Digest of the trained or dynamic network it was measured with; None for the
            study's own weights.
        dynamic: What was chosen while it ran; None for a static allocation.
    """

    allocation: BitAllocation
    accuracy: float
    accuracy_se: float
    loss: float
    energy_vs_fp32: float
    energy_vs_w8a8: float
    energy_pj: float | None
    energy_table: str
    size_bytes: int
    bops: int
    mean_weight_bits: float
    mean_activation_bits: float
    samples: int
    wall_s: float
    split: Split = "search"
    fidelity: float = 1.0
    weights: str | None = None
    error: str | None = None
    images_forward: int = 0
    images_backward: int = 0
    network: str | None = None
    dynamic: Usage | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no accuracy to go by."""
        return self.error is not None or not math.isfinite(self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, with the allocation as `BitAllocation.to_dict`."""
        values = asdict(replace(self, allocation=None, dynamic=None))  # type: ignore[arg-type]
        values["allocation"] = self.allocation.to_dict()
        values["dynamic"] = None if self.dynamic is None else _nulls(self.dynamic.to_dict())
        for name in _NULLABLE:
            if not math.isfinite(values[name]):
                values[name] = None
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measurement":
        """Build a measurement from what `to_dict` returns."""
        fields = dict(values)
        fields["allocation"] = BitAllocation.from_dict(fields["allocation"])
        if fields.get("dynamic") is not None:  # measurements of older files have none
            fields["dynamic"] = Usage.from_dict(_numbers(fields["dynamic"]))
        for name in _NULLABLE:
            if fields[name] is None:
                fields[name] = math.nan
        return cls(**fields)


def _nulls(value: Any) -> Any:
    """Return plain values with null for what is no finite number, such as an ablation's loss."""
    if isinstance(value, dict):
        return {key: _nulls(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nulls(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """Return plain values with NaN for null; a usage has no other nulls."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return math.nan if value is None else value
