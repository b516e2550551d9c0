"""Dominance and indicators: laws, hand-computed volumes, a slow path beside the fast one."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.spaces import (
    OBJECTIVES,
    BitAllocation,
    Measurement,
    SpaceError,
    as_costs,
    dominates,
    hypervolume,
    igd_plus,
    non_dominated,
    objective,
    pareto_front,
    reference_point,
)

values = st.integers(0, 6).map(float)
points = st.lists(st.tuples(values, values), min_size=1, max_size=12)


def measurement(accuracy: float, energy: float, **changes) -> Measurement:
    base = Measurement(
        allocation=BitAllocation(["l"], [8], [8]), accuracy=accuracy, accuracy_se=0.01, loss=1.0,
        energy_vs_fp32=energy / 4, energy_vs_w8a8=energy, energy_pj=None, energy_table="t",
        size_bytes=10, bops=64, mean_weight_bits=8.0, mean_activation_bits=8.0, samples=100,
        wall_s=0.1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@given(st.tuples(values, values), st.tuples(values, values), st.tuples(values, values))
def test_dominance_is_a_strict_partial_order(a, b, c):
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)


@given(points)
def test_the_fast_front_is_the_slow_one(rows):
    mask = non_dominated(rows)
    for i, row in enumerate(rows):
        beaten = any(dominates(other, row) for other in rows)
        repeated = row in rows[:i]
        assert mask[i] == (not beaten and not repeated)


@given(points, st.tuples(values, values))
def test_volume_grows_with_every_point_and_only_by_the_front(rows, extra):
    reference = (7.0, 7.0)
    volume = hypervolume(rows, reference)
    assert hypervolume([*rows, extra], reference) >= volume
    front = np.array(rows)[non_dominated(rows)]
    assert hypervolume(front, reference) == pytest.approx(volume)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_a_staircase_has_the_volume_of_its_formula(steps):
    # Corners (i, steps - 1 - i) below (steps, steps): the squares on and above the diagonal.
    corners = [(i, steps - 1 - i) for i in range(steps)]
    assert hypervolume(corners, (steps, steps)) == pytest.approx(steps * (steps + 1) / 2)


def test_points_beyond_the_reference_and_nan_add_nothing():
    assert hypervolume([[0.5, 0.5], [2.0, 0.1], [math.nan, 0.0]], (1, 1)) == pytest.approx(0.25)
    assert hypervolume(np.zeros((0, 2)), (1, 1)) == 0.0
    assert non_dominated([[math.nan, 0.0], [1.0, 1.0]]).tolist() == [False, True]


def test_igd_plus_by_hand():
    # To reach (0, 0): the nearest is (1, 1), at sqrt(2); (2, 0) is covered by itself.
    assert igd_plus([[1.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]) == pytest.approx(2**0.5 / 2)
    assert igd_plus([[0.0, 0.0]], [[1.0, 2.0]]) == 0.0


def test_the_front_leaves_out_failures_and_is_ordered_by_cost():
    cheap, good, bad = measurement(0.8, 0.4), measurement(0.9, 0.7), measurement(0.7, 0.8)
    failed = measurement(math.nan, 0.1, error="no accuracy")
    assert pareto_front([good, failed, bad, cheap]) == [cheap, good]
    assert pareto_front([]) == []


def test_standard_reference_is_accuracy_zero_at_uniform_8_bit():
    costs = as_costs([measurement(0.9, 0.5)])
    assert costs.tolist() == [[-0.9, 0.5]]
    assert hypervolume(costs, reference_point()) == pytest.approx(0.9 * 0.5)
    with pytest.raises(SpaceError, match="no standard reference"):
        reference_point([OBJECTIVES["size"]])


def test_objectives_are_known_by_name():
    assert objective("accuracy").maximize
    assert objective("size").of(measurement(0.5, 0.5)) == 10
    with pytest.raises(SpaceError, match="did you mean 'energy'"):
        objective("energie")


@pytest.mark.parametrize("error", [None, "lost"])
def test_measurements_survive_json(error):
    m = measurement(math.nan if error else 0.9, 0.5, error=error, energy_vs_fp32=math.nan)
    copy = Measurement.from_dict(json.loads(json.dumps(m.to_dict(), allow_nan=False)))
    assert copy.to_dict() == m.to_dict()
    assert copy.failed == (error is not None)


def test_costs_must_be_a_table():
    with pytest.raises(SpaceError, match="n x d"):
        non_dominated([1.0, 2.0])
