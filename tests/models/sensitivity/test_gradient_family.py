import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bitfront.models.quantized_layers import QuantizedWeightLayer
from bitfront.spaces import ModelError

FLOAT = 32


def gradient_of(network, row, inject):
    """What the sum of cross-entropies has as gradient where a layer's values are injected."""
    layer = list(network.model.quantized_layers.values())[row]
    before = layer.compute
    seen = {}

    def compute(inputs, *widths):
        inputs, seen["point"], finish = inject(layer, inputs, lambda i: before(i, *widths))
        return finish(inputs)

    layer.compute = compute
    try:
        loss = cross_entropy(network.model(network.images), network.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, seen["point"])
    finally:
        del layer.compute
    return seen["point"].detach(), gradient


def at_output(layer, inputs, run):
    shift = torch.zeros_like(run(inputs)).requires_grad_()
    return inputs, shift, lambda i: run(i) + shift


def at_input(place):
    def inject(layer, inputs, run):
        point = inputs[place].detach().requires_grad_()
        changed = list(inputs)
        # The gradient through this layer alone: what comes before is a constant.
        changed[place] = point
        return tuple(changed), point, run

    return inject


@pytest.mark.usefixtures("batches_of_three")
def test_fisher_is_what_one_operand_at_a_time_gives(network):
    found = network.scores("fisher", 2, 8)
    for row in range(len(network.model.layers)):
        _, gradient = gradient_of(network, row, at_output)
        _, full, _ = network.run(None, row)
        for operand in (0, 1):
            for bits in (2, 8):
                _, quantized, _ = network.run(network.alone(row, operand, bits), row)
                expected = (gradient.double() * (quantized - full)).square().sum()
                value = found.values[row, operand, bits]
                assert value == pytest.approx(float(expected), rel=1e-3)
    assert (found.images_forward, found.images_backward) == (10, 10)


@pytest.mark.usefixtures("batches_of_three")
def test_taylor_is_what_one_operand_at_a_time_gives(network):
    found = network.scores("taylor", 2, 8)
    for row, layer in enumerate(network.model.quantized_layers.values()):
        x, gradient = gradient_of(network, row, at_input(0))
        for bits in (2, 8):
            change = layer.left(x, bits) - x
            expected = (gradient.double() * change).abs().sum()
            assert found.values[row, 1, bits] == pytest.approx(float(expected), rel=1e-3)
        if isinstance(layer, QuantizedWeightLayer):
            x = layer.inner.weight
            loss = cross_entropy(network.model(network.images), network.labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        else:
            x, gradient = gradient_of(network, row, at_input(1))
        for bits in (2, 8):
            if isinstance(layer, QuantizedWeightLayer):
                change = layer._quantized(x.detach(), bits) - x.detach()
            else:
                change = layer.right(x, bits) - x
            expected = (gradient.double() * change).abs().sum()
            assert found.values[row, 0, bits] == pytest.approx(float(expected), rel=1e-3)
    assert (found.images_forward, found.images_backward) == (10, 10)


@pytest.mark.parametrize("kind", ["fisher", "taylor"])
def test_scores_are_sums_over_the_images(small, kind):
    once = small.scores(kind).values
    small.batches = small.batches * 2
    np.testing.assert_allclose(small.scores(kind).values, 2 * once, rtol=1e-5)


def test_fisher_of_a_linear_softmax_is_its_closed_form(calibrate):
    """For logits Wx the gradient is p - onehot, and quantizing W changes the logits by (Q-W)x."""
    network = calibrate(nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False)), (6,), 3)
    layer = next(iter(network.model.quantized_layers.values()))
    weight = layer.inner.weight.detach().double()
    x = network.images.double()
    error = (x @ weight.T).softmax(1) - torch.eye(3, dtype=torch.float64)[network.labels]
    found = network.scores("fisher", 3, 8).values
    for bits in (3, 8):
        half = 2 ** (bits - 1)
        scale = weight.abs().amax(1, keepdim=True) / (half - 1)
        quantized = (weight / scale).round() * scale
        expected = (error * (x @ (quantized - weight).T)).square().sum()
        assert found[0, 0, bits] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("kind", ["fisher", "taylor", "hessian"])
def test_a_layer_computed_without_gradients_is_named(calibrate, kind):
    class Frozen(nn.Sequential):
        def forward(self, x):
            with torch.no_grad():
                x = self[0](x)
            return self[1](x)

    network = calibrate(Frozen(nn.Linear(6, 6), nn.Linear(6, 3)), (6,), 3)
    with pytest.raises(ModelError, match="layer '0' without gradients"):
        network.scores(kind)
