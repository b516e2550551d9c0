import copy

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import RepairedWeight
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (3, 8, 8)


def images(count=8, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(256, 5, bias=False),
    )
    ours = QuantizedModel(network, profile(network, SHAPE))
    ours.calibrate([images(32, seed=1)])
    return ours


def random_repair(layer, bits, seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)
    weight = layer.inner.weight
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, weight.shape, generator=generator, dtype=torch.int8)
    scales = torch.rand(len(weight), generator=generator) * 0.1 + 0.01
    shift = torch.randn(len(weight), generator=generator) if bias else None
    return RepairedWeight(codes, scales, shift)


def repair_all(model, widths=(2, 4, 8)):
    for seed, layer in enumerate(model.quantized_layers.values()):
        for bits in widths:
            layer.repairs[bits] = random_repair(layer, bits, seed, bias=bits != 8)


def output(model, allocation, x):
    model.set_allocation(allocation)
    with torch.inference_mode():
        return model(x)


def test_a_repair_is_what_a_layer_computes_with(model):
    layer = model.quantized_layers["2"]
    repaired = random_repair(layer, 4)
    layer.repairs[4] = repaired
    x = torch.randn(2, 6, 8, 8)
    points = repaired.codes * repaired.scales.view(-1, 1, 1, 1)
    with torch.inference_mode():
        for activation_bits in (8, 32):
            expected = nn.functional.conv2d(layer.left(x, activation_bits), points, repaired.bias)
            found = layer.compute((x,), 4, activation_bits)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_repair_is_for_its_width_alone(model):
    x = images()
    widths = {bits: BitAllocation.uniform(model.layers, bits) for bits in (2, 3, 4)}
    before = {bits: output(model, widths[bits], x) for bits in widths}
    for layer in model.quantized_layers.values():
        layer.repairs[4] = random_repair(layer, 4)
    assert torch.equal(output(model, widths[2], x), before[2])
    assert torch.equal(output(model, widths[3], x), before[3])
    assert not torch.equal(output(model, widths[4], x), before[4])
    for layer in model.quantized_layers.values():
        del layer.repairs[4]
    assert torch.equal(output(model, widths[4], x), before[4])


def test_channels_take_their_rows_from_the_repair_of_their_width(model):
    layer = model.quantized_layers["0"]
    for bits in (2, 4):
        layer.repairs[bits] = random_repair(layer, bits, seed=bits)
    x = images(2)
    bits = np.array([2, 4, 8, 4, 2, 8], dtype=np.uint8)
    with torch.inference_mode():
        mixed = layer.compute((x,), bits, 8)
        for width in (2, 4, 8):
            rows = torch.from_numpy(bits == width)
            assert torch.equal(mixed[:, rows], layer.compute((x,), width, 8)[:, rows])


def test_the_engine_computes_with_repairs_bit_for_bit(model):
    engine, x = Engine(model, images(2)), images(seed=3)
    rng = np.random.default_rng(0)
    allocations = [
        *(BitAllocation.uniform(model.layers, bits) for bits in (2, 4, 8)),
        BitAllocation(
            [layer.name for layer in model.layers],
            [rng.choice([2, 3, 4, 8], layer.out_channels) for layer in model.layers],
            [rng.choice([4, 8], layer.in_channels) for layer in model.layers],
        ),
    ]
    plain = engine.forward_each(x, allocations)
    repair_all(model)
    repaired = engine.forward_each(x, allocations)
    assert engine.report.reference == {}
    for allocation, old, new in zip(allocations, plain, repaired, strict=True):
        assert torch.equal(new, output(model, allocation, x))
        assert not torch.equal(new, old)
    for layer in model.quantized_layers.values():
        layer.repairs.clear()
    assert all(map(torch.equal, engine.forward_each(x, allocations), plain))


def test_training_ignores_repairs(model):
    allocation = BitAllocation.uniform(model.layers, 4)
    model.set_allocation(allocation)
    before = model(images())
    repair_all(model)
    assert torch.equal(model(images()), before)


