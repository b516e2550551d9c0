import json
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

MEASURED = Measurement(
    BitAllocation(["fc"], [4], [[8, 2]]),
    accuracy=0.5,
    accuracy_se=0.1,
    loss=1.5,
    energy_vs_fp32=0.1,
    energy_vs_w8a8=0.5,
    energy_pj=None,
    energy_table="t",
    size_bytes=10,
    bops=20,
    mean_weight_bits=4.0,
    mean_activation_bits=5.0,
    samples=25,
    wall_s=0.5,
    images_forward=7,
    images_backward=3,
)


def test_it_survives_json() -> None:
    assert Measurement.from_dict(json.loads(json.dumps(MEASURED.to_dict()))) == MEASURED


def test_one_from_before_there_were_adaptations_is_read() -> None:
    values = MEASURED.to_dict()
    del values["images_forward"], values["images_backward"]
    assert Measurement.from_dict(values) == replace(MEASURED, images_forward=0, images_backward=0)


USAGE = Usage(
    DynamicAllocation(
        "channels",
        (BitAllocation(["fc"], [8], [4]), BitAllocation(["fc"], [8], [8])),
        (Selector("fc", "activation", 2, 16),),
    ),
    inputs=3,
    shares=(((8, 4, 0.25), (8, 8, 0.75)),),
    deciding=0.01,
    energy_std=0.1,
    energy_quantiles=(0.5,) * 5,
    terciles=(InputGroup(1, 1.5, 1.0, 0.6, 0.4),),
    ablations=(Ablation("static", 0.75, 0.9, 0.59, 0.25),),
)


def test_what_was_chosen_survives_json() -> None:
    measured = replace(MEASURED, dynamic=USAGE, network="ab" * 16)
    text = json.dumps(measured.to_dict(), allow_nan=False)
    assert Measurement.from_dict(json.loads(text)) == measured


def test_what_is_no_number_in_what_was_chosen_is_null() -> None:
    broken = replace(USAGE.ablations[0], loss=math.nan)
    measured = replace(MEASURED, dynamic=replace(USAGE, ablations=(broken,)))
    values = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert values["dynamic"]["ablations"][0]["loss"] is None
    read = Measurement.from_dict(values)
    assert read.dynamic is not None
    assert math.isnan(read.dynamic.ablations[0].loss)
    assert replace(read.dynamic, ablations=()) == replace(USAGE, ablations=())


def test_one_from_before_networks_chose_is_read_as_static() -> None:
    values = MEASURED.to_dict()
    del values["dynamic"]
    assert Measurement.from_dict(values) == MEASURED
