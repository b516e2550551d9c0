from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers.trace import Trace
from bitfront.spaces import BitAllocation
from bitfront.studies.figures import write_figures
from bitfront.studies.trace_figures import (
    learning_figure,
    moving_mean,
    trace_figures,
    widths_figure,
)

COLOUR = "#0072b2"


def panels(figure) -> dict:
    """Visible panels by their titles."""
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_what_was_logged_is_among_the_pictures_of_a_study(learning_result, tmp_path):
    names = {path.name for path in write_figures(learning_result, tmp_path)}
    assert {"learning-haq.png", "widths-haq-s0.png", "widths-haq-s1.png"} <= names
    assert len([name for name in names if name.startswith(("learning", "widths"))]) == 3


def test_without_anything_logged_there_is_no_picture(synthetic_result):
    assert trace_figures(synthetic_result) == {}


def test_a_trace_without_steps_or_values_has_no_curves(learning_result):
    first, second, *others = learning_result.trials
    empty = Trace("episode", ("fc",))
    silent = Trace("episode", ("fc",), {"reward": [None]}, [[8]], [[8]])
    trials = (
        replace(first, findings={"trace": empty.to_dict()}),
        replace(second, findings={"trace": silent.to_dict()}),
        *others,
    )
    assert list(trace_figures(replace(learning_result, trials=trials))) == ["widths-haq-s1"]


def test_several_budgets_have_pictures_of_their_own(learning_result):
    first, second, *others = learning_result.trials
    trials = (first, replace(second, seed=0, budget="60 evaluations"), *others)
    figures = trace_figures(replace(learning_result, trials=trials))
    assert len(figures) == 4
    for kind in ("learning-haq-", "widths-haq-s0-"):
        assert len([name for name in figures if name.startswith(kind)]) == 2
    titles = {figure.get_suptitle() for figure in figures.values()}
    assert len(titles) == 4
    assert any("60 evaluations" in title for title in titles)


def test_each_metric_has_a_panel_and_its_best_is_drawn_in_it(make_synthetic_trace):
    traces = {0: make_synthetic_trace(), 1: make_synthetic_trace(seed=1)}
    figure = learning_figure(traces, "title", COLOUR)
    drawn = panels(figure)
    assert list(drawn) == ["reward", "accuracy", "critic loss", "energy"]
    lines = drawn["accuracy"].get_lines()
    assert lines[0].get_ydata().tolist() == traces[0].metrics["accuracy"]
    assert lines[2].get_ydata().tolist() == traces[0].metrics["best_accuracy"]
    assert np.isnan(drawn["critic loss"].get_lines()[0].get_ydata()[:10]).all()
    assert len({axes.get_xlim() for axes in drawn.values()}) == 1


def test_seeds_have_shades_of_their_strategys_colour(make_synthetic_trace):
    trace = make_synthetic_trace(steps=10)
    alone = learning_figure({0: trace}, "title", COLOUR)
    assert panels(alone)["reward"].get_lines()[0].get_color() == COLOUR
    together = learning_figure({seed: trace for seed in range(5)}, "title", COLOUR)
    lines = panels(together)["reward"].get_lines()
    assert len({line.get_color() for line in lines}) == 5
    assert legend(together) == [*(f"seed {seed}" for seed in range(5)), "best so far"]


def test_many_steps_are_shown_with_their_mean(make_synthetic_trace):
    trace = make_synthetic_trace(steps=150)
    figure = learning_figure({0: trace}, "title", COLOUR)
    single, mean = panels(figure)["reward"].get_lines()[:2]
    assert single.get_linewidth() < mean.get_linewidth()
    rewards = np.array(trace.metrics["reward"])
    assert mean.get_ydata()[75] == pytest.approx(rewards[70:81].mean())
    assert legend(figure) == ["seed 0", "each episode", "mean over 11 episodes", "best so far"]


def test_a_metric_without_a_value_has_no_panel():
    trace = Trace("epoch", ("fc",), {"loss": [0.5], "energy": [None]}, [[8]], [[8]])
    assert list(panels(learning_figure({0: trace}, "title", COLOUR))) == ["loss"]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (7, (2, 4)), (9, (3, 3))])
def test_panels_leave_few_gaps(count, shape):
    metrics = {f"m{i}": [float(i)] for i in range(count)}
    trace = Trace("epoch", ("fc",), metrics, [[8]], [[8]])
    figure = learning_figure({0: trace}, "title", COLOUR)
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    assert len(panels(figure)) == count


def test_widths_are_shown_layer_by_layer_over_the_steps(make_synthetic_trace):
    trace = make_synthetic_trace(steps=30)
    weights, activations, *_ = widths_figure(trace, "title").axes
    for axes, widths in ((weights, trace.weight_bits), (activations, trace.activation_bits)):
        shown = axes.get_images()[0].get_array()
        assert shown.shape == (5, 30)
        assert shown.T.tolist() == widths
    assert [label.get_text() for label in weights.get_yticklabels()] == list(trace.layers)
    assert weights.get_ylim() == (4.5, -0.5)  # the first layer on top


def widths_trace(*steps):
    trace = Trace("episode", ("conv", "fc"))
    for weights, activations in steps:
        trace.add(BitAllocation(trace.layers, weights, activations), {})
    return trace


def test_widths_above_8_bits_look_like_no_other_and_the_colour_bar_says_so():
    figure = widths_figure(widths_trace(([8, 16], [2, 8]), ([[8, 16], 2], [32, 4])), "title")
    weights, activations, bar = figure.axes
    image = weights.get_images()[0]
    colours = image.to_rgba(image.get_array())
    assert colours[0, 1].tolist() == colours[1, 0].tolist() == [1, 1, 1, 1]  # a mean of 12; 16
    assert colours[0, 0].tolist() == list(image.cmap(1.0))  # 8 is the last of the scale
    assert bar.get_ylabel() == "bits (white: above 8, up to 32)"
    assert activations.get_images()[0].colorbar.extend == "max"
    _, activations, bar = widths_figure(widths_trace(([8, 2], [2, 8])), "title").axes
    assert bar.get_ylabel() == "bits"
    assert activations.get_images()[0].colorbar.extend == "neither"


def test_a_deep_network_has_a_taller_picture_with_every_name(make_synthetic_trace):
    deep = [f"block{i}" for i in range(60)]
    figure = widths_figure(make_synthetic_trace(steps=5, layers=deep), "title")
    assert figure.get_figheight() > widths_figure(make_synthetic_trace(5), "").get_figheight()
    assert len(figure.axes[0].get_yticklabels()) == 60


def test_the_moving_mean_is_cut_off_at_the_ends():
    assert moving_mean(np.arange(5.0), 3).tolist() == [0.5, 1.0, 2.0, 3.0, 3.5]


def test_the_moving_mean_goes_over_gaps_and_not_beyond():
    values = np.array([np.nan, 1.0, np.nan, np.nan, np.nan, 3.0, np.nan])
    expected = [np.nan, 1.0, 1.0, np.nan, 3.0, 3.0, np.nan]
    np.testing.assert_array_equal(moving_mean(values, 3), expected)
    assert np.isnan(moving_mean(np.full(3, np.nan), 3)).all()
