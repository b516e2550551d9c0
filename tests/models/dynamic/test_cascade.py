"""Who answers which input, how sure they are, and what members answer."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.dynamic.cascade import confidence, fit_temperature, member_logits, route
from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation, DynamicAllocation, ModelError


def cascade(*thresholds):
    widths = (2, 4, 8)[: len(thresholds) + 1]
    return DynamicAllocation(
        "cascade",
        tuple(BitAllocation(["a", "b"], [w, w], [w, w]) for w in widths),
        thresholds=thresholds,
        temperatures=(1.0,) * len(thresholds),
        classes=10,
    )


# Confidence


def test_confidence_is_the_largest_softmax():
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 8
    for temperature in (0.5, 1.0, 3.0):
        expected = softmax(logits.astype(np.float64) / temperature, axis=1).max(axis=1)
        found = confidence(logits, temperature)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_confidence_of_enormous_and_of_broken_logits():
    logits = [[1e30, -1e30], [math.nan, 0.0], [math.inf, 0.0], [3.0, 3.0]]
    found = confidence(logits)
    assert found[0] == 1.0 and found[3] == 0.5
    assert np.isnan(found[1:3]).all()


# Temperature


def test_a_known_temperature_is_found():
    rng = np.random.default_rng(1)
    honest = rng.normal(size=(4000, 5)) * 2
    labels = np.array([rng.choice(5, p=p) for p in softmax(honest, axis=1)])
    assert fit_temperature(honest * 3, labels) == pytest.approx(3, rel=0.1)
    assert fit_temperature(honest / 2, labels) == pytest.approx(0.5, rel=0.1)


def test_no_temperature_nearby_has_a_smaller_cross_entropy():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(60, 4)) * 5, rng.integers(4, size=60)
    logits[np.arange(60), labels] += 4

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(60), labels].mean()

    found = fit_temperature(logits, labels)
    assert all(loss(found) <= loss(found * factor) for factor in (0.5, 0.95, 1.05, 2))


def test_where_nothing_is_wrong_nothing_is_fitted():
    assert fit_temperature(np.eye(4) * 9, np.arange(4)) == 1.0
    assert fit_temperature(np.full((3, 2), math.nan), [0, 1, 0]) == 1.0
    assert fit_temperature(np.zeros((0, 3)), []) == 1.0


# Routing


def test_two_members_split_at_the_threshold():
    answered, ran = route(cascade(0.9), [np.array([0.95, 0.9, 0.8999, 0.0, math.nan])])
    assert answered.tolist() == [0, 0, 1, 1, 1]
    assert ran.tolist() == [[True, False]] * 2 + [[True, True]] * 3


def test_three_members_follow_the_policy():
    first = np.array([0.9, 0.89, 0.7, 0.6, 0.59, 0.1, math.nan, 0.7])
    middle = np.array([0.0, 0.6, 0.59, 1.0, 1.0, 0.0, 1.0, math.nan])
    answered, ran = route(cascade(0.9, 0.6), [first, middle])
    assert answered.tolist() == [0, 1, 2, 1, 2, 2, 2, 2]
    assert ran.astype(int).tolist() == [
        [1, 0, 0],  # sure
        [1, 1, 0],  # the middle one is
        [1, 1, 1],  # neither is
        [1, 1, 0],
        [1, 0, 1],  # far from sure: the middle one is left out
        [1, 0, 1],
        [1, 0, 1],
        [1, 1, 1],
    ]


def test_who_answers_was_run_and_everybody_is_answered():
    rng = np.random.default_rng(3)
    for thresholds in ((0.5,), (0.8, 0.3), (0.5, 0.5), (1.0, 0.0)):
        dynamic = cascade(*thresholds)
        answered, ran = route(dynamic, list(rng.random((len(thresholds), 200))))
        assert ran[np.arange(200), answered].all()
        assert ran[:, 0].all()
        assert answered.dtype == np.int64 and ran.shape == (200, len(thresholds) + 1)


def test_the_ends_of_thresholds():
    sure = [np.array([0.3, 1.0])]
    assert route(cascade(0.0), sure)[0].tolist() == [0, 0]
    assert route(cascade(1.0), sure)[0].tolist() == [1, 0]


def test_confidences_must_be_those_of_all_members_but_the_last():
    with pytest.raises(ModelError, match="3 members needs the confidences of 2, got those of 1"):
        route(cascade(0.9, 0.6), [np.ones(4)])


# What members answer


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64, 5)),
        ).eval()
        x = torch.rand(12, 1, 8, 8)
    model = QuantizedModel(net, profile(net, (1, 8, 8)), QuantizerConfig())
    model.calibrate([x])
    return model, x


def members_of(model):
    return [BitAllocation.uniform(model.layers, width) for width in (3, 8, 5)]


def test_an_engine_and_the_reference_give_the_same_logits(network):
    model, x = network
    members, y = members_of(model), torch.arange(12) % 5
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    by_engine, labels = member_logits(Engine(model, x[:4]), members, batches)
    by_reference, _ = member_logits(model, members, batches)
    assert labels.tolist() == y.tolist()
    assert by_engine.shape == (3, 12, 5) and by_engine.dtype == np.float32
    np.testing.assert_array_equal(by_engine, by_reference)
    model.set_allocation(members[2])
    with torch.inference_mode():
        np.testing.assert_array_equal(by_engine[2, :5], model(x[:5]).numpy())


def test_what_is_not_finite_is_nan_and_no_images_are_refused(network):
    model, x = network
    engine, members = Engine(model, x[:4]), members_of(model)
    broken = x.clone()
    broken[3] = math.nan
    y = torch.zeros(12, dtype=torch.int64)
    logits, _ = member_logits(engine, members, [(x, y), (broken, y)])
    assert np.isnan(logits[:, 12:]).all() and np.isfinite(logits[:, :12]).all()
    with pytest.raises(ModelError, match="there are none"):
        member_logits(engine, members, [])
