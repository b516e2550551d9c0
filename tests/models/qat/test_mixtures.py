"""Mixtures of widths, computed with by a network and priced."""

import numpy as np
import pytest
import torch

from bitfront.energy import EnergyModel, load_table
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.mixtures import LearnedSoftmax
from bitfront.models.qat.network import TrainableNetwork
from bitfront.models.qat.widths import SoftmaxWidths
from bitfront.searchers.synthetic import TinyNetwork
from bitfront.spaces import BitSpace

SOURCE = TinyNetwork()
SPACE = BitSpace.build(SOURCE.layers, weights=[2, 4, 8], activations=[3, 8], first_last=8)
ENERGY = EnergyModel(load_table("eqat-glsvlsi25"), SOURCE.layers)


def learned():
    found = LearnedSoftmax(SoftmaxWidths(SPACE), ENERGY.layer_costs, ENERGY.w8a8)
    generator = torch.Generator().manual_seed(0)
    found.widths.logits.data = torch.randn(found.widths.logits.shape, generator=generator)
    return found


def test_mixtures_have_the_choices_and_their_probabilities():
    found = learned()
    weights, activations = found.operands()
    p, q = found.widths.probabilities()
    assert [m.bits for m in weights] == [(8,), (2, 4, 8), (2, 4, 8), (8,)]
    assert [m.bits for m in activations] == [(8,), (3, 8), (3, 8), (8,)]
    assert weights[1].probabilities.tolist() == p[1, [2, 4, 8]].tolist()
    assert activations[2].probabilities.tolist() == q[2, [3, 8]].tolist()
    assert sum(weights[2].probabilities.tolist()) == pytest.approx(1)


def test_the_energy_is_the_expected_one_relative_to_8_bits():
    found = learned()
    p, q = (x.detach().double().numpy() for x in found.widths.probabilities())
    costs = np.nan_to_num(ENERGY.layer_costs)
    expected = np.einsum("lw,la,lwa->", p, q, costs) / ENERGY.w8a8
    assert found.energy().item() == pytest.approx(expected, rel=1e-6)
    found.widths.freeze(SPACE.uniform(8))
    assert found.energy().item() == pytest.approx(1)


def test_only_the_logits_are_state_and_parameters():
    found = learned()
    assert [*found.state_dict()] == ["widths.logits"]
    assert [name for name, _ in found.named_parameters()] == ["widths.logits"]


def test_a_network_that_is_sure_computes_as_at_those_widths_and_gradients_reach_the_logits():
    network = TrainableNetwork(SOURCE.float_model(), SOURCE.quantized_model(), QatSettings()).eval()
    x = SOURCE.calibration()[0][0]
    found = learned()
    target = SPACE.uniform(4, 3)
    for row, variable in enumerate(found.widths.learned):
        bits = 4 if variable.slots[0].operand == "weight" else 3
        found.widths.logits.data[row] = -200.0
        found.widths.logits.data[row, bits] = 200.0
    assert found.rounded() == target
    network.set_widths(*found.operands())
    mixed = network(x)
    network.set_allocation(target)
    torch.testing.assert_close(mixed, network(x))

    found = learned()
    network.set_widths(*found.operands())
    network(x).square().sum().backward()
    gradients = found.widths.logits.grad
    assert (gradients.abs().sum(dim=1) > 0).all()
    assert (gradients[:, [0, 1, 5, 6, 7]] == 0).all()  # no choices
