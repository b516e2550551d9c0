import numpy as np
import pytest

from bitfront.models.dynamic.complexity import BINS, input_entropies
from bitfront.models.images import ImageSet


def images(pixels):
    pixels = np.asarray(pixels)
    channels = pixels.shape[1]
    return ImageSet(pixels, np.zeros(len(pixels), np.int64), (0.0,) * channels, (1.0,) * channels)


def test_entropies_by_hand():
    width = 256 // BINS
    flat = np.full((1, 1, 4, 8), 77, np.uint8)
    halves = np.where(np.arange(32) < 16, 0, 255).astype(np.uint8).reshape(1, 1, 4, 8)
    every = (np.arange(32) * width).astype(np.uint8).reshape(1, 1, 4, 8)
    found = input_entropies(images(np.concatenate([flat, halves, every])))
    np.testing.assert_allclose(found, [0.0, 1.0, 5.0])
    assert not np.signbit(found).any()


def test_floats_are_measured_over_the_range_of_the_set():
    rng = np.random.default_rng(0)
    calm = rng.normal(0, 0.01, (1, 1, 8, 8)).astype(np.float32)
    wild = rng.uniform(-3, 3, (1, 1, 8, 8)).astype(np.float32)
    found = input_entropies(images(np.concatenate([calm, wild])))
    assert found[0] < 1.1 and found[1] > 3.5
    assert input_entropies(images(np.zeros((2, 1, 3, 3), np.float32))).tolist() == [0.0, 0.0]


def test_an_image_has_its_entropy_whoever_comes_with_it():
    rng = np.random.default_rng(1)
    set_of = images(rng.integers(0, 256, (5000, 1, 2, 2), dtype=np.uint8))
    found = input_entropies(set_of)
    assert found[4500] == input_entropies(set_of.subset(np.array([4500])))[0]
    assert input_entropies(set_of, limit=3) == pytest.approx(found[:3])
    assert len(input_entropies(set_of, limit=0)) == 0
