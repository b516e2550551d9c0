"""Selectors fitted to a network that stays as it is, and moved to an energy."""

import copy

import numpy as np
import pytest
import torch

from bitfront.energy import EnergyModel, decision_cost, load_table
from bitfront.models.dynamic.fit import Fitter
from bitfront.models.dynamic.losses import measured_losses
from bitfront.models.dynamic.network import DynamicNetwork
from bitfront.models.dynamic.offsets import Offsets
from bitfront.models.dynamic.operands import gated, layouts
from bitfront.models.dynamic.prices import LayerPrice, Prices, shares_of
from bitfront.models.dynamic.settings import FitSettings
from bitfront.models.quantizers import fake_quantize
from bitfront.searchers.learnprec_plan import plan
from bitfront.searchers.synthetic import TinyNetwork
from bitfront.spaces import BitSpace, ModelError

SETTINGS = FitSettings(
    max_overhead=1.0, positions=8, epochs=2, batch_size=8, directions=2, regression_steps=30
)


@pytest.fixture(scope="module")
def source():
    return TinyNetwork()


@pytest.fixture
def fitting(source):
    """Return how to make a fitter of the tiny network, with its plan and its model."""
    ((images, labels),) = source.calibration()
    space = BitSpace.build(source.layers)
    energy = EnergyModel(load_table("horowitz-45nm"), source.layers)

    def make(settings=SETTINGS, seed=0):
        model = source.quantized_model()
        found = plan(space, energy, space.uniform(8), settings, layouts(model, images[:3]))
        model.set_allocation(found.dynamic.widest)
        fitter = Fitter(model, found.operands, found.prices, images, labels, settings, seed)
        return fitter, found, model, images

    return make


def test_what_narrower_channels_lose_is_what_logits_move_by_when_they_alone_are_narrowed(fitting):
    """To first order in the rounding errors, by many random directions."""
    fitter, _, model, images = fitting()
    slot, gate = next(iter(fitter.gates.items()))
    generator = torch.Generator().manual_seed(0)
    losses = measured_losses(model, {slot: gate}, [images], 100, generator)[slot]
    assert losses.lost.shape == (16, gate.layout.decisions, 1)
    layer, _ = slot
    kept = {}
    wrapped = model.quantized_layers[layer]
    hook = wrapped.register_forward_pre_hook(lambda m, x: kept.update(x=x[0].detach()))
    model(images)
    hook.remove()
    container = wrapped.left.container_grids(gate.widths)
    change = fake_quantize(kept["x"], container.grid(0)) - kept["x"]
    alone = torch.zeros_like(change)
    alone[:, 1] = change[:, 1]

    def logits(x):
        with torch.no_grad():
            hook = wrapped.register_forward_pre_hook(lambda m, given: (x,))
            out = model(images)
            hook.remove()
            return out

    with gated(model, {}):
        model.set_allocation(None)  # no rounding that hides small changes
        moved = (logits(kept["x"] + 1e-2 * alone) - logits(kept["x"])) / 1e-2
    moved = (moved - moved.mean(1, keepdim=True)).square().sum(1) / 2
    expected, seen = moved.mean().item(), losses.lost[:, 1, 0].mean().item()
    assert seen == pytest.approx(expected, rel=0.25)


def test_a_fit_is_the_same_for_the_same_seed_and_leaves_the_network_as_it_is(fitting):
    def fitted(seed):
        fitter, _, model, _ = fitting(seed=seed)
        before = copy.deepcopy(model.state_dict())
        fitter.begin()
        reports = [fitter.run_epoch((0.01, 1.0)) for _ in range(2)]
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert (fitter.images_forward, fitter.images_backward) == (16 * 4, 16 * 4)
        return reports, fitter.arrays(0.0)

    first, again, other = fitted(0), fitted(0), fitted(1)
    assert first[0] == again[0]
    np.testing.assert_equal(first[1], again[1])
    assert first[0] != other[0]


def test_the_energy_that_is_aimed_at_is_met_and_rises_with_the_offset(fitting):
    fitter, found, model, images = fitting()
    fitter.begin()
    selectors = {slot: gate.selectors.deployed() for slot, gate in fitter.gates.items()}
    offsets = Offsets(model, fitter.gates, selectors, found.prices, [images])
    low, high = offsets.ends()
    assert low < high
    seen = []
    for share in (0.2, 0.5, 0.8):
        wanted = low + share * (high - low)
        offset = offsets.offset_for(wanted)
        network = DynamicNetwork(found.dynamic, fitter.arrays(offset))
        gates = network.gates({layer.name: layer for layer in model.layers})
        with gated(model, gates), torch.no_grad():
            model(images)
        shares = {s: shares_of(g.last, len(g.widths)) for s, g in gates.items()}
        energy = found.prices.energy(shares).mean().item()
        assert energy == pytest.approx(offsets.energy(offset), abs=2e-3)
        assert energy == pytest.approx(wanted, rel=0.05)
        seen.append((offset, energy))
    assert seen == sorted(seen)


def test_prices_of_constant_choices_are_those_of_the_members(fitting):
    _, found, _, _ = fitting()
    energy = EnergyModel(load_table("horowitz-45nm"), TinyNetwork().layers)
    for place, member in enumerate(found.dynamic.members):
        shares = {
            slot: torch.eye(2, dtype=torch.float64)[place].expand(3, 2) for slot in found.operands
        }
        priced = found.prices.energy(shares)
        expected = (energy.energy(member) + decision_cost(energy, found.dynamic)) / energy.w8a8
        assert priced.tolist() == pytest.approx([expected] * 3)


def test_of_a_product_both_operands_count():
    costs = np.array([[1.0, 2.0], [3.0, 5.0]])
    prices = Prices([LayerPrice("qk", costs)], 10.0)
    shares = {
        ("qk", "weight"): torch.tensor([[0.5, 0.5]]),
        ("qk", "activation"): torch.tensor([[0.0, 1.0]]),
    }
    assert prices.energy(shares).tolist() == pytest.approx([10 + 3.5])
    steps = {slot: step.tolist() for slot, step in prices.steps().items()}
    assert steps == {("qk", "weight"): [2.5], ("qk", "activation"): [1.5]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8, 4)}, r"rise and are two at least, such as \[4, 8\], got \[8, 4\]"),
        ({"widths": (4,)}, r"two at least"),
        ({"widths": (4, 16)}, r"widths of 2 to 8 bits"),
        ({"hidden": 0}, r"hidden must be from 1 to 256, got 0"),
        ({"per": "pixel"}, r"per: no 'pixel'"),
        ({"lr": 0.0}, r"lr must be a positive number, got 0"),
        ({"directions": 0}, r"directions must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        FitSettings(**settings)
