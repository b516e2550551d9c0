"""Gates on integer kernels: what each input's channels get, to the last bit."""

import numpy as np
import pytest
import torch

from bitfront.models.config import QuantizerConfig
from bitfront.models.dynamic.gates import ForcedGate, SelectorGate, TrainableGate
from bitfront.models.dynamic.operands import gated, layouts
from bitfront.models.dynamic.selectors import Selectors
from bitfront.models.engine import Engine, EngineWarning, NonFiniteError
from bitfront.models.engine.codes import gated_grid, to_codes
from bitfront.models.engine.steps import Kernel, Quantize
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, ModelError

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


def selector_gates(model, x, widths=(4, 8)):
    """Of random selectors, about half of whose choices are wide."""
    seen: dict[str, tuple[torch.Tensor, ...]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x}))
        for name, layer in model.quantized_layers.items()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    gates = {}
    for number, ((name, operand), layout) in enumerate(layouts(model, images(3)).items()):
        made = Selectors(
            layout.decisions, len(widths), generator=torch.Generator().manual_seed(number)
        )
        positions = layout.positions(16)
        gate = TrainableGate(widths, layout, positions, made)
        grids = model.quantized_layers[name].quantizers[operand].container_grids(widths)
        statistics = gate.statistics(seen[name][int(operand == "weight")], grids)
        made.standardize(statistics)
        with torch.no_grad():
            made.score_bias.sub_(made(statistics).median())
        gates[name, operand] = SelectorGate(widths, layout, positions, made.deployed())
    return gates


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_selectors_choose_alike_on_kernels_and_by_reference(make, name, scheme):
    model = make(name, activation_scheme=scheme)
    x, allocation = images(11, seed=4), BitAllocation.uniform(model.layers, 8)
    fast, gates = Engine(model, images(4, seed=2)), selector_gates(model, x)
    with gated(model, gates):
        expected = reference(model, x, allocation)
        chosen = {slot: gate.last for slot, gate in gates.items()}
        assert torch.equal(fast.forward(x, allocation), expected)
        assert all(torch.equal(gates[slot].last, chosen[slot]) for slot in gates)
        assert 0.1 < torch.cat([one.flatten() for one in chosen.values()]).float().mean() < 0.9
        backwards = fast.forward(x.flip(0), allocation)
        assert all(torch.equal(gates[slot].last, chosen[slot].flip(0)) for slot in gates)
    assert torch.equal(backwards.flip(0), expected)
    assert not torch.equal(fast.forward(x, allocation), expected)


def planned(engine, allocation):
    return engine._plan(allocation).steps


def test_what_a_gate_looks_at_is_neither_fused_nor_shared(networks):
    model = networks.quantized(networks.TwoReaders())
    x, allocation = images(4), BitAllocation.uniform(model.layers, 8)
    fast, found = Engine(model, x), layouts(model, x)
    slots = [("left", "activation"), ("right", "activation")]
    gates = {slot: ForcedGate((4, 8), found[slot], 0) for slot in slots}
    plain = planned(fast, allocation)
    assert sum(isinstance(step, Quantize) for step in plain) == 3
    with gated(model, gates):
        steps = planned(fast, allocation)
    quantized = [step for step in steps if isinstance(step, Quantize)]
    assert [step.grid.gate for step in quantized] == [
        None,
        "left.activation",
        "right.activation",
        None,
    ]
    assert [step.gate for step in quantized[1:3]] == list(gates.values())

    model = networks.quantized(networks.Residual())
    fast, slot = Engine(model, x), ("conv2", "activation")
    with gated(model, {slot: ForcedGate((4, 8), layouts(model, x)[slot], 0)}):
        kernels = [step for step in planned(fast, allocation_of(model)) if isinstance(step, Kernel)]
    assert kernels[1].layer.layer.name == "conv1" and kernels[1].writes[1] is None


def allocation_of(model, bits=8):
    return BitAllocation.uniform(model.layers, bits)


def test_codes_of_narrow_channels_are_multiples(networks):
    model = networks.quantized(networks.Residual())
    grids = model.quantized_layers["conv2"].left.container_grids((4, 8))
    x = images(5, shape=(8, 12, 12)).abs()
    places = torch.randint(2, (5, 8), generator=torch.Generator().manual_seed(0))
    bits = torch.tensor([4, 8])[places].view(5, 8, 1, 1)
    grid = gated_grid(grids, "conv2.activation")
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        codes = to_codes(layout, grid, bits)
        assert codes.stride() == layout.stride()
        assert (codes[places == 0] % 16 == 0).all() and (codes[places == 1] % 16 != 0).any()
    assert int(codes[places == 0].max()) <= 240


