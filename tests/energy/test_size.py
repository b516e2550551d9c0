import math

import numpy as np
import pytest

from bitfront.energy import bops, mean_activation_bits, mean_weight_bits, size_bytes
from bitfront.spaces import BitAllocation, SpaceError


def test_bit_operations_by_hand(worked_layer):
    assert bops([worked_layer], BitAllocation(["conv"], [4], [8])) == 57802752 * 4 * 8


def test_bit_operations_of_channels_are_those_of_the_pairs_that_meet(small_network):
    depthwise = small_network[1]
    weights, inputs = np.arange(16) % 7 + 2, np.arange(16) % 3 + 4
    allocation = BitAllocation(["depthwise"], [weights], [inputs])
    per_channel = depthwise.macs // 16
    assert bops([depthwise], allocation) == per_channel * int((weights * inputs).sum())


def test_bit_operations_of_groups(small_network):
    grouped = small_network[2]  # 4 groups of 8 outputs and 4 inputs
    weights, inputs = [2] * 8 + [4] * 24, [8] * 4 + [3] * 12
    allocation = BitAllocation(["grouped"], [weights], [inputs])
    assert bops([grouped], allocation) == grouped.macs // 4 * (2 * 8 + 3 * 4 * 3)


def test_size_counts_weights_biases_and_scales(small_network):
    stem = small_network[0]  # 432 weights, 16 biases, 16 output channels
    allocation = BitAllocation(["stem"], [3], [8])
    assert size_bytes([stem], allocation) == (432 * 3 + 16 * 32 + 16 * 32) // 8


def test_size_rounds_the_sum_up_to_a_byte(small_network):
    head = small_network[-1]  # 480 weights: 10 channels of 48
    mixed = BitAllocation(["head"], [[3] * 9 + [2]], [8])
    bits = 48 * (3 * 9 + 2) + 10 * 32 + 10 * 32
    assert size_bytes([head], mixed) == math.ceil(bits / 8)


def test_float_channels_have_no_scale(small_network):
    head = small_network[-1]
    floats = BitAllocation(["head"], [32], [32])
    assert size_bytes([head], floats) == 4 * (480 + 10)


def test_a_matmul_has_no_size(small_network):
    scores = small_network[4]
    assert size_bytes([scores], BitAllocation(["scores"], [8], [8])) == 0


def test_mean_bits_are_weighted_by_elements(worked_layer, small_network):
    head = small_network[-1]
    layers = [worked_layer, head]
    allocation = BitAllocation(["conv", "head"], [4, 8], [6, 2])
    assert mean_weight_bits(layers, allocation) == pytest.approx(
        (73728 * 4 + 480 * 8) / (73728 + 480)
    )
    assert mean_activation_bits(layers, allocation) == pytest.approx(
        (50176 * 6 + 48 * 2) / (50176 + 48)
    )


def test_both_operands_of_a_matmul_are_activations(small_network):
    scores = small_network[4]
    allocation = BitAllocation(["scores"], [4], [8])
    assert scores.input_count == scores.operand_count
    assert mean_activation_bits([scores], allocation) == 6.0
    assert math.isnan(mean_weight_bits([scores], allocation))


@pytest.mark.parametrize("cost", [bops, size_bytes, mean_weight_bits, mean_activation_bits])
def test_another_networks_allocation_is_refused(cost, worked_layer):
    with pytest.raises(SpaceError, match="the network has"):
        cost([worked_layer], BitAllocation(["fc"], [8], [8]))