def test_repairs_hold_for_the_weights_they_were_made_for(model):
    allocation, x = BitAllocation.uniform(model.layers, 4), images()
    plain = output(model, allocation, x)
    repair_all(model)
    repaired = output(model, allocation, x)
    state = copy.deepcopy(model.state_dict())
    layer = model.quantized_layers["2"]
    with torch.no_grad():
        layer.inner.weight.mul_(2)
    assert 4 not in layer.repairs and len(layer.repairs) == 0
    other = output(model, allocation, x)
    assert not torch.equal(other, repaired) and not torch.equal(other, plain)
    layer.repairs[4] = random_repair(layer, 4, seed=9)
    assert list(layer.repairs) == [4]
    model.load_state_dict(state)
    layer.repairs[4] = random_repair(layer, 4, seed=1)
    assert torch.equal(output(model, allocation, x), repaired)


def test_a_copy_keeps_its_own_repairs(model):
    allocation, x = BitAllocation.uniform(model.layers, 4), images()
    repair_all(model)
    repaired = output(model, allocation, x)
    other = copy.deepcopy(model)
    assert torch.equal(output(other, allocation, x), repaired)
    for layer in other.quantized_layers.values():
        layer.repairs.reset()
    assert not torch.equal(output(other, allocation, x), repaired)
    assert torch.equal(output(model, allocation, x), repaired)


def test_calibration_forgets_repairs(model):
    repair_all(model)
    model.calibrate([images(32, seed=1)])
    assert all(len(layer.repairs) == 0 for layer in model.quantized_layers.values())


def test_missing_repairs_are_made_once_and_for_the_present_weights_only(model):
    layer, made = model.quantized_layers["2"], []

    def make(bits):
        made.append(bits)
        return random_repair(layer, bits)

    layer.repairs.reset(make)
    for _ in range(2):
        assert layer.repairs.at(4) is layer.repairs[4]
    assert made == [4]
    assert layer.repairs.at(16) is None
    with torch.no_grad():
        layer.inner.weight.mul_(2)
    assert layer.repairs.at(2) is None and layer.repairs.at(4) is None
    assert made == [4]


def test_repairs_that_cannot_be_are_refused(model):
    layer = model.quantized_layers["0"]
    with pytest.raises(ModelError, match="at most 8 bits, got 16"):
        layer.repairs[16] = random_repair(layer, 8)

    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    network = nn.Sequential(Own(4, 3))
    own = QuantizedModel(network, profile(network, (4,))).quantized_layers["0"]
    with pytest.raises(ModelError, match="Own, which has its own forward"):
        own.repairs[4] = random_repair(own, 4)


def test_a_range_is_overridden_and_comes_back(model):
    quantizer = model.quantized_layers["2"].left
    calibrated, x = quantizer.range(4), images(2)
    before = quantizer(x, 4)
    by_channel = np.array([4, 8, 4], dtype=np.uint8)
    before_by_channel = quantizer(x, by_channel)
    quantizer.override(4, (0.0, 0.5))
    assert quantizer.range(4) == (0.0, 0.5)
    assert float(quantizer(x, 4).max()) == pytest.approx(0.5)
    assert quantizer.range(8) != (0.0, 0.5)
    quantizer.override(4, (0.0, 9.0))  # the channels' common range holds that of every width
    assert not torch.equal(quantizer(x, by_channel), before_by_channel)
    quantizer.override(4, None)
    assert quantizer.range(4) == calibrated and torch.equal(quantizer(x, 4), before)
    assert torch.equal(quantizer(x, by_channel), before_by_channel)
    quantizer.override(4, (0.0, 0.5))
    quantizer.reset()
    quantizer.observe(x)
    assert quantizer.range(4) != (0.0, 0.5)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_that_are_none_are_refused(model, ends):
    with pytest.raises(ModelError, match="layer '2' needs finite ends in order"):
        model.quantized_layers["2"].left.override(4, ends)
