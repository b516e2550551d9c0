"""Pictures of trainings: what is drawn is what was logged, in one colour for each strategy."""

from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers.trace import Trace
from bitfront.spaces import BitAllocation
from bitfront.studies.accuracy_figure import accuracy_curves, accuracy_figure
from bitfront.studies.epoch_figures import epoch_figures, layers_figure
from bitfront.studies.figures import write_figures
from bitfront.studies.palette import styles
from bitfront.studies.trace_figures import trace_figures

LAYERS = ("conv1", "conv2", "fc")


def training(
    accuracies, *, layers=LAYERS, learns: bool = True, trace: Trace | None = None, **metrics
) -> Trace:
    """A training of a few epochs: the widths of all but the first layer fall by half a bit each."""
    trace = Trace("epoch", tuple(layers)) if trace is None else trace
    for epoch, accuracy in enumerate(accuracies):
        learned = [8.0] + [8.0 - 0.5 * epoch * learns] * (len(layers) - 1)
        trace.add(
            BitAllocation(layers, [round(bits) for bits in learned], [8] * len(layers)),
            {"accuracy": accuracy, "energy": 1 - 0.1 * epoch, **metrics},
            weight_bits=learned,
        )
    return trace


@pytest.fixture
def trained(learning_result):
    """A study in which haq trained with two seeds, and uniform did not."""
    return with_traces(learning_result, [training([0.5, 0.7, 0.8]), training([0.3, 0.5, 0.9])])


def with_traces(result, traces):
    trials = [
        replace(trial, findings={"trace": trace.to_dict()})
        for trial, trace in zip(result.trials, traces, strict=False)
    ]
    return replace(result, trials=(*trials, *result.trials[len(trials) :]))


def lines(axes, colour: str | None = None) -> list:
    return [line for line in axes.get_lines() if colour in (None, line.get_color())]


def test_trainings_have_one_picture_of_accuracy_and_one_of_widths_each(trained, tmp_path):
    assert list(epoch_figures(trained)) == ["learning", "layers-haq-s0", "layers-haq-s1"]
    names = {path.name for path in write_figures(trained, tmp_path)}
    added = {"learning.png", "layers-haq-s0.png", "learning-haq.png", "widths-haq-s0.png"}
    assert added <= names
    assert not set(epoch_figures(trained)) & set(trace_figures(trained))


def test_what_does_not_go_by_epochs_has_none(learning_result, synthetic_result):
    assert epoch_figures(learning_result) == {}
    assert epoch_figures(synthetic_result) == {}


def test_where_widths_stay_there_is_no_picture_of_them(learning_result):
    constant = training([0.5, 0.6], learns=False)
    result = with_traces(learning_result, [constant])
    assert list(epoch_figures(result)) == ["learning"]
    silent = training([None, None])
    assert list(epoch_figures(with_traces(learning_result, [silent]))) == ["layers-haq-s0"]


def test_a_line_is_the_mean_over_seeds_and_its_band_their_range(trained):
    figure = epoch_figures(trained)["learning"]
    (axes,) = figure.axes
    colour = styles(trial.strategy for trial in trained.trials)["haq"].colour
    (line,) = lines(axes, colour)
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == pytest.approx([40.0, 60.0, 85.0])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for epoch, low, high in ((0, 30, 50), (1, 50, 70), (2, 80, 90)):
        at = corners[corners[:, 0] == epoch][:, 1]
        assert (at.min(), at.max()) == pytest.approx((low, high))
    assert [text.get_text() for text in axes.texts] == ["0.80"]  # the energy it ends at
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[:2] == ["haq", "float32"]
    assert len(shown) == 4


def test_seeds_that_broke_off_and_epochs_that_were_not_measured_leave_gaps(learning_result):
    result = with_traces(learning_result, [training([None, 0.6, None, 0.8]), training([None, 0.4])])
    (curve,) = accuracy_curves(
        [(trial, Trace.from_dict(trial.findings["trace"])) for trial in result.trials[:2]]
    )
    assert curve.epochs.tolist() == [1, 3]
    np.testing.assert_allclose(curve.mean, [50, 80])
    np.testing.assert_allclose(curve.low, [40, 80])
    assert epoch_figures(result)["learning"].axes


