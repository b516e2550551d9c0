"""Networks whose layers are quantized while they are trained."""

import copy

import pytest
import torch
from torch import nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.network import TrainableNetwork, batch_norms
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import ModelError
from tests.models.qat.conftest import case_of


def statistics_of(network):
    norms = batch_norms(network)
    return [t.clone() for n in norms for t in (n.running_mean, n.running_var)]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_in_float_it_is_the_network_it_was_made_of(case, training):
    x, model = case.batch, copy.deepcopy(case.model).train(training)
    network = case.trainable().train(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        assert torch.allclose(network(x), expected, rtol=1e-5, atol=1e-6)
    assert same(statistics_of(network), statistics_of(model))


def test_its_float_state_has_the_names_and_values_of_the_network(case):
    state, expected = case.trainable().float_state(), case.model.state_dict()
    assert list(state) == list(expected)
    assert same(state.values(), expected.values())


def test_the_network_it_was_made_of_stays_as_it_is(case):
    before = copy.deepcopy(case.model.state_dict())
    network = case.trainable().train()
    network.set_allocation(case.uniform(4))
    network(case.batch).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert same(before.values(), case.model.state_dict().values())
    assert all(p.grad is None for p in case.model.parameters())


def test_every_layer_computes_with_the_widths_of_the_allocation(case):
    """Each alone changes the logits, and all at 32 bits change nothing."""
    network, x = case.trainable().eval(), case.batch
    network.set_allocation(case.uniform(32))
    expected = case.model(x)
    assert torch.allclose(network(x), expected, rtol=1e-5, atol=1e-6)
    for name in (layer.name for layer in case.layers):
        for operand in ("weight", "activation"):
            network.set_allocation(case.uniform(32).replace(name, **{operand: 2}))
            assert not torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5), (name, operand)


def test_gradients_reach_weights_ranges_and_widths(case):
    network = case.trainable(bits=3).train()
    count = len(case.layers)
    widths = [[torch.tensor(3.0, requires_grad=True) for _ in range(count)] for _ in range(2)]
    network.set_widths(*widths)
    logits = network(case.batch)
    nn.functional.cross_entropy(logits, torch.arange(16) % 4).backward()
    assert all(p.grad is not None for p in network.float_parameters())
    assert all(bool(p.grad.abs().sum() > 0) for p in network.range_parameters())
    assert all(width.grad.abs() > 0 for operand in widths for width in operand)
    ids = {id(p) for p in network.range_parameters()}
    assert ids.isdisjoint({id(p) for p in network.float_parameters()})
    everything = {id(p) for p in network.parameters() if p.requires_grad}
    assert ids | {id(p) for p in network.float_parameters()} == everything


def test_only_the_quantized_pass_moves_the_statistics_of_batch_norms(block):
    network, x = block.trainable().train(), block.batch
    network.set_allocation(block.uniform(2))
    counts = [norm.num_batches_tracked.clone() for norm in batch_norms(network)]
    before = statistics_of(network)
    with network.full_precision():
        full = network(x)
    assert same(statistics_of(network), before)
    assert same([norm.num_batches_tracked for norm in batch_norms(network)], counts)
    assert torch.allclose(full, copy.deepcopy(block.model).train()(x), rtol=1e-5, atol=1e-6)
    quantized = network(x)
    assert not torch.allclose(full, quantized)
    assert not any(torch.equal(a, b) for a, b in zip(statistics_of(network), before, strict=True))


def test_in_evaluation_mode_full_precision_uses_the_running_statistics(block):
    network, x = block.trainable().eval(), block.batch
    network.set_allocation(block.uniform(2))
    with network.full_precision():
        assert torch.allclose(network(x), block.model(x), rtol=1e-5, atol=1e-6)


def test_full_precision_ends_also_with_an_error(block):
    network, x = block.trainable().train(), block.batch
    network.set_allocation(block.uniform(2))
    torch.manual_seed(0)
    expected = network(x)
    with pytest.raises(KeyboardInterrupt), network.full_precision():
        raise KeyboardInterrupt
    assert torch.equal(network(x), expected)
    before = statistics_of(network)
    network(x)
    assert not same(statistics_of(network), before)


def test_weights_of_minmax_are_those_of_a_quantized_model():
    """Where nothing is learned it is the post-training network, batch norms not folded."""
    case = case_of("vit")  # has no batch norms
    config = QuantizerConfig(weight_observer="minmax", activation_observer="minmax")
    model = QuantizedModel(case.model, case.layers, config)
    model.calibrate(case.calibration)
    settings = QatSettings(weight_ranges="minmax", activation_ranges="minmax")
    for bits in (2, 4, 8):
        network = TrainableNetwork(case.model, model, settings).eval()
        network.set_allocation(case.uniform(bits))
        model.set_allocation(case.uniform(bits))
        with torch.no_grad():
            assert torch.allclose(network(case.batch), model(case.batch), rtol=1e-3, atol=1e-4)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_with_a_forward_of_its_own_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Doubling(4, 3)).eval()
    layers = profile(model, (4,))
    reference = QuantizedModel(model, layers)
    reference.calibrate([torch.rand(8, 4)])
    with pytest.raises(ModelError, match=r"layer '2' \(Doubling\) has a forward of its own"):
        TrainableNetwork(model, reference, QatSettings())


def test_another_network_and_widths_by_channel_are_refused(block):
    with pytest.raises(ModelError, match="no layer 'stem': profile this network"):
        TrainableNetwork(nn.Sequential(nn.Linear(2, 2)), block.reference, QatSettings())
    by_channel = block.uniform(8).replace("stem", weight=[2, 4, 8, 8, 8, 8])
    with pytest.raises(ModelError, match="one width per layer and operand"):
        block.trainable().trained(by_channel)


def test_attributes_of_layers_are_those_of_the_layers(block):
    network = block.trainable().network
    assert (network.fc.in_features, network.stem.kernel_size) == (8, (3, 3))
    with pytest.raises(AttributeError):
        _ = network.fc.nothing_like_it


def test_it_can_be_copied(block):
    network = block.trainable().train()
    network.set_allocation(block.uniform(4))
    twin = copy.deepcopy(network)
    assert torch.equal(twin(block.batch), network(block.batch))
