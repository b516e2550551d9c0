from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from bitfront.searchers.trace import Trace
from bitfront.studies.canvas import new_figure
from bitfront.studies.epochs import set_epochs, spread, trainings, write_at_ends


def trace_with(metrics: dict, steps: int = 4) -> Trace:
    return Trace("epoch", ("fc",), metrics, [[8]] * steps, [[8]] * steps)


def test_trainings_are_told_apart_by_their_number():
    assert trainings(trace_with({"training": [0, 0, 1, 2]})) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
    ]
    assert trainings(trace_with({"loss": [1.0] * 4})) == [slice(0, 4)]
    assert trainings(Trace("epoch", ("fc",))) == []


def test_what_is_far_enough_apart_stays_and_the_rest_moves_as_little_as_it_can():
    assert spread(np.array([3.0, 1.0]), 1.0, 0.0, 9.0).tolist() == [3.0, 1.0]
    assert spread(np.array([5.0, 5.2, 1.0]), 1.0, 0.0, 9.0).tolist() == pytest.approx([4.6, 5.6, 1])
    assert spread(np.array([8.0, 8.0]), 1.0, 2.0, 8.0).tolist() == [7.0, 8.0]  # at the upper end
    assert spread(np.array([2.0, 2.0]), 1.0, 2.0, 8.0).tolist() == [2.0, 3.0]
    assert spread(np.array([]), 1.0, 2.0, 8.0).tolist() == []


@given(st.lists(st.floats(2, 8), min_size=1, max_size=12), st.floats(0.01, 0.5))
def test_places_keep_their_order_their_gaps_and_the_bounds(values, gap):
    places = spread(np.array(values), gap, 2.0, 8.0)
    order = np.argsort(values, kind="stable")
    assert (np.diff(places[order]) >= gap - 1e-9).all()
    assert places.min() >= 2.0 - 1e-9
    assert places.max() <= 8.0 + 1e-9


def test_there_is_a_tick_for_epochs_only():
    axes = new_figure().add_subplot()
    set_epochs(axes, 20)
    assert axes.get_xticks().max() <= 20 < axes.get_xlim()[1]
    set_epochs(axes, 0)
    assert axes.get_xticks().tolist() == [0]


def test_texts_at_the_same_end_do_not_meet():
    figure = new_figure()
    axes = figure.add_subplot()
    axes.set_ylim(2, 8)
    set_epochs(axes, 10)
    write_at_ends(axes, [(10, 5), (10, 5), (10, 5)], ["a", "b", "c"], ["#000000"] * 3)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the arrows
    assert not any(one.overlaps(two) for one, two in pairwise(boxes))
