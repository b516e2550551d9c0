"""All repairs together, in the reference and the engine."""

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models import build_model
from bitfront.models.config import QuantizerConfig
from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation

ALL = QuantizerConfig(equalization=True, smoothing=0.5, bias_correction=True, rounding="adaround")


def images(shape, count=8, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def calibrated(network, shape, config=ALL):
    model = QuantizedModel(network, profile(network, shape), config)
    model.calibrate([images(shape, 16, 1), images(shape, 16, 2)])
    return model


def allocations(model):
    rng = np.random.default_rng(0)
    names = [layer.name for layer in model.layers]
    count = len(names)
    return [
        *(BitAllocation.uniform(model.layers, bits) for bits in (2, 4, 8)),
        BitAllocation(names, rng.choice([2, 3, 5, 8], count), rng.choice([3, 8], count)),
        BitAllocation(
            names,
            [rng.choice([2, 4, 8], layer.out_channels) for layer in model.layers],
            [rng.choice([4, 8], layer.in_channels) for layer in model.layers],
        ),
        BitAllocation(names, rng.choice([2, 4, 16, 32], count), rng.choice([8, 32], count)),
    ]


def agree(model, x):
    engine = Engine(model, x[:2])
    widths = allocations(model)
    for allocation, found in zip(widths, engine.forward_each(x, widths), strict=True):
        model.set_allocation(allocation)
        with torch.inference_mode():
            assert torch.equal(model(x), found)
    return engine


def test_the_engine_is_the_reference_bit_for_bit(small_network):
    model = calibrated(small_network, (3, 12, 12))
    engine = agree(model, images((3, 12, 12)))
    assert list(engine.report.reference) == ["4"]  # it pads by reflection
    first = model.quantized_layers["0"]
    assert first.inner.bias is None and first.repairs[4].bias is not None


@pytest.mark.parametrize("name", ["cnn5", "vit_tiny_patch4"])
def test_the_engine_is_the_reference_for_whole_networks(name):
    shape = (1, 8, 8)
    network = build_model(name, classes=10, input_shape=shape)
    *_, head = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    assert agree(calibrated(network.eval(), shape), images(shape)).report.reference == {}


def test_another_process_would_make_the_same_repairs(small_network):
    first, second = (calibrated(small_network, (3, 12, 12)) for _ in range(2))
    widths = [BitAllocation.uniform(first.layers, bits) for bits in (3, 4)]
    for model, order in ((first, widths), (second, widths[::-1])):
        for allocation in order:
            model.set_allocation(allocation)
    for name, layer in first.quantized_layers.items():
        for bits in (3, 4):
            ours, theirs = layer.repairs[bits], second.quantized_layers[name].repairs[bits]
            assert torch.equal(ours.codes, theirs.codes)
            assert torch.equal(ours.scales, theirs.scales)
            assert torch.equal(ours.bias, theirs.bias)


def test_nothing_is_repaired_unless_asked_for(small_network):
    model = calibrated(small_network, (3, 12, 12), QuantizerConfig())
    model.set_allocation(BitAllocation.uniform(model.layers, 4))
    with torch.inference_mode():
        model(images((3, 12, 12)))
    assert all(len(layer.repairs) == 0 for layer in model.quantized_layers.values())


def test_repairs_are_made_when_widths_are_set_and_not_before(small_network):
    model = calibrated(small_network, (3, 12, 12))
    assert all(len(layer.repairs) == 0 for layer in model.quantized_layers.values())
    model.set_allocation(BitAllocation.uniform(model.layers, 4))
    assert all(list(layer.repairs) == [4] for layer in model.quantized_layers.values())
    model.set_allocation(BitAllocation.uniform(model.layers, 16))
    assert all(list(layer.repairs) == [4] for layer in model.quantized_layers.values())


def test_another_network_gets_no_repairs_even_where_a_layer_is_the_same(small_network):
    model = calibrated(small_network, (3, 12, 12))
    with torch.no_grad():
        model.quantized_layers["10"].inner.weight.mul_(2)
    model.set_allocation(BitAllocation.uniform(model.layers, 4))
    assert all(len(layer.repairs) == 0 for layer in model.quantized_layers.values())


def test_layers_with_their_own_forward_are_left_alone():
    class Own(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight / 2, self.bias)

    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Own(4, 3))
    model = calibrated(network.eval(), (4,))
    model.set_allocation(BitAllocation.uniform(model.layers, 4))
    with torch.inference_mode():
        model(images((4,)))
    assert [len(layer.repairs) for layer in model.quantized_layers.values()] == [1, 0]


@pytest.mark.parametrize("operand", ["weight", "activation"])
def test_ranges_of_least_error_have_less_error_on_real_digits(digits_case, operand):
    """The simplest repair: clipping. Every layer on its own, on inputs of the float network."""
    errors = {}
    for observer in ("minmax", "mse"):
        model = digits_case.quantized(weight_observer=observer, activation_observer=observer)
        for layer in model.quantized_layers.values():
            layer.register_forward_hook(noting(errors, observer, operand))
        with torch.inference_mode():
            model(next(iter(digits_case.data.test.batches(128)))[0])
    for name, error in errors["mse"].items():
        assert error <= errors["minmax"][name] * (1 if operand == "weight" else 1.05)
    total = {observer: sum(found.values()) for observer, found in errors.items()}
    assert total["mse"] < 0.8 * total["minmax"]


def noting(errors, observer, operand):
    def note(layer, args, out):
        if operand == "weight":
            value = layer.inner.weight
            quantized = layer._quantized(value, 3)
        else:
            (value,) = args
            quantized = layer.left(value, 3)
        error = (quantized - value).square().sum() / value.square().sum()
        errors.setdefault(observer, {})[layer.layer.name] = float(error)

    return note
