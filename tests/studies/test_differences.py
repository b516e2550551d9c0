import math

import numpy as np
import pytest

from bitfront.studies.differences import Difference, over_seeds, paired


def test_the_interval_of_a_pair_is_that_of_the_differences_by_input():
    rng = np.random.default_rng(0)
    one, other = rng.random(500) < 0.9, rng.random(500) < 0.8
    signed = one.astype(float) - other
    found = paired(one.mean(), other.mean(), np.mean(one != other), 500)
    assert found.points == pytest.approx(100 * signed.mean())
    assert found.half_width == pytest.approx(196 * signed.std() / math.sqrt(500))
    assert not found.is_tie


def test_the_same_answers_are_a_tie():
    found = paired(0.9, 0.9, 0.0, 100)
    assert (found.points, found.half_width) == (0.0, 0.0)
    assert found.is_tie
    assert str(found) == "tie (+0.00 ± 0.00)"


def test_rounding_gives_no_negative_variance():
    # All that differs is right here and wrong there, on every input.
    assert paired(1.0, 0.0, 1.0 - 1e-16, 10).half_width == 0.0


def test_what_is_worse_is_no_tie():
    assert str(Difference(-1.25, 0.5)) == "-1.25 ± 0.50"


def test_seeds_are_compared_with_students_interval():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.points == 2.0
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees of freedom
