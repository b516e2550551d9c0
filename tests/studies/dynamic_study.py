"""A finished study of dynamic networks, written by hand: three layers, one of them of attention."""

import math
from dataclasses import replace

from bitfront.spaces import (
    Ablation,
    BitAllocation,
    DynamicAllocation,
    InputGroup,
    Measurement,
    Selector,
    Usage,
)
from bitfront.studies.result import Point, StudyResult, TrialRecord

LAYERS = ("conv", "attn.qk", "fc")
INPUTS = 1200


def uniform(width: int) -> BitAllocation:
    return BitAllocation(LAYERS, [width] * 3, [width] * 3)


HIGH = uniform(8)
LOW = BitAllocation(LAYERS, [8, 4, 8], [4, 4, 4])
SELECTORS = (
    Selector("conv", "activation", 30, 16),
    Selector("attn.qk", "activation", 6, 16),
    Selector("attn.qk", "weight", 4, 16),
    Selector("fc", "activation", 60, 16),
)

CHANNELS = Usage(
    DynamicAllocation("channels", (LOW, HIGH), SELECTORS),
    INPUTS,
    shares=(
        ((8, 4, 0.25), (8, 8, 0.75)),
        ((4, 4, 0.25), (4, 8, 0.25), (8, 4, 0.125), (8, 8, 0.375)),
        ((8, 4, 0.875), (8, 8, 0.125)),
    ),
    deciding=0.00025,
    energy_std=0.0312,
    energy_quantiles=(0.45, 0.48, 0.5, 0.52, 0.5612),
    terciles=(
        InputGroup(400, 0.91, 0.99, 0.46, 0.2),
        InputGroup(400, 1.42, 0.975, 0.5, 0.35),
        InputGroup(400, 2.03, 0.96, 0.54, 0.5),
    ),
    ablations=(
        Ablation("static", 0.965, 0.12, 0.4975, 0.02),
        Ablation("shuffled", 0.9745, 0.1, 0.5, 0.01),
    ),
)
"""Wide: 22.5 of 30, 3.75 of 6, 2 of 4 and 7.5 of 60 decisions."""

CASCADE = Usage(
    DynamicAllocation(
        "cascade",
        (uniform(4), uniform(6), HIGH),
        thresholds=(0.9, 0.6),
        temperatures=(1.5, 1.25),
        classes=10,
    ),
    INPUTS,
    shares=(((4, 4, 1.0), (6, 6, 0.25), (8, 8, 0.125)),) * 3,
    ran=(1.0, 0.25, 0.125),
    answered=(0.6875, 0.1875, 0.125),
    deciding=3e-8,
    energy_std=0.2,
    energy_quantiles=(0.25, 0.25, 0.25, 0.8, 1.8),
    terciles=(
        InputGroup(400, 0.91, 1.0, 0.3, 0.05),
        InputGroup(400, 1.42, 0.98, 0.5, 0.1),
        InputGroup(400, 2.03, 0.95, 0.8, 0.225),
    ),
    member_energies=(0.25, 0.5625, 1.0),
)


def measurement(
    allocation: BitAllocation,
    accuracy: float = 0.975,
    energy: float = 0.5,
    split: str = "test",
    **fields,
) -> Measurement:
    given = {
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / INPUTS),
        "loss": 2 * (1 - accuracy),
        "energy_vs_fp32": energy / 16,
        "energy_vs_w8a8": energy,
        "energy_pj": 1e6 * energy,
        "energy_table": "horowitz-45nm",
        "size_bytes": 4000,
        "bops": 10**6,
        "mean_weight_bits": 7.5,
        "mean_activation_bits": 5.25,
        "samples": INPUTS,
        "wall_s": 0.1,
    }
    return Measurement(allocation, accuracy, split=split, **given | fields)


def dynamic(usage: Usage, network: str, **fields) -> Measurement:
    return measurement(usage.allocation.widest, network=network, dynamic=usage, **fields)


def _point(strategy: str, seed: int, test: Measurement, *, on_front: bool = True) -> Point:
    search = replace(test, split="search")
    return Point(strategy, seed, "30 evaluations", search, test, True, on_front)


def dynamic_result() -> StudyResult:
    """Two seeds of a strategy that chooses by channel, a cascade that both find, and uniform 4."""
    wide = replace(CHANNELS, ablations=(Ablation("static", 0.97, 0.1, 0.6975, 0.02),))
    cascade = dynamic(CASCADE, "c0" * 16, energy=0.53, mean_weight_bits=4.5)
    points = (
        _point("uniform", 0, measurement(uniform(4), 0.9, 0.25)),
        _point("learnprec", 0, dynamic(CHANNELS, "a0" * 16)),
        _point("learnprec", 0, dynamic(CHANNELS, "a1" * 16, energy=0.6), on_front=False),
        _point("learnprec", 1, dynamic(wide, "b0" * 16, energy=0.7), on_front=False),
        _point("cascade", 0, cascade),
        _point("cascade", 1, cascade),
    )
    float32 = uniform(32)
    return StudyResult(
        name="dynamic",
        spec={"study": "dynamic", "model": {"name": "cnn5"}},
        points=points,
        trials=tuple(
            TrialRecord(label, seed, "30 evaluations", 30, 30 * INPUTS, 1.5)
            for label in ("uniform", "learnprec", "cascade")
            for seed in (0, 1)
        ),
        float_search=measurement(float32, 0.98, 16.0, "search"),
        float_test=measurement(float32, 0.98, 16.0),
        uniform_w8a8=measurement(HIGH, 0.979, 1.0),
        workload="0" * 32,
        space_size=7**6,
        versions={"bitfront": "0.1.0"},
        notes=("written by hand",),
    )
