"""Levels: bound to an engine, in the order of their costs."""

from dataclasses import replace

import pytest
import torch

from bitfront.energy import EnergyModel, load_table
from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.runtime.levels import check_levels, prepare_levels
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, EnergyTableError, ModelError
from tests.models.runtime.toy import toy_levels


@pytest.fixture(scope="module")
def engine():
    model = build_model("cnn5", classes=10, input_shape=(1, 8, 8), kwargs={"width": 4, "hidden": 8})
    layers = profile(model, (1, 8, 8))
    quantized = QuantizedModel(model, layers)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    quantized.calibrate([x])
    return Engine(quantized, x[:4]), x


def uniform(engine, *widths):
    return [BitAllocation.uniform(engine.model.layers, width) for width in widths]


def test_levels_compute_what_the_engine_does_and_carry_their_price(engine):
    engine, x = engine
    energy = EnergyModel(load_table("horowitz-45nm"), engine.model.layers)
    allocations = uniform(engine, 4, 6, 8)
    levels = prepare_levels(engine, energy, allocations, x)
    assert [level.name for level in levels] == ["low", "mid", "high"]
    for level, allocation in zip(levels, allocations, strict=True):
        assert torch.equal(level.run(x), engine.forward(x, allocation))
        assert level.energy_pj == energy.energy(allocation)
        assert level.energy == level.energy_pj / energy.w8a8
    named = prepare_levels(engine, energy, allocations[1:], x, names=["a", "b"])
    assert [level.name for level in named] == ["a", "b"]


def test_a_low_that_costs_more_than_its_high_is_refused_with_both_costs(engine):
    engine, x = engine
    energy = EnergyModel(load_table("horowitz-45nm"), engine.model.layers)
    with pytest.raises(ModelError, match=r"'low' must cost less than 'high', but it costs 1 of"):
        prepare_levels(engine, energy, uniform(engine, 8, 4), x)


def test_widths_that_the_table_does_not_price_are_refused(engine):
    engine, x = engine

    class Table:
        w8a8, unit_is_pj = 1.0, False

        def energy(self, allocation):
            raise EnergyTableError("table t supports weights of 8")

    with pytest.raises(EnergyTableError, match="supports weights of 8"):
        prepare_levels(engine, Table(), uniform(engine, 4, 8), x)
    Table.w8a8 = float("nan")
    with pytest.raises(EnergyTableError, match="no price for uniform 8 bit"):
        prepare_levels(engine, Table(), uniform(engine, 4, 8), x)


def test_levels_are_several_different_and_of_one_network():
    low, _, high = toy_levels()
    with pytest.raises(ModelError, match="at least 2 levels, got 1"):
        check_levels([low])
    with pytest.raises(ModelError, match="names of levels must differ"):
        check_levels([low, replace(high, name="low")])
    with pytest.raises(ModelError, match="of different layers"):
        check_levels([low, replace(high, allocation=BitAllocation(["b"], [8], [8]))])
    with pytest.raises(ModelError, match="cost less than"):
        check_levels([low, replace(high, energy=low.energy)])