def test_several_trainings_of_a_trial_are_lines_from_the_first_epoch_on(learning_result):
    trace = training([0.5, 0.9], learns=False, training=0)
    training([0.4, 0.6, 0.7], learns=False, trace=trace, training=1)
    result = with_traces(learning_result, [trace])
    (axes,) = epoch_figures(result)["learning"].axes
    first, second = lines(axes)[1:]
    assert (first.get_xdata().tolist(), second.get_xdata().tolist()) == ([0, 1], [0, 1, 2])
    assert first.get_color() != second.get_color()
    assert first.get_marker() == second.get_marker()


def test_every_budget_has_a_panel_and_what_has_one_only_is_in_all_of_them(learning_result):
    traces = [training([0.5, 0.6]), training([0.6, 0.7]), training([0.4, 0.5], learns=False)]
    result = with_traces(learning_result, traces)
    first, second, other, *untrained = result.trials
    second, other = replace(second, budget="60 evaluations"), replace(other, budget="9 evaluations")
    assert (first.strategy, other.strategy) == ("haq", "uniform")
    figures = epoch_figures(replace(result, trials=(first, second, other, *untrained)))
    panels = figures["learning"].axes
    assert [axes.get_title() for axes in panels] == ["30 evaluations", "60 evaluations"]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    haq, uniform = (line.get_ydata().tolist() for line in lines(panels[1])[1:])
    assert (haq, uniform) == ([60, 70], [40, 50])
    assert len([name for name in figures if name.startswith("layers-haq-")]) == 2
    alone = epoch_figures(replace(result, trials=(first, other)))["learning"]
    assert [axes.get_title() for axes in alone.axes] == [""]
    assert len(lines(alone.axes[0])) == 3  # and the float network


def test_the_picture_opens_on_what_follows_the_first_epochs(learning_result):
    result = with_traces(learning_result, [training([0.1, *[0.9] * 20], learns=False)])
    (axes,) = epoch_figures(result)["learning"].axes
    low, high = axes.get_ylim()
    assert 80 < low < 90 < 97.8 < high  # 97.8 is the float network


def test_widths_are_lines_with_the_names_of_the_layers():
    trace = training([0.5] * 4)
    weights, activations = layers_figure(trace, "title").axes
    drawn = np.array([line.get_ydata() for line in lines(weights)]).T
    assert drawn.tolist() == trace.weight_bits
    assert [text.get_text() for text in weights.texts] == list(LAYERS)
    assert {tuple(line.get_ydata()) for line in lines(activations)} == {(8, 8, 8, 8)}
    assert len({tuple(line.get_color()) for line in lines(weights)}) == 3


def test_many_layers_are_told_apart_by_a_colour_bar():
    names = [f"block{index}" for index in range(20)]
    weights, _, bar = layers_figure(training([0.5] * 4, layers=names), "title").axes
    assert len(lines(weights)) == 20
    assert not weights.texts
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels == names[::2]
    assert bar.yaxis_inverted()


def test_layers_above_8_bits_are_left_out_and_said_to_be():
    trace = Trace("epoch", LAYERS)
    for bits in (8, 7):
        trace.add(BitAllocation(LAYERS, [32, bits, 16], [8, 8, 8]), {})
    weights, activations = layers_figure(trace, "title").axes
    assert weights.get_title() == "Weights (without 2 of more than 8 bits)"
    assert [text.get_text() for text in weights.texts] == ["conv2"]
    assert (len(lines(activations)), activations.get_title()) == (3, "Activations")


def test_one_epoch_is_a_point(learning_result):
    (weights, _) = layers_figure(training([0.5]), "title").axes
    assert {line.get_marker() for line in lines(weights)} == {"."}
    result = with_traces(learning_result, [training([0.5])])
    assert list(epoch_figures(result)) == ["learning"]


def test_names_are_shown_as_they_are(learning_result):
    layers = ["$a_1$", "_b", "c"]
    figure = layers_figure(training([0.5, 0.6], layers=layers), "title")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == [r"\$a_1\$", " _b", "c"]
    curves = {"$": accuracy_curves([(learning_result.trials[0], training([0.5]))])}
    accuracy_figure(learning_result, curves).draw_without_rendering()
