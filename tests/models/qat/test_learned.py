"""What gradients say a bit is worth."""

import numpy as np
import pytest
import torch

from bitfront.energy import EnergyModel, load_table
from bitfront.models.qat.learned import LearnedSigmoid
from bitfront.models.qat.widths import SigmoidWidths
from bitfront.searchers.synthetic import synthetic_layers
from bitfront.spaces import BitSpace

LAYERS = synthetic_layers(3)
ENERGY = EnergyModel(load_table("eqat-glsvlsi25"), LAYERS)


def learned_widths(fractional=True, **space):
    widths = SigmoidWidths(BitSpace.build(LAYERS, first_last=None, **space), 6.0)
    return LearnedSigmoid(widths, ENERGY.price_torch, ENERGY.w8a8, fractional=fractional)


def pass_backward(learned, factors, beta):
    """Leave the gradients of a loss of ``factors 4^-q`` and of the energy."""
    weights, activations = (torch.stack(list(bits)) for bits in learned.operands())
    loss = (factors[0] * 4.0**-weights).sum() + (factors[1] * 4.0**-activations).sum()
    learned.widths.theta.grad = None
    (loss + beta * learned.energy()).backward()
    learned.observe(beta)


def move(learned, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        learned.widths.theta.copy_(torch.randn(len(learned.widths.theta), generator=generator))


FACTORS = torch.tensor([[1.0, 20.0, 0.3], [5.0, 0.01, 100.0]])


@pytest.mark.parametrize("fractional", [True, False])
@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_a_loss_that_shrinks_fourfold_per_bit_is_found_whatever_the_energy_weighs(fractional, beta):
    learned = learned_widths(fractional)
    assert learned.losses() is None
    for seed in range(3):
        move(learned, seed)
        pass_backward(learned, FACTORS, beta)
    losses = learned.losses()
    assert losses.shape == (3, 33, 33)
    for layer in range(3):
        for weight, activation in ((2, 2), (3, 7), (8, 4)):
            by_hand = FACTORS[0, layer] * 4.0**-weight + FACTORS[1, layer] * 4.0**-activation
            assert losses[layer, weight, activation] == pytest.approx(float(by_hand), rel=1e-3)


def test_tied_operands_share_what_their_common_width_is_worth():
    learned = learned_widths(ties=["weights=activations"])
    pass_backward(learned, FACTORS, 1.0)
    both = FACTORS.sum(0).numpy() * 4.0**-5
    assert learned.losses()[:, 5, 5] == pytest.approx(both, rel=1e-3)


def test_where_bits_seem_to_harm_they_are_worth_next_to_nothing():
    learned = learned_widths()
    pass_backward(learned, FACTORS * torch.tensor([1.0, -1.0, 1.0]), 0.0)
    losses = learned.losses()
    assert (losses > 0).all() or (losses[:, 2:, 2:] > 0).all()
    assert losses[1, 4, 4] < 1e-3 * losses[2, 4, 4]


def test_what_was_observed_is_part_of_the_state():
    learned, other = learned_widths(), learned_widths()
    pass_backward(learned, FACTORS, 1.0)
    other.load_state_dict(learned.state_dict())
    assert np.array_equal(other.losses(), learned.losses())