def test_layers_above_8_bits_ask_their_gate_by_reference(networks):
    model = networks.quantized(networks.Residual())
    fast = Engine(model, images(4, seed=2))
    names = [layer.name for layer in model.layers]
    wide = BitAllocation(names, [16 if name == "conv2" else 8 for name in names], [8] * len(names))
    x, gates = images(6, seed=3), random_gates(model, 3, inputs=6)
    with gated(model, gates):
        found = fast.forward(x, wide)
        rewound(gates)
        assert torch.equal(found, reference(model, x, wide))


def test_a_network_without_a_trace_asks_its_gates(networks):
    model = networks.quantized(networks.Branch())
    with pytest.warns(EngineWarning, match="one by one"):
        fast = Engine(model, images(4, seed=2))
    x, gates = images(6, seed=3), random_gates(model, 4, inputs=6)
    with gated(model, gates):
        found = fast.forward(x, allocation_of(model))
        rewound(gates)
        assert torch.equal(found, reference(model, x, allocation_of(model)))
    assert not torch.equal(found, fast.forward(x, allocation_of(model)))


def test_an_engine_that_is_made_while_gates_are_in_force_asks_none(networks):
    model = networks.quantized(networks.Residual())
    gates = random_gates(model, 5, inputs=6)
    with gated(model, gates):
        fast = Engine(model, images(4, seed=2))
        assert all(gate.last is None for gate in gates.values())
        fast.forward(images(6), allocation_of(model))
    assert set(fast.report.integer) == {layer.name for layer in model.layers}


def test_a_plan_is_for_the_gates_it_was_made_for(networks):
    model = networks.quantized(networks.Residual())
    fast, x = Engine(model, images(4, seed=2)), images(6)
    gates = random_gates(model, 6)
    plain = fast.prepare([allocation_of(model)])
    with gated(model, gates):
        chosen = fast.prepare([allocation_of(model)])
        chosen(x)
        with pytest.raises(ModelError, match="other gates are in force than when"):
            plain(x)
    with pytest.raises(ModelError, match="other gates are in force than when"):
        chosen(x)


def test_kernels_by_layer_are_for_the_gates_they_were_made_for(networks):
    model = networks.quantized(networks.Residual())
    fast, x = Engine(model, images(4, seed=2)), images(6)
    gates = random_gates(model, 6)
    with gated(model, gates):
        expected = reference(model, x, allocation_of(model))
        with fast.kernels(allocation_of(model)), torch.inference_mode():
            assert torch.equal(model(x), expected)
    refused = pytest.raises(ModelError, match="other gates are in force than when")
    with fast.kernels(allocation_of(model)), gated(model, gates), torch.inference_mode(), refused:
        model(x)


def test_values_that_are_not_finite_are_refused_before_a_gate_sees_them(networks):
    model = networks.quantized(networks.Residual())
    fast, x = Engine(model, images(4, seed=2)), images(2)
    x[1, 0, 0, 0] = torch.nan
    gates = random_gates(model, 7)
    with gated(model, gates), pytest.raises(NonFiniteError, match=r"layer 'stem\.0'"):
        fast.forward(x, allocation_of(model))
    assert gates["stem.0", "activation"].last is None


def test_constant_gates_of_a_transformer_are_static_widths(transformer):
    # Widths by channel of a product's operand lie on another axis than its heads, so that only
    # one width for all of them can be compared.
    model, x = transformer, images(5, seed=3)
    gates = random_gates(model, 8)
    products = {layer.name for layer in model.layers if layer.kind == "matmul"}
    for (name, operand), gate in gates.items():
        if name in products:
            gates[name, operand] = ForcedGate((4,), gate.layout, 0)
    allocation = static(model, gates)
    weights = [
        4 if name in products else bits
        for name, bits in zip(allocation.layers, allocation.weights, strict=True)
    ]
    activations = [
        4 if name in products else bits
        for name, bits in zip(allocation.layers, allocation.activations, strict=True)
    ]
    allocation = BitAllocation(allocation.layers, weights, activations)
    fast, expected = Engine(model, images(4, seed=2)), reference(model, x, allocation)
    assert torch.equal(fast.forward(x, allocation), expected)
    wide = [
        8 if name in products else bits
        for name, bits in zip(allocation.layers, weights, strict=True)
    ]
    with gated(model, gates):
        for widths in (weights, wide):
            widest = BitAllocation(allocation.layers, widths, [8] * len(widths))
            assert torch.equal(reference(model, x, widest), expected)
            assert torch.equal(fast.forward(x, widest), expected)
