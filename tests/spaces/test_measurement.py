import json
from dataclasses import replace

from bitfront.spaces import BitAllocation, Measurement

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
