"""Gates on integer kernels: what each input's channels get, to the last bit."""

import numpy as np
import pytest
import torch

from bitfront.models.config import QuantizerConfig
from bitfront.models.dynamic.gates import ForcedGate
from bitfront.models.dynamic.operands import gated, layouts
from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation

SHAPE = (3, 12, 12)


def images(count, seed=0, shape=SHAPE):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def built(name, shape=SHAPE, **config):
    torch.manual_seed(0)
    network = build_model(name, classes=10, input_shape=shape).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
    model = QuantizedModel(network, profile(network, shape), QuantizerConfig(**config))
    model.calibrate([images(16, 1, shape)])
    return model


def random_gates(model, seed, widths=(4, 8), inputs=None, example=None):
    """Gates with a choice drawn for every channel, or for every input and channel."""
    draw = torch.Generator().manual_seed(seed)

    def places(layout):
        shape = (layout.decisions,) if inputs is None else (inputs, layout.decisions)
        found = torch.randint(len(widths), shape, generator=draw)
        found[..., : len(widths)] = torch.arange(layout.decisions)[: len(widths)] % len(widths)
        return found

    found = layouts(model, images(3) if example is None else example)
    return {slot: ForcedGate(widths, layout, places(layout)) for slot, layout in found.items()}


def rewound(gates):
    for gate in gates.values():
        gate.rewind()
    return gates


def static(model, gates):
    """The allocation with the constant choices of gates as widths by channel."""
    weights = [4 + n % 5 for n, _ in enumerate(model.layers)]
    activations = []
    for layer in model.layers:
        gate = gates[layer.name, "activation"]
        places = gate.decide(torch.zeros(1, 1), None)[0].repeat_interleave(gate.layout.group)
        activations.append(np.array(gate.widths, dtype=np.uint8)[places.numpy()])
    return BitAllocation([layer.name for layer in model.layers], weights, activations)


def widest(allocation):
    return BitAllocation(allocation.layers, allocation.weights, [8] * len(allocation.layers))


def reference(model, x, allocation):
    model.set_allocation(allocation)
    with torch.inference_mode():
        return model(x)


@pytest.fixture(params=["cnn5", "residual", "two readers"])
def name(request):
    return request.param


@pytest.fixture
def make(networks):
    """Makes a calibrated network by its name."""
    own = {"residual": networks.Residual, "two readers": networks.TwoReaders}

    def make(name, **config):
        if name in own:
            return networks.quantized(own[name](), QuantizerConfig(**config))
        return built(name, **config)

    return make


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("widths", [(4, 8), (2, 3, 6)])
def test_constant_gates_are_static_widths_by_channel(make, name, scheme, widths):
    model = make(name, activation_scheme=scheme)
    gates = random_gates(model, 0, widths)
    allocation, x = static(model, gates), images(9, seed=3)
    fast = Engine(model, images(4, seed=2))
    expected = reference(model, x, allocation)
    assert torch.equal(fast.forward(x, allocation), expected)
    with gated(model, gates):
        assert torch.equal(reference(model, x, widest(allocation)), expected)
        assert torch.equal(fast.forward(x, widest(allocation)), expected)
    assert torch.equal(fast.forward(x, allocation), expected)  # and afterwards


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_choices_by_input_are_the_references_bit_for_bit(make, name, scheme):
    model = make(name, activation_scheme=scheme)
    gates = random_gates(model, 1, (3, 4, 8), inputs=11)
    x, allocation = images(11, seed=4), BitAllocation.uniform(model.layers, 8)
    fast = Engine(model, images(4, seed=2))
    with gated(model, gates):
        run = fast.prepare([allocation])
        found = torch.cat([run(part)[0] for part in x.split(4)])
        rewound(gates)
        assert torch.equal(found, reference(model, x, allocation))
    assert not torch.equal(found, reference(model, x, allocation))


@pytest.fixture(scope="module")
def transformer():
    return built("vit_tiny_patch4", activation_observer="minmax")


@pytest.mark.parametrize("smallest", [0, 2**19])
def test_products_of_heads_with_choices_by_input(transformer, monkeypatch, smallest):
    monkeypatch.setattr("bitfront.models.engine.kernels._SMALL_PRODUCT", smallest)
    model, x = transformer, images(5, seed=3)
    gates = random_gates(model, 2, (4, 6, 8), inputs=5)
    assert {layer.name for layer in model.layers if layer.kind == "matmul"} <= {
        name for name, operand in gates if operand == "weight"
    }
    allocation, fast = BitAllocation.uniform(model.layers, 8), Engine(model, images(4, seed=2))
    with gated(model, gates):
        found = fast.forward(x, allocation)
        rewound(gates)
        assert torch.equal(found, reference(model, x, allocation))
