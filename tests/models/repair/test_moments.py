import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.repair import moments
from bitfront.models.repair.moments import CalibrationImages, MomentSource
from bitfront.spaces import BitAllocation

SHAPE = (3, 12, 12)


def images(count=6, seed=1):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.fixture
def model(small_network):
    ours = QuantizedModel(small_network, profile(small_network, SHAPE))
    ours.calibrate([images()])
    return ours


def source(model, batches, **limits):
    return MomentSource(model, model.quantized_layers, CalibrationImages(batches), **limits)


def inputs_of(model, x):
    """Inputs of all layers in float, from hooks."""
    found = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0]}))
        for name, layer in model.quantized_layers.items()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def test_they_give_the_mean_and_the_mean_square_of_what_any_weights_give(model):
    found, inputs = source(model, [images()[:4], images()[4:]]), inputs_of(model, images())
    for name, layer in model.quantized_layers.items():
        weight, at = torch.randn_like(layer.inner.weight), found.of(name)
        with torch.no_grad():
            if isinstance(layer.inner, nn.Conv2d):
                out = layer.inner._conv_forward(inputs[name], weight, None).transpose(0, 1)
                out = out.flatten(1)
            else:
                out = F.linear(inputs[name], weight).T
        rows = weight.flatten(1).unflatten(0, (len(at.mean), -1))
        mean = (rows @ at.mean[:, :, None]).flatten()
        torch.testing.assert_close(mean, out.mean(1), rtol=1e-4, atol=1e-4)
        square = ((rows @ at.second) * rows).sum(2).flatten()
        torch.testing.assert_close(square, out.square().mean(1), rtol=1e-4, atol=1e-4)
        spread = ((rows @ at.covariance) * rows).sum(2).flatten()
        torch.testing.assert_close(spread, out.var(1, correction=0), rtol=1e-3, atol=1e-4)


def test_a_part_of_the_vectors_is_enough_and_the_mean_is_of_all(model, monkeypatch):
    batches = list(images(64).split(16))
    full = source(model, batches).of("0")
    monkeypatch.setattr(moments, "_LEAST_VECTORS", 1000)
    monkeypatch.setattr(moments, "_VECTORS_PER_ENTRY", 1)
    part = source(model, batches).of("0")
    assert torch.equal(part.mean, full.mean)
    assert 0 < (part.covariance - full.covariance).norm() < 0.15 * full.covariance.norm()


def test_they_are_of_the_float_network_whatever_its_widths_and_leave_it_as_it_was(model):
    expected = source(model, [images()]).of("6")
    model.set_allocation(BitAllocation.uniform(model.layers, 2))
    model.train()
    found = source(model, [images()]).of("6")
    assert torch.equal(found.covariance, expected.covariance)
    assert model.training and model.network[4].training
    assert all(layer.weight_bits == 2 for layer in model.quantized_layers.values())
    assert all(layer.kernel is None for layer in model.quantized_layers.values())


def test_what_does_not_fit_waits_for_a_pass_of_its_own(model, monkeypatch):
    passes = []
    whole = source(model, [images()])
    expected = {name: whole.of(name).covariance for name in model.quantized_layers}
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x: passes.append(len(x)) or forward(x))
    little = source(model, [images()], limit_bytes=0)
    for name, covariance in expected.items():
        assert torch.equal(little.of(name).covariance, covariance)
    assert len(passes) == len(expected)
    passes.clear()
    for name in expected:
        source_of_all = whole.of(name)
        assert torch.equal(source_of_all.covariance, expected[name])
    assert passes == []


def test_copies_share_the_images_and_not_the_moments(small_network):
    config = QuantizerConfig(rounding="adaround")
    ours = QuantizedModel(small_network, profile(small_network, SHAPE), config)
    ours.calibrate([images()])
    ours.set_allocation(BitAllocation.uniform(ours.layers, 3))
    other = copy.deepcopy(ours)
    other.set_allocation(BitAllocation.uniform(ours.layers, 4))
    ours.set_allocation(BitAllocation.uniform(ours.layers, 4))
    with torch.inference_mode():
        assert torch.equal(ours(images()), other(images()))
    batches = CalibrationImages([images()])
    assert copy.deepcopy(batches) is batches and len(batches) == 1


class Windows(nn.Module):
    """A layer that sees four rows for each image, and another that is called twice."""

    def __init__(self):
        super().__init__()
        self.token = nn.Linear(36, 8)
        self.twice = nn.Linear(8, 8)

    def forward(self, x):
        x = self.token(x.flatten(2).unflatten(2, (4, 36)).transpose(1, 2).flatten(0, 1).mean(1))
        return self.twice(self.twice(x).relu()).unflatten(0, (-1, 4)).mean(1)


def test_rows_are_counted_and_not_images():
    torch.manual_seed(0)
    layers = profile(Windows().eval(), SHAPE)
    ours = QuantizedModel(Windows().eval(), layers)
    ours.calibrate([images()])
    found = source(ours, [images()[:2], images()[2:]])
    seen = {name: [] for name in ours.quantized_layers}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name, layer in ours.quantized_layers.items()
    ]
    with torch.no_grad():
        ours(images())
    for handle in handles:
        handle.remove()
    assert len(seen["twice"]) == 2 and len(seen["token"][0]) == 4 * len(images())
    for name, inputs in seen.items():
        rows = torch.cat(inputs)
        torch.testing.assert_close(found.of(name).mean[0], rows.mean(0), rtol=1e-4, atol=1e-5)
        second = rows.T @ rows / len(rows)
        torch.testing.assert_close(found.of(name).second[0], second, rtol=1e-3, atol=1e-4)
