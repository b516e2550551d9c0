import numpy as np
import pytest

from bitfront.searchers.layer_features import layer_features
from bitfront.searchers.testing import synthetic_layers
from bitfront.spaces import Layer


def conv(name, **given):
    facts = {"macs": 1, "bias_count": 0, "input_count": 64, "output_count": 64}
    facts |= {"weight_count": 9, "in_channels": 1, "out_channels": 1, "kernel": (3, 3)} | given
    return Layer(name, "conv", **facts)


def test_eight_numbers_for_each_layer_from_0_to_1():
    found = layer_features(synthetic_layers(5))
    assert found.shape == (5, 8)
    assert found.dtype == np.float32
    assert found.min() == 0
    assert found.max() == 1


def test_sizes_are_scaled_by_their_logarithm():
    layers = [conv("a"), conv("b", out_channels=3), conv("c", out_channels=7)]
    assert layer_features(layers)[:, 2] == pytest.approx([0, 0.5, 1])  # log2 of 2, 4 and 8


def test_a_column_in_which_all_layers_agree_is_0():
    found = layer_features([conv("a"), conv("b")])
    assert not found[:, :7].any()
    assert found[:, 7].tolist() == [0, 1]


def test_depthwise_layers_are_marked():
    found = layer_features([conv("a"), conv("b", in_channels=8, out_channels=8, groups=8)])
    assert found[:, 0].tolist() == [0, 1]


def test_a_linear_layer_has_no_stride():
    facts = {"macs": 1, "weight_count": 9, "bias_count": 0, "input_count": 1, "output_count": 1}
    linear = Layer("fc", "linear", **facts, in_channels=1, out_channels=1)
    found = layer_features([conv("a", stride=(2, 2)), linear])
    assert found[:, 3].tolist() == [1, 0]


def test_one_layer_alone_is_nothing_to_scale():
    assert not layer_features([conv("a")]).any()
