import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from bitfront.models.config import ScoreConfig
from bitfront.models.sensitivity import compute_scores
from bitfront.models.sensitivity.hessian import estimate_traces
from bitfront.models.sensitivity.images import LabelledImages
from bitfront.models.sensitivity.probes import probes_of
from bitfront.spaces import ModelError


@pytest.fixture
def softmax(calibrate):
    """Logits ``W x`` of 6 features and 3 classes, whose Hessians are known."""
    layer = nn.Linear(6, 3, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return calibrate(nn.Sequential(nn.Flatten(), layer), (6,), 3)


def parts(network):
    weight = next(iter(network.model.quantized_layers.values())).inner.weight.detach().double()
    x = network.images.double()
    return weight, x, (x @ weight.T).softmax(1)


def hessian(network):
    """The Hessian of the mean loss with respect to the weights and all inputs together."""
    weight, x, _ = parts(network)

    def loss(point):
        w, inputs = point[: weight.numel()].view_as(weight), point[weight.numel() :].view_as(x)
        return cross_entropy(linear(inputs, w), network.labels)

    return torch.autograd.functional.hessian(loss, torch.cat([weight.flatten(), x.flatten()]))


def estimated(network, iterations, batch):
    config = ScoreConfig(kind="hessian", iterations=iterations, tolerance=0)
    probes = probes_of(network.model, network.choices(2, 8))
    images = LabelledImages(network.batches, batch)
    return estimate_traces(network.model, images, probes, config).means


@pytest.mark.parametrize("batch", [10, 3])
def test_the_traces_are_those_of_the_closed_form(softmax, batch):
    """The trace by weights is mean (1 - sum p^2) |x|^2; by inputs, mean tr(W' (diag p - p p') W).

    The variance of v . Hv is twice the sum of squares off the diagonal. Vectors are independent
    between batches, so that of one batch of all images is the larger one.
    """
    weight, x, p = parts(softmax)
    whole = hessian(softmax)
    blocks = {0: slice(0, weight.numel()), 1: slice(weight.numel(), None)}
    norms = weight.square().sum(1)
    closed = {
        0: ((1 - p.square().sum(1)) * x.square().sum(1)).mean(),
        1: (p @ norms - (p @ weight).square().sum(1)).mean(),
    }
    iterations = 1000
    means = estimated(softmax, iterations, batch)
    for operand, block in blocks.items():
        own = whole[block, block]
        torch.testing.assert_close(own.trace(), closed[operand])
        off = own.square().sum() - own.diag().square().sum()
        error = math.sqrt(float(2 * off) / iterations)
        assert means[0, operand] == pytest.approx(float(closed[operand]), abs=4 * error)
        assert error < 0.1 * closed[operand]  # or the check would be of little worth


def test_a_score_is_the_mean_curvature_times_the_sum_of_squares(softmax):
    """The sum, not the mean: a mistake of others."""
    means = estimated(softmax, 40, batch=10)
    found = softmax.scores("hessian", iterations=40, tolerance=0)
    layer = next(iter(softmax.model.quantized_layers.values()))
    weight, x = layer.inner.weight.detach(), softmax.images
    for bits in (2, 4, 8):
        change = (layer._quantized(weight, bits) - weight).double().square().sum()
        expected = means[0, 0] / weight.numel() * float(change)
        assert found.values[0, 0, bits] == pytest.approx(expected, rel=1e-4)
        change = (layer.left(x, bits) - x).double().square().sum()
        expected = means[0, 1] / x.numel() * float(change)
        assert found.values[0, 1, bits] == pytest.approx(expected, rel=1e-4)
    # One float pass for the changes; per iteration one pass forward and three backward.
    assert (found.images_forward, found.images_backward) == (10 * (1 + 40), 10 * 3 * 40)


def test_the_seed_decides_the_score(network):
    first = network.scores("hessian", iterations=2, seed=1).values
    np.testing.assert_array_equal(network.scores("hessian", iterations=2, seed=1).values, first)
    other = network.scores("hessian", iterations=2, seed=2).values
    assert not np.array_equal(other, first, equal_nan=True)


def test_without_activations_an_iteration_has_one_product(small):
    config = ScoreConfig(kind="hessian", iterations=4, tolerance=0)
    choices = [((2, 8), (8,))] * 3
    found = compute_scores(small.model, small.batches, config, choices, "x")
    assert (found.images_forward, found.images_backward) == (10 * (1 + 4), 10 * 2 * 4)


def test_it_ends_when_the_running_means_rest(softmax):
    def iterations(**settings):
        return softmax.scores("hessian", **settings).images_backward // 30

    assert iterations(iterations=30, tolerance=0) == 30
    assert iterations(iterations=30, tolerance=1e9) == 2
    assert 2 < iterations(iterations=300, tolerance=0.02) < 300


def test_attention_has_curvature(network):
    values = network.scores("hessian", iterations=20).values
    assert (values[..., [2, 4, 8]] >= 0).all()
    assert (values[..., 2].sum(axis=0) > values[..., 4].sum(axis=0)).all()
    assert values[..., 8].sum() > 0


def test_a_negative_estimate_scores_zero(softmax, monkeypatch):
    monkeypatch.setattr(
        "bitfront.models.sensitivity.hessian._quadratic_forms",
        lambda *_: [((0, 0), -1.0), ((0, 1), 1.0)],
    )
    values = softmax.scores("hessian", iterations=2).values
    assert (values[0, 0, [2, 4, 8]] == 0).all()
    assert (values[0, 1, [2, 4, 8]] > 0).all()


def test_a_network_without_second_derivatives_is_refused(calibrate):
    layers = nn.Flatten(), nn.Linear(6, 6), nn.Hardsigmoid(), nn.Linear(6, 3)
    network = calibrate(nn.Sequential(*layers), (6,), 3)
    with pytest.raises(ModelError, match=r"differentiated twice \(.*hardsigmoid.*such as fisher"):
        network.scores("hessian")
