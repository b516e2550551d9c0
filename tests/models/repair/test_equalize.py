import pytest
import torch
from torch import nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.repair import equalize as module
from bitfront.models.repair.equalize import equalize, input_ranges, output_ranges
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (3, 8, 8)


def images(count=8, seed=0, shape=SHAPE):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def wrapped(network, shape=SHAPE):
    torch.manual_seed(0)
    model = QuantizedModel(network.eval(), profile(network, shape))
    with torch.no_grad():
        for layer in model.quantized_layers.values():  # ranges far from each other
            weight = layer.inner.weight
            factors = torch.exp(torch.randn(len(weight)) * 2)
            weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))
    return model.network


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 1),
        nn.Flatten(),
        nn.Linear(128, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 4),
    )


def test_ranges_of_every_pair_become_equal_and_the_output_stays():
    network = wrapped(chain())
    before = network(images())
    pairs = equalize(network, images(2))
    assert pairs == [("0", "2"), ("2", "5"), ("7", "10")]  # flattening mixes up the channels
    for first, second in pairs:
        made, read = (network.get_submodule(name).inner for name in (first, second))
        ranges = output_ranges(made.weight), input_ranges(read.weight, read)
        torch.testing.assert_close(*ranges, rtol=0.02, atol=0)
    torch.testing.assert_close(network(images()), before, rtol=1e-4, atol=1e-3)


def test_a_pair_by_hand():
    network = wrapped(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), (2,))
    with torch.no_grad():
        network[0].inner.weight.copy_(torch.tensor([[8.0, 1.0], [0.0, 0.0]]))
        network[0].inner.bias.copy_(torch.tensor([4.0, 3.0]))
        network[1].inner.weight.copy_(torch.tensor([[2.0, 5.0]]))
    equalize(network, torch.ones(1, 2))
    assert network[0].inner.weight.tolist() == [[4.0, 0.5], [0.0, 0.0]]
    assert network[0].inner.bias.tolist() == [2.0, 3.0]  # a dead channel is left alone
    assert network[1].inner.weight.tolist() == [[4.0, 5.0]]


class Two(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self._between = between

    def forward(self, x):
        return self._between(self, x).mean((2, 3))


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: net.b(nn.functional.relu6(net.a(x))),
        lambda net, x: net.b(nn.functional.gelu(net.a(x))),
        lambda net, x: net.b(net.a(x) + 1),
        lambda net, x: net.b(net.a(x)) + net.a(x),
        lambda net, x: net.b(y := torch.relu(net.a(x))) + y,
        lambda net, x: net.b(torch.relu(net.a(net.b(x)))),
    ],
    ids=["relu6", "gelu", "sum", "read twice", "residual", "used twice"],
)
def test_what_is_no_pair_is_left_alone(between):
    network = wrapped(Two(between))
    assert equalize(network, images(2)) == []


def test_shared_weights_are_left_alone():
    network = Two(lambda net, x: net.b(net.a(x)))
    assert equalize(wrapped(network), images(2)) == [("a", "b")]
    network.tied = nn.Module()
    network.tied.weight = network.a.weight
    assert equalize(wrapped(network), images(2)) == []


def test_a_network_that_cannot_be_traced_is_left_alone():
    network = wrapped(Two(lambda net, x: net.b(net.a(x)) if x.sum() > 0 else net.a(x)))
    assert equalize(network, images(2)) == []


def test_a_changed_output_is_refused(monkeypatch):
    monkeypatch.setattr(module, "scale_inputs", lambda *args: None)
    with pytest.raises(ModelError, match="cross-layer equalization moved the output"):
        equalize(wrapped(chain()), images(2))


def test_real_digits_lose_less_where_a_layer_has_one_scale(digits_case):
    """What it was made for; scales by channel, which all our grids have, leave it less to do."""
    errors = []
    for on in (False, True):
        model = digits_case.quantized(equalization=on)
        weight = model.quantized_layers["conv2"].inner.weight.detach()
        scale = weight.abs().max() / 7
        error = (weight / scale).round() * scale - weight
        errors.append(float((error.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)).mean()))
    assert errors[1] < errors[0]


@pytest.mark.slow
def test_a_published_network_loses_less_to_coarse_activations(cifar10_case):
    errors = []
    x = next(iter(cifar10_case.data.test.batches(500)))[0]
    for on in (False, True):
        model = cifar10_case.quantized(activation_observer="mse", equalization=on)
        with torch.inference_mode():
            model.set_allocation(None)
            full = model(x)
            names = [layer.name for layer in model.layers]
            narrow = [8, *[3] * (len(names) - 1)]
            model.set_allocation(BitAllocation(names, [8] * len(names), narrow))
            errors.append(float((model(x) - full).norm() / full.norm()))
    assert errors[1] < errors[0]


def test_the_configuration_turns_it_on():
    network = chain().eval()
    models = []
    for on in (False, True):
        model = QuantizedModel(network, profile(network, SHAPE), QuantizerConfig(equalization=on))
        model.calibrate([images()])
        models.append(model)
    plain, equal = (model.quantized_layers["2"].inner.weight for model in models)
    assert torch.equal(plain, network[2].weight) and not torch.equal(equal, plain)
    torch.testing.assert_close(models[1](images()), network(images()), rtol=1e-4, atol=1e-5)
