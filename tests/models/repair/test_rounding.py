import itertools

import pytest
import torch

from bitfront.models.engine import Engine
from bitfront.models.evaluate import evaluate_each
from bitfront.models.repair.rounding import RowGrids, best_rounding, best_scales
from bitfront.spaces import BitAllocation


def problem(rows=5, entries=6, groups=2, bits=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, entries, rows, generator=generator)
    x = torch.randn(groups, 100, entries, generator=generator)
    x = x @ torch.randn(groups, entries, entries, generator=generator)  # not independent
    second = x.transpose(1, 2) @ x / 100
    half = 2 ** (bits - 1)
    scale = weight.abs().amax(1, keepdim=True) / (half - 1)
    return weight, second, RowGrids(scale, torch.full_like(scale, -half), scale * 0 + half - 1)


def error(weight, second, codes, scale):
    difference = weight - codes * scale
    return ((second @ difference) * difference).sum(1, keepdim=True)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_error_is_what_it_says_and_below_that_of_the_nearest_points(bits):
    weight, second, grids = problem(bits=bits)
    best = best_rounding(weight, second, grids, bits)
    assert torch.equal(best.codes, best.codes.round())
    assert bool((best.codes >= best.grids.lowest).all() & (best.codes <= best.grids.highest).all())
    assert bool((best.grids.scale > 0).all())
    found = error(weight, second, best.codes, best.grids.scale)
    nearest = error(weight, second, grids.nearest(weight), grids.scale)
    assert bool((found <= nearest * 1.02).all())
    assert found.sum() < 0.8 * nearest.sum()
    damped = second + 0.01 * second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(6)
    torch.testing.assert_close(
        best.error, error(weight, damped, best.codes, best.grids.scale), rtol=1e-3, atol=1e-6
    )


def test_it_comes_close_to_the_best_of_all_codes():
    weight, second, grids = problem(rows=4, entries=5, groups=1, bits=2)
    best = best_rounding(weight, second, grids, 2)
    every = torch.tensor(list(itertools.product(range(-2, 3), repeat=5))).float()
    exhaustive = []
    for row in range(4):
        codes = every.T[None]  # the best scale of every choice of codes
        codes = codes[:, :, ~((every == -2).any(1) & (every == 2).any(1))]
        w, weighted = weight[:, :, row : row + 1], second @ codes
        scale = (w * weighted).sum(1) / (codes * weighted).sum(1).clamp(min=1e-9)
        exhaustive.append(error(w, second, codes, scale[:, None].clamp(min=1e-9)).min())
    optimum = torch.stack(exhaustive).sum()
    nearest = error(weight, second, grids.nearest(weight), grids.scale).sum()
    assert optimum < best.error.sum() < optimum + 0.3 * (nearest - optimum)


def test_grids_keep_their_number_of_codes_and_only_few_bits_turn_them_round():
    weight, second, grids = problem(rows=200, bits=2)
    best = best_rounding(weight.abs(), second, grids, 2)  # the extra code is of use above zero
    assert bool((best.grids.highest == 2).any())
    assert bool((best.grids.highest - best.grids.lowest == 3).all())
    weight, second, grids = problem(bits=8)
    assert bool((best_rounding(weight.abs(), second, grids, 8).grids.highest == 127).all())


def test_weights_on_the_grid_stay():
    weight, second, grids = problem(bits=4)
    weight = grids.nearest(weight) * grids.scale
    best = best_rounding(weight, second, grids, 4)
    torch.testing.assert_close(best.codes * best.grids.scale, weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scales_alone_round_to_the_nearest_and_lower_the_error(bits):
    weight, second, grids = problem(bits=bits)
    best = best_scales(weight, second, grids, bits)
    assert torch.equal(best.codes, best.grids.nearest(weight))
    found = error(weight, second, best.codes, best.grids.scale)
    nearest = error(weight, second, grids.nearest(weight), grids.scale)
    assert bool((found <= nearest * 1.02).all())
    assert bits == 8 or found.sum() < 0.9 * nearest.sum()
    assert bits == 8 or best_rounding(weight, second, grids, bits).error.sum() < best.error.sum()


def test_inputs_that_never_occur_do_no_harm():
    weight, second, grids = problem()
    second[:, 2], second[:, :, 2] = 0, 0
    for moments in (second, torch.zeros_like(second)):
        best = best_rounding(weight, moments, grids, 3)
        points = best.codes * best.grids.scale
        assert torch.isfinite(points).all()
        assert bool(((points - weight).abs() <= weight.abs().max()).all())


def test_blocks_of_columns_change_nothing(monkeypatch):
    weight, second, grids = problem(entries=40, rows=7)
    whole = best_rounding(weight.double(), second.double(), doubled(grids), 3)
    monkeypatch.setattr("bitfront.models.repair.rounding._BLOCK", 7)
    parts = best_rounding(weight.double(), second.double(), doubled(grids), 3)
    assert torch.equal(whole.codes, parts.codes)


def doubled(grids):
    return RowGrids(grids.scale.double(), grids.lowest.double(), grids.highest.double())


def test_digits_survive_2_bits(digits_case):
    correct = {}
    widths = BitAllocation.uniform(digits_case.layers, 2)
    for rounding in ("nearest", "adaround"):
        model = digits_case.quantized(rounding=rounding)
        names = [layer.name for layer in model.layers]
        engine = Engine(model, next(iter(digits_case.data.calibration.batches(4)))[0])
        at_8 = BitAllocation(names, widths.weights, [8] * len(names))
        (counts,) = evaluate_each(engine, [at_8], digits_case.data.test, 256)
        correct[rounding] = counts.accuracy
    assert correct["adaround"] > correct["nearest"] + 0.05
    assert correct["adaround"] > 0.85


@pytest.mark.slow
def test_a_published_network_survives_few_bits(cifar10_case):
    """On 10,000 images see docs/quantization.md."""
    found = {}
    for settings in (
        {},
        {"weight_observer": "output-mse"},
        {"bias_correction": True},
        {"rounding": "adaround"},
        {"rounding": "adaround", "bias_correction": True},
    ):
        model = cifar10_case.quantized(activation_observer="mse", **settings)
        engine = Engine(model, next(iter(cifar10_case.data.calibration.batches(4)))[0])
        names = [layer.name for layer in model.layers]
        allocations = [
            BitAllocation(names, [8, *[bits] * 18, 8], [8] * len(names)) for bits in (2, 3)
        ]
        counts = evaluate_each(engine, allocations, cifar10_case.data.test, 250)
        found[tuple(settings)] = [one.accuracy for one in counts]
    plain, scales, bias, rounding, both = found.values()
    assert scales[0] > 0.65 and scales[1] > plain[1]
    assert plain[0] < 0.25 < 0.8 < rounding[0] < both[0]
    assert plain[1] < bias[1] < both[1]
    assert both[0] > 0.88 and both[1] > 0.91
