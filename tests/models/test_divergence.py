import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models import QuantizerConfig
from bitfront.models.divergence import CHUNK, LogitDivergence
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import FLOAT_BITS, BitAllocation, ModelError

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 5)),
    ).eval()
    layers = profile(network, SHAPE)
    images = torch.rand(CHUNK + 10, *SHAPE)
    model = QuantizedModel(network, layers, QuantizerConfig())
    model.calibrate([images])
    batches = [(images[:30], torch.zeros(30)), (images[30:], torch.zeros(CHUNK - 20))]
    return model, batches, images, layers


def test_it_is_the_divergence_of_the_softmax_of_each_image(parts):
    model, batches, images, layers = parts
    allocations = [BitAllocation.uniform(layers, bits) for bits in (2, 8, 4)]
    found = LogitDivergence(model, batches)(allocations)
    for allocation, row in zip(allocations, found, strict=True):
        with torch.inference_mode():
            model.set_allocation(None)
            p = model(images).double().log_softmax(1)
            model.set_allocation(allocation)
            q = model(images).double().log_softmax(1)
        model.set_allocation(None)
        expected = (p.exp() * (p - q)).sum(1).numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-9)


def test_float_is_at_no_distance(parts):
    model, batches, _, layers = parts
    assert not LogitDivergence(model, batches)([BitAllocation.uniform(layers, FLOAT_BITS)]).any()


def test_chunks_are_parts_of_all_images(parts):
    model, batches, _, layers = parts
    divergence = LogitDivergence(model, batches)
    allocations = [BitAllocation.uniform(layers, bits) for bits in (3, 5)]
    first, rest = divergence(allocations, 0, 1), divergence(allocations, 1)
    assert first.shape == (2, CHUNK) and rest.shape == (2, 10)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), divergence(allocations))
    assert divergence([], 0, 1).shape == (0, CHUNK)


def test_images_can_be_limited(parts):
    model, batches, _, layers = parts
    some = LogitDivergence(model, batches, limit=7)
    assert some.count == 7
    assert some([BitAllocation.uniform(layers, 4)]).shape == (1, 7)
    assert some([BitAllocation.uniform(layers, 4)], 1).shape == (1, 0)


def test_images_are_needed_and_the_float_network_has_to_be_finite_on_them(parts):
    model, batches, _, _ = parts
    with pytest.raises(ModelError, match="at least one batch"):
        LogitDivergence(model, [])
    broken = [(x.clone(), y) for x, y in batches]
    broken[1][0][3] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        LogitDivergence(model, broken)
