import math
from dataclasses import replace

import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, Layer
from bitfront.studies.requests import Request, failed, measured, priced

LAYERS = (Layer("fc", "linear", 10, 10, 0, 5, 2, 5, 2),)
ENERGY = EnergyModel(load_table("horowitz-45nm"), LAYERS)
REQUEST = Request(BitAllocation.uniform(LAYERS, 8), "test", 0.5)


def test_a_measurement_follows_from_counts():
    answer = measured(REQUEST, ENERGY, correct=30, loss_sum=20.0, samples=40, wall_s=1.5)
    assert answer.accuracy == 0.75
    assert answer.accuracy_se == pytest.approx(math.sqrt(0.75 * 0.25 / 40))
    assert (answer.loss, answer.samples, answer.wall_s) == (0.5, 40, 1.5)
    assert (answer.energy_vs_w8a8, answer.energy_table) == (1.0, "horowitz-45nm")
    assert answer.bops == 10 * 8 * 8
    assert Request.answered_by(answer) == REQUEST
    trained = replace(REQUEST, network="ab" * 16)
    answer = replace(answer, network="ab" * 16)
    assert Request.answered_by(answer) == trained


def test_a_failure_names_its_allocation_and_is_priced():
    answer = failed(REQUEST, ENERGY, "broke")
    assert answer.failed
    assert answer.error == (
        f"allocation {REQUEST.allocation.key[:12]} (8.00 weight bits and 8.00 activation bits on "
        f"average) on the test split broke"
    )
    assert answer.energy_vs_w8a8 == 1.0


def test_float_has_no_energy_where_hardware_has_no_float():
    bitfusion = EnergyModel(load_table("bitfusion"), LAYERS)
    float32 = Request(BitAllocation.uniform(LAYERS, 32))
    answer = measured(float32, bitfusion, correct=1, loss_sum=1.0, samples=2, wall_s=0.0)
    assert math.isnan(answer.energy_vs_w8a8)
    assert answer.energy_pj is None
    assert answer.bops == 10 * 32 * 32


def test_a_measurement_is_priced_anew_under_another_table():
    answer = measured(REQUEST, ENERGY, correct=30, loss_sum=20.0, samples=40, wall_s=1.5)
    other = priced(answer, EnergyModel(load_table("bitfusion"), LAYERS))
    assert other.energy_table == "bitfusion"
    assert (other.accuracy, other.size_bytes) == (answer.accuracy, answer.size_bytes)
