import re
from typing import get_args

import numpy as np
import pytest
import torch

from bitfront.models import build_model
from bitfront.models.config import ScoreConfig, ScoreKind, TrainConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.sensitivity import compute_scores
from bitfront.models.train import train
from bitfront.spaces import BitAllocation, EvaluationError, ModelError

KINDS = get_args(ScoreKind)
SHORT = {"hessian": {"iterations": 20}}


def score(network, kind, *widths):
    return network.scores(kind, *widths, **SHORT.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_how_images_are_given_makes_no_difference(small, kind):
    before = score(small, kind)
    small.batches = [(small.images[i : i + 3], small.labels[i : i + 3]) for i in range(0, 10, 3)]
    after = score(small, kind)
    np.testing.assert_array_equal(after.values, before.values)
    assert after.images_forward == before.images_forward


@pytest.mark.usefixtures("batches_of_three")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hessian"])
def test_how_many_images_go_together_makes_no_difference(small, kind, monkeypatch):
    split = score(small, kind)
    monkeypatch.setattr("bitfront.models.sensitivity.images._MOST", 128)
    monkeypatch.setattr("bitfront.models.sensitivity.images._LEAST", 128)
    np.testing.assert_allclose(score(small, kind).values, split.values, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_so_many_images_are_taken(small, kind):
    config = ScoreConfig(kind=kind, images=5, **SHORT.get(kind, {}))
    cut = compute_scores(small.model, small.batches, config, small.choices(2, 8), "x")
    small.batches = [(small.images[:5], small.labels[:5])]
    expected = score(small, kind, 2, 8)
    np.testing.assert_array_equal(cut.values, expected.values)
    assert cut.images_forward == expected.images_forward
    assert cut.config["images"] == 5


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_change_and_what_stays_in_float_scores_nothing(small, kind):
    choices = [((8,), (4, 8)), ((2, 32), (8,)), ((8,), (8,))]
    config = ScoreConfig(kind=kind, **SHORT.get(kind, {}))
    values = compute_scores(small.model, small.batches, config, choices, "x").values
    assert values[0, 0, 8] == values[1, 1, 8] == values[2, 0, 8] == values[2, 1, 8] == 0
    assert values[1, 0, 32] == 0
    assert values[1, 0, 2] != 0
    scored = {tuple(place) for place in np.argwhere(np.isfinite(values)).tolist()}
    assert scored == {
        (row, operand, bits)
        for row, operands in enumerate(choices)
        for operand, widths in enumerate(operands)
        for bits in widths
    }


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_choose_costs_no_pass(small, kind):
    found = score(small, kind, 8)
    assert (found.images_forward, found.images_backward) == (0, 0)
    assert (found.values[..., 8] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(small, kind):
    model = small.model
    allocation = BitAllocation.uniform(model.layers, 4)
    model.set_allocation(allocation)
    model.train()
    model.network.relu.eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    gradient = parameters[1].grad = torch.ones_like(parameters[1])
    weights = [parameter.detach().clone() for parameter in parameters]
    score(small, kind)
    assert model.allocation == allocation
    assert model.training and not model.network.relu.training
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[1].grad is gradient and (gradient == 1).all()
    assert all(p.grad is None for p in parameters if p is not parameters[1])
    assert all(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    score(small, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was_after_an_error_too(small, kind, monkeypatch):
    allocation = BitAllocation.uniform(small.model.layers, 4)
    small.model.set_allocation(allocation)
    small.model.train()
    with pytest.raises((RuntimeError, ValueError)):
        small.batches = [(torch.zeros(2, 7, 6, 6), torch.zeros(2, dtype=torch.int64))]
        score(small, kind)
    assert small.model.allocation == allocation and small.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_being_off_outside_does_not_matter(small, kind):
    expected = score(small, kind).values
    with torch.no_grad():
        np.testing.assert_array_equal(score(small, kind).values, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_that_is_not_finite_is_refused(small, kind):
    small.batches = [(torch.full((2, 1, 6, 6), torch.nan), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises((EvaluationError, ModelError)) as caught:
        score(small, kind)
    assert re.search(
        rf"the {kind} score of \w+\.weight at 2 bits is nan|not finite", str(caught.value)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_without_images_or_for_other_layers_nothing_is_computed(small, kind):
    config = ScoreConfig(kind=kind)
    with pytest.raises(ModelError, match="at least one calibration image"):
        compute_scores(small.model, [], config, small.choices(2, 8), "x")
    with pytest.raises(ModelError, match="for 2 layers, the model has 3"):
        compute_scores(small.model, small.batches, config, small.choices(2, 8)[:2], "x")


def test_scores_say_what_they_are(small):
    found = score(small, "kl")
    assert found.signature == "name" and found.kind == "kl"
    assert found.layers == ("first", "second", "head")
    assert found.config["seed"] == 0 and found.wall_s > 0


@pytest.fixture(scope="module")
def trained(digits):
    network = build_model("cnn5", classes=10, input_shape=digits.input_shape)
    train(network, digits.train, TrainConfig(epochs=2))
    model = QuantizedModel(network, profile(network, digits.input_shape))
    batches = list(digits.calibration.batches(64))
    model.calibrate(batches)
    return model, batches


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_real_network_fewer_bits_do_more_damage(trained, kind):
    model, batches = trained
    config = ScoreConfig(kind=kind, images=64, **SHORT.get(kind, {}))
    choices = [((2, 4, 8), (2, 4, 8))] * len(model.layers)
    values = compute_scores(model, batches, config, choices, "x").values.sum(axis=0)
    assert values[0, 2] > max(values[0, 4], values[0, 8])
    if kind != "loss":  # which the noise of few bits may well lower
        assert (values[:, 2] > values[:, 4]).all()
        assert (values[:, 4] > values[:, 8]).all()


class Doubled(torch.nn.Conv2d):
    """Computes with other weights than it has."""

    def forward(self, x):
        return torch.nn.functional.conv2d(x, 2 * self.weight, self.bias)


class Overwriting(torch.nn.Module):
    """Adds to a layer's input in place once the layer has read it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 3, 1), torch.nn.Conv2d(3, 3, 1)
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x):
        y = self.first(x)
        y += self.second(y).sigmoid()
        return self.head(y.mean((2, 3)))


def unusual(network):
    layers = profile(network.eval(), (1, 6, 6))
    model, batches = QuantizedModel(network, layers), [(torch.rand(4, 1, 6, 6), torch.arange(4))]
    model.calibrate(batches)
    return lambda kind: compute_scores(
        model, batches, ScoreConfig(kind=kind), [((2, 8), (8,))] * len(layers), ""
    )


@pytest.mark.parametrize("kind", ["taylor", "hessian"])
def test_gradients_of_weights_a_layer_makes_itself_are_refused(kind):
    compute = unusual(
        torch.nn.Sequential(Doubled(1, 4, 3), torch.nn.AvgPool2d(4), torch.nn.Flatten())
    )
    with pytest.raises(ModelError, match="layer '0' computes with weights of its own making"):
        compute(kind)
    assert np.nanmax(compute("fisher").values) > 0


@pytest.mark.parametrize("kind", ["taylor", "hessian"])
def test_networks_that_overwrite_what_gradients_need_are_refused(kind):
    compute = unusual(Overwriting())
    with pytest.raises(ModelError, match=r"overwrites values in place.*such as kl"):
        compute(kind)
    assert np.nanmax(compute("kl").values) > 0
