"""Which operands gates can act on, and what happens in a network where they do."""

import pytest
import torch
from torch import nn

from bitfront.models.dynamic.gates import ForcedGate, SelectorGate, TrainableGate
from bitfront.models.dynamic.layout import Layout, layout_for
from bitfront.models.dynamic.operands import gated, gates_of, layout_of, layouts, quantizer_of
from bitfront.models.dynamic.selectors import Selectors
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (3, 12, 12)


def images(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def quantized(network):
    model = QuantizedModel(network.eval(), profile(network, SHAPE))
    model.calibrate([images(16, 1)])
    return model


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    network = build_model("vit_tiny_patch4", classes=10, input_shape=SHAPE)
    nn.init.normal_(network.head.weight, std=0.2)
    return quantized(network)


class Windows(nn.Module):
    """Has a batch of its own in one place, and calls a layer twice in another."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.inner(x.reshape(-1, 4)).view(x.shape)
        x = self.twice(self.twice(x)).mean(1)
        return self.fc(x)


def test_layouts_of_a_transformer(transformer):
    found = layouts(transformer, images(5))
    shapes = {layer.name: layer for layer in transformer.layers}
    first = next(name for name in shapes if name.endswith("attn.qkv")).removesuffix("qkv")
    features, heads = shapes[first + "qkv"].in_channels, shapes[first + "qk"].positions
    size, tokens = features // heads, 9
    assert found[first + "qkv", "activation"] == Layout(-1, features, 1, (tokens,))
    assert found[first + "proj", "activation"] == Layout(-1, heads, size, (tokens,))
    assert found[first + "qk", "activation"] == Layout(-3, heads, 1, (tokens, size))
    assert found[first + "qk", "weight"] == Layout(-3, heads, 1, (size, tokens))
    assert found[first + "av", "activation"] == Layout(-3, heads, 1, (tokens, tokens))
    assert found[first + "av", "weight"] == Layout(-3, heads, 1, (tokens, size))
    assert found["head", "activation"].sizes == ()
    stem = next(iter(found))
    assert found[stem] == Layout(-3, 3, 1, (12, 12)) and found[stem].available == 144
    for (name, operand), layout in found.items():  # the same without an example, but for sizes
        alone = layout_for(shapes[name], layout.decisions)
        assert (alone.axis, alone.group) == (layout.axis, layout.group)
        count = shapes[name].operand_count if operand == "weight" else shapes[name].input_count
        assert layout.decisions * layout.available == count


def test_operands_that_no_gate_can_act_on():
    model = quantized(Windows())
    assert set(layouts(model, images(5))) == {("conv", "activation"), ("fc", "activation")}
    assert layout_of(model, model.layers[0], "activation", (2, 3)) is None
    with pytest.raises(ModelError, match="no layer 'con'; did you mean 'conv'"):
        quantizer_of(model, ("con", "activation"))
    gate = ForcedGate((4, 8), Layout(-3, 3), 0)
    with pytest.raises(ModelError, match="the weight of layer 'conv' is no activation"):
        gated(model, {("conv", "weight"): gate}).__enter__()


def test_gates_are_in_force_inside_and_nowhere_else(transformer):
    model, x = transformer, images(3)
    model.set_allocation(BitAllocation.uniform(model.layers, 8))
    found = layouts(model, x)
    outer = {slot: ForcedGate((2, 8), layout, 0) for slot, layout in found.items()}
    inner = {slot: outer[slot] for slot in list(outer)[:3]}
    plain = model(x)
    with gated(model, outer):
        narrow = model(x)
        assert gates_of(model) == outer
        with gated(model, inner):  # these and no others
            assert gates_of(model) == inner
            assert not torch.equal(model(x), narrow)
        with gated(model, {}):
            assert torch.equal(model(x), plain)
        assert layouts(model, x) == found  # asks no gate
        assert torch.equal(model(x), narrow)
        with pytest.raises(RuntimeError), gated(model, inner):
            raise RuntimeError
        assert gates_of(model) == outer
    assert gates_of(model) == {} and torch.equal(model(x), plain)


def test_one_width_per_head_is_that_of_the_whole_operand_if_it_is_the_only_one(transformer):
    model, x = transformer, images(3)
    narrow = BitAllocation.uniform(model.layers, 4)
    matmuls = [layer.name for layer in model.layers if layer.kind == "matmul"]
    assert matmuls
    slots = {s: layout for s, layout in layouts(model, x).items() if s[0] in matmuls}
    gates = {slot: ForcedGate((4,), layout, 0) for slot, layout in slots.items()}
    widths = [8 if name in matmuls else 4 for name in narrow.layers]
    with torch.inference_mode():
        model.set_allocation(narrow)
        expected = model(x)
        model.set_allocation(BitAllocation(narrow.layers, widths, widths))
        assert not torch.equal(model(x), expected)
        with gated(model, gates):
            assert torch.equal(model(x), expected)


def trainable(model, **options):
    gates = {}
    for number, (slot, layout) in enumerate(layouts(model, images(3)).items()):
        draw = torch.Generator().manual_seed(number)
        made = Selectors(layout.decisions, 2, generator=draw)
        gates[slot] = TrainableGate((3, 8), layout, layout.positions(16), made, **options)
    return gates


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gradients_reach_the_selectors_of_a_frozen_network(transformer, per):
    model = transformer
    model.requires_grad_(False)
    model.set_allocation(BitAllocation.uniform(model.layers, 8))
    x, gates = images(4), trainable(model, per=per)
    with gated(model, gates):
        logits = model(x)
        logits.square().sum().backward()
        # the first operand is an input that records nothing: its selectors do
        assert all(
            gate.selectors.score_bias.grad is not None and gate.shares.shape == (4, 2)
            for gate in gates.values()
        )
        felt = [bool(g.selectors.score_bias.grad.abs().sum() > 0) for g in gates.values()]
        assert sum(felt) > 0.9 * len(felt)
        with torch.inference_mode():
            whole = model(x)  # in whole numbers, which round differently now and then
    assert torch.linalg.vector_norm(whole - logits) < 0.2 * torch.linalg.vector_norm(whole)


def test_an_input_gets_the_same_logits_in_any_batch(transformer):
    model, x = transformer, images(7, 5)
    model.set_allocation(BitAllocation.uniform(model.layers, 8))
    gates = {
        slot: SelectorGate(gate.widths, gate.layout, gate.positions, gate.selectors.deployed())
        for slot, gate in trainable(model).items()
    }
    with torch.inference_mode(), gated(model, gates):
        whole = model(x)
        first = [gate.last.clone() for gate in gates.values()]
        reversed_ = model(x.flip(0)).flip(0)
        assert all(
            torch.equal(g.last.flip(0), f) for g, f in zip(gates.values(), first, strict=True)
        )
        alone = torch.cat([model(one[None]) for one in x])
    assert torch.allclose(reversed_, whole, atol=1e-5) and torch.allclose(alone, whole, atol=1e-5)
