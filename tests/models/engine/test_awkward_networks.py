"""Networks that a plan could get wrong without any step of it being wrong."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models.attention import MatMul
from bitfront.models.engine import Engine, EngineWarning, NonFiniteError
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation

SHAPE = (3, 12, 12)


def images(count, seed=0, shape=SHAPE):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Three(nn.Module):
    """Three layers, and something in between that changes values in place."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
        self.leaky = nn.LeakyReLU(inplace=True)
        self.hidden = Halve()
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x).mean((2, 3))


class Halve(nn.Module):
    def forward(self, x):
        return x.mul_(0.5)


def leaky(net, x):
    y = net.a(x)
    z = net.b(y)
    return net.c(z) + net.leaky(y)


def leaky_read_again(net, x):
    y = net.a(x)
    w = net.leaky(y)
    return net.c(net.b(y)) + w + y


def multiplied(net, x):
    y = net.a(x)
    z = net.b(y)
    y.mul_(0.5)
    return net.c(torch.relu(z)) + y


def copied(net, x):
    y = net.a(x)
    z = net.b(y)
    y.copy_(y.flip(1))
    return net.c(y) + z


def hidden(net, x):
    y = net.a(x)
    z = net.b(y)
    return z + net.hidden(y)


def multiplied_by_operator(net, x):
    y = net.a(x)
    z = net.b(y)
    y *= 0.5
    return net.c(z) + y


def transposed(net, x):
    y = net.a(x)
    return net.c(net.b(y) + y.transpose(2, 3)) + y.contiguous()


def returned_early(net, x):
    return net.a(x) + net.b(net.c(net.a(x)))


def quantized(network, shape=SHAPE):
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = QuantizedModel(network.eval(), profile(network, shape))
    model.calibrate([images(32, seed=1, shape=shape)])
    return model


def engine_of(model, shape=SHAPE):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        return Engine(model, images(4, seed=2, shape=shape))


def reference(model, x, allocation):
    model.set_allocation(allocation)
    with torch.inference_mode():
        return model(x)


def check(model, x, allocations, engine=None):
    fast = engine or engine_of(model, x.shape[1:])
    together = fast.forward_each(x, allocations)
    for allocation, logits in zip(allocations, together, strict=True):
        expected = reference(model, x, allocation)
        assert torch.equal(fast.forward(x, allocation), expected)
        assert torch.equal(logits, expected)


def one_at_a_time(model):
    names = [layer.name for layer in model.layers]
    for place in range(len(names)):
        every = [8] * len(names)
        every[place] = 3
        yield BitAllocation(names, every, every)


@pytest.mark.parametrize(
    "forward",
    [
        leaky,
        leaky_read_again,
        multiplied,
        copied,
        hidden,
        multiplied_by_operator,
        transposed,
        returned_early,
    ],
    ids=lambda forward: forward.__name__,
)
def test_what_changes_or_rearranges_values(forward):
    model = quantized(Three(forward))
    allocations = [BitAllocation.uniform(model.layers, 8), *one_at_a_time(model)]
    check(model, images(6, seed=3), allocations)


class BothAxes(nn.Module):
    """One value of which a convolution reads channels and a linear layer columns."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.l = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 8)

    def forward(self, x):
        y = self.a(x)
        return (self.b(y) + self.l(y)).mean((2, 3))


def test_channels_of_unequal_widths_on_two_axes():
    model = quantized(BothAxes(), (3, 8, 8))
    widths = np.array([2, 8, 2, 8, 2, 8, 4, 4])
    allocation = BitAllocation(["a", "b", "l"], [8, 8, 8], [8, widths, widths])
    check(model, images(4, seed=3, shape=(3, 8, 8)), [allocation])


def test_weights_of_a_norm_that_are_not_finite_show():
    network = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 4))
    model = quantized(network)
    fast = engine_of(model)
    with torch.no_grad():
        model.network[1].weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="layer '2'"):
        fast.forward(images(2), BitAllocation.uniform(model.layers, 8))


class Broadcasting(nn.Module):
    def __init__(self):
        super().__init__()
        self.product, self.fc = MatMul(), nn.Linear(128, 4)

    def forward(self, x):
        right = x[:1, 0].transpose(-2, -1)
        return self.fc(self.product(x, right)).mean((1, 2))


def test_a_kernel_that_fails_leaves_its_layer_to_the_reference():
    shape = (3, 128, 128)
    model = quantized(Broadcasting(), shape)
    with pytest.warns(EngineWarning, match="'product' runs on the reference path.*fails"):
        fast = Engine(model, images(2, seed=2, shape=shape))
    assert set(fast.report.integer) == {"fc"}
    check(model, images(2, shape=shape), [BitAllocation.uniform(model.layers, 8)], fast)


class Viewing(nn.Module):
    """Takes a view that only contiguous tensors have."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.b(self.a(x)).view(len(x), 4, -1).mean(2)


def test_views_of_contiguous_tensors():
    model = quantized(Viewing())
    check(model, images(4, seed=3), [BitAllocation.uniform(model.layers, 8)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_run_by_reference(dtype):
    model = quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)))
    model.to(dtype)
    uniform, x = BitAllocation.uniform(model.layers, 8), images(4, seed=3).to(dtype)
    fast = Engine(model, x)
    assert not fast.report.integer
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_no_images_and_no_allocations():
    model = quantized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    fast = engine_of(model)
    assert fast.forward(images(0), BitAllocation.uniform(model.layers, 8)).shape == (0, 4, 10, 10)
    assert fast.forward_each(images(2), []) == []


def test_sums_that_float32_does_not_hold_agree_to_its_precision():
    model = quantized(nn.Sequential(nn.Conv2d(512, 8, 3), nn.ReLU(), nn.Flatten()), (512, 6, 6))
    with torch.no_grad():
        model.quantized_layers["0"].inner.weight.uniform_(-0.1, 1.0)
    x = torch.rand(4, 512, 6, 6, generator=torch.Generator().manual_seed(0))
    uniform = BitAllocation.uniform(model.layers, 8)
    ours, theirs = engine_of(model, (512, 6, 6)).forward(x, uniform), reference(model, x, uniform)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_recording_gradients_changes_no_more_than_rounding():
    model = quantized(nn.Sequential(nn.Linear(2048, 16)), (2048,))
    model.set_allocation(BitAllocation.uniform(model.layers, 8))
    x = images(8, seed=3, shape=(2048,))
    with torch.no_grad():
        whole = model(x)
    recorded = model(x)
    assert recorded.requires_grad
    assert (recorded - whole).norm() <= 1e-5 * whole.norm()
