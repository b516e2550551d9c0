"""Dynamic points are compared with static ones at equal energy."""

import math
from types import SimpleNamespace

import pytest

from bitfront.benchmarks.by_input import as_accurate, as_cheap, by_rank, energy_text, interpolated


def point(energy, accuracy, *, seed=0, dynamic=None):
    measured = SimpleNamespace(
        energy_vs_w8a8=energy, accuracy=accuracy, dynamic=dynamic, failed=False
    )
    return SimpleNamespace(seed=seed, test=measured)


FRONT = [point(e, a).test for e, a in ((1.0, 0.92), (0.5, 0.90), (0.4, 0.80))]


def test_a_front_is_straight_between_its_points():
    assert interpolated(FRONT, 0.75) == pytest.approx(0.91)
    assert interpolated(FRONT, 1.2) == 0.92
    assert math.isnan(interpolated(FRONT, 0.3))


def test_static_ones_that_are_as_cheap_or_as_accurate():
    assert as_cheap(FRONT, 0.75) == 0.90
    assert math.isnan(as_cheap(FRONT, 0.3))
    assert as_accurate(FRONT, 0.85) == 0.5
    assert math.isnan(as_accurate(FRONT, 0.95))
    assert energy_text([0.5, 0.4]) == "0.450"
    assert energy_text([0.5, math.nan]) == ""


def test_seeds_are_put_together_by_rank():
    points = [
        point(0.6, 0.9, dynamic=1),
        point(0.5, 0.8, dynamic=1),
        point(0.51, 0.81, seed=1, dynamic=1),
        point(1.0, 0.92, seed=1),
    ]
    ranks = [[m.energy_vs_w8a8 for m in group] for group in by_rank(points)]
    assert ranks == [[0.5, 0.51], [0.6]]
