import re
from dataclasses import replace

import numpy as np
import pytest

from bitfront.spaces import OBJECTIVES
from bitfront.studies.curves import COST_AXES, accuracy_range, curves
from bitfront.studies.figures import bits_figure, front_figure, write_figures
from bitfront.studies.front_page import front_html
from bitfront.studies.show import COST_WORDS
from tests.studies.dynamic_study import dynamic_result

HOSTILE = "<script>alert('x')</script>"


def size(path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_curve_is_best_accuracy_at_or_below_each_energy(synthetic_result):
    drawn = curves(synthetic_result)
    assert [curve.strategy for curve in drawn] == ["percentile", "random", "uniform"]
    for curve in drawn:
        assert len(curve.points) == 10
        assert np.all(np.diff(curve.cost) >= 0)
        for energy, best in zip(curve.cost, curve.best, strict=True):
            below = [
                100 * point.test.accuracy
                for point in synthetic_result.points
                if point.strategy == curve.strategy and point.test.energy_vs_w8a8 <= energy
            ]
            assert best <= max(below)
        assert curve.best[-1] == curve.accuracy.max()


def test_failed_measurements_are_left_out(synthetic_result):
    first, *rest = synthetic_result.points
    failed = replace(first, test=replace(first.test, accuracy=float("nan"), error="diverged"))
    result = replace(synthetic_result, points=(failed, *rest))
    assert len(curves(result)[0].points) == 9
    assert np.isfinite(curves(result)[0].best).all()


def test_guessing_does_not_flatten_the_figure(synthetic_result):
    first, second, *rest = synthetic_result.points
    poor = [replace(p, test=replace(p.test, accuracy=0.1)) for p in (first, second)]
    result = replace(synthetic_result, points=(*poor, *rest))
    axes = front_figure(result).axes[0]
    low, high = axes.get_ylim()
    assert 90 < low < min(100 * p.test.accuracy for p in rest)
    assert high < 101
    assert f"2 finalists below {low:.0f} %" in [text.get_text() for text in axes.texts]
    assert front_figure(synthetic_result).axes[0].texts[-1].get_text() == ""
    assert "2 finalists below" in front_html(result)


def test_study_of_guesses_is_shown_all_the_same(synthetic_result):
    points = [replace(p, test=replace(p.test, accuracy=0.1)) for p in synthetic_result.points]
    result = replace(synthetic_result, points=tuple(points))
    assert accuracy_range(result, curves(result))[0] < 10


def test_written_pictures_have_the_size_of_a_screen(synthetic_result, tmp_path):
    paths = write_figures(synthetic_result, tmp_path / "figures")
    assert {path.name for path in paths} == {
        "fronts.html",
        "front.png",
        "front-percentile.png",
        "front-random.png",
        "front-uniform.png",
        "bits.png",
    }
    assert all(size(path) == (1500, 950) for path in paths if path.suffix == ".png")


def test_front_shows_every_finalist_and_marks_the_common_front(synthetic_result):
    axes = front_figure(synthetic_result).axes[0]
    counts = {
        text.get_text(): len(np.ravel(handle.get_xdata()))
        for text, handle in zip(axes.get_legend().get_texts(), legend_lines(axes), strict=True)
    }
    assert counts == {
        "percentile": 10,
        "random": 10,
        "uniform": 10,
        "on the common front": len(synthetic_result.front),
    }


def legend_lines(axes):
    """The plotted lines behind the legend's entries, in its order."""
    handles, _ = axes.get_legend_handles_labels()
    shown = {handle.get_label(): getattr(handle, "lines", [handle])[0] for handle in handles}
    return [shown[text.get_text()] for text in axes.get_legend().get_texts()]


def test_front_of_one_strategy_stands_beside_the_uniform_curve(synthetic_result):
    axes = front_figure(synthetic_result, "random").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "uniform"]


def trading_for(result, cost):
    return replace(result, spec={**result.spec, "objectives": ["accuracy", cost]})


@pytest.mark.parametrize(
    ("cost", "attribute", "label"),
    [
        ("mean_weight_bits", "mean_weight_bits", "Mean bits per weight"),
        ("size", "size_bytes", "Size (bytes)"),
    ],
)
def test_the_axis_is_what_the_study_trades_accuracy_for(synthetic_result, cost, attribute, label):
    result = trading_for(synthetic_result, cost)
    axes = front_figure(result).axes[0]
    assert axes.get_xlabel() == label
    assert axes.child_axes == []  # microjoules are of energies
    for curve in curves(result):
        expected = sorted(
            getattr(p.test, attribute) for p in result.points if p.strategy == curve.strategy
        )
        assert curve.cost.tolist() == expected
    assert label in front_html(result)
    low, high = axes.get_xlim()
    assert low < min(getattr(p.test, attribute) for p in result.points)
    assert high > max(getattr(p.test, attribute) for p in result.points)
    assert label[1:] in bits_figure(result).axes[0].get_ylabel()


def test_every_cost_that_can_be_compared_has_an_axis_and_words():
    costs = set(OBJECTIVES) - {"accuracy", "loss"}
    assert set(COST_AXES) == set(COST_WORDS) == costs


def test_absolute_axis_is_left_out_without_absolute_energies(synthetic_result):
    assert len(front_figure(synthetic_result).axes[0].child_axes) == 1
    relative = replace(
        synthetic_result, uniform_w8a8=replace(synthetic_result.uniform_w8a8, energy_pj=None)
    )
    assert front_figure(relative).axes[0].child_axes == []


def test_absolute_axis_agrees_with_the_table(synthetic_result):
    figure = front_figure(synthetic_result)
    figure.canvas.draw()
    axes = figure.axes[0]
    point = synthetic_result.points[0].test
    low, high = axes.child_axes[0].get_xlim()
    left, right = axes.get_xlim()
    share = (point.energy_vs_w8a8 - left) / (right - left)
    assert low + share * (high - low) == pytest.approx(point.energy_pj * 1e-6)


def test_bits_are_those_of_the_common_front(synthetic_result):
    weights = bits_figure(synthetic_result).axes[0]
    shown = [text.get_text() for text in weights.texts]
    expected = [str(b) for p in synthetic_result.front for b in p.test.allocation.weights]
    assert shown == expected


def test_page_needs_no_network_and_escapes_labels(make_synthetic_result):
    page = front_html(make_synthetic_result(HOSTILE, {HOSTILE: 0.01, "uniform": 0.0}))
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "<script>alert" not in page
    assert page.count("alert('x')") == 0  # quotes are escaped too


def test_the_page_tells_dynamic_networks_by_their_digest():
    result = dynamic_result()
    page = front_html(result)
    assert "chosen by input (channels), network a0a0a0a0" in page
    assert "chosen by input (cascade), network c0c0c0c0" in page
    assert f"allocation {result.points[0].test.allocation.key[:8]}" in page
    assert f"allocation {result.points[1].test.allocation.key[:8]}" not in page


def test_labels_that_matplotlib_would_interpret_are_shown_as_they_are(
    make_synthetic_result, tmp_path
):
    labels = {"$broken": 0.01, "_hidden": 0.0, "a/b": 0.0, "a:b": 0.0}
    result = make_synthetic_result("50$ \\frac", labels)
    names = [path.name for path in write_figures(result, tmp_path)]
    assert len(set(names)) == 3 + len(labels)
    texts = front_figure(result).axes[0].get_legend().get_texts()
    assert " _hidden" in [text.get_text() for text in texts]
