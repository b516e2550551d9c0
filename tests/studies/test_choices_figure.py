from dataclasses import replace

import numpy as np
import pytest

from bitfront.studies.choices_figure import choices_figures, dynamic_front
from bitfront.studies.figures import bits_figure, write_figures
from tests.studies.dynamic_study import dynamic_result
from tests.studies.test_figures import size


@pytest.fixture(scope="module")
def result():
    return dynamic_result()


@pytest.fixture(scope="module")
def figures(result):
    return choices_figures(result)


def heights(axes):
    """Of each width the heights of its bars, widest first."""
    return [[bar.get_height() for bar in drawn] for drawn in axes.containers]


def test_every_strategy_with_dynamic_networks_has_a_picture(result, figures, synthetic_result):
    assert list(figures) == ["choices-learnprec", "choices-cascade"]
    assert choices_figures(synthetic_result) == {}


def test_it_is_of_the_finalist_in_the_middle_of_the_front_and_says_which(result, figures):
    own = [point for point in result.points if point.strategy == "learnprec"]
    front = dynamic_front(result, own)
    assert [point.test.energy_vs_w8a8 for point in front] == [0.5, 0.6, 0.7]
    title = figures["choices-learnprec"].get_suptitle()
    assert "learnprec, seed 0, number 2 of 3 dynamic ones on its front, cheapest first" in title
    assert "97.50 % at 0.600 of uniform 8 bit" in title
    # Both seeds found the same cascade.
    assert "number 1 of 1" in figures["choices-cascade"].get_suptitle()


def test_what_its_strategy_does_better_is_not_on_the_front(result):
    points = [replace(point, on_strategy_front=point.seed == 1) for point in result.points]
    assert [p.strategy for p in dynamic_front(result, points)] == ["cascade", "learnprec"]


def test_bars_are_shares_of_widths_in_the_order_of_the_network(figures):
    inputs, rights, accuracy, energy = figures["choices-learnprec"].axes
    assert heights(inputs) == [[75.0, 62.5, 12.5], [25.0, 37.5, 87.5]]
    assert heights(rights) == [[100.0, 50.0, 100.0], [0.0, 50.0, 0.0]]
    assert [text.get_text() for text in rights.get_xticklabels()] == ["conv", "attn.qk", "fc"]
    written = [text.get_text() for text in inputs.texts]
    assert written == ["8", "8", "8", "4", "4", "4"]
    assert heights(energy)[0] == [0.46, 0.5, 0.54]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([99.0, 97.5, 96.0])
    labels = [text.get_text() for text in energy.get_xticklabels()]
    assert labels == ["low\n0.91 bits", "middle\n1.42 bits", "high\n2.03 bits"]


def test_an_operand_with_one_width_everywhere_is_left_out(result):
    point = result.points[1]
    usage = point.test.dynamic
    dynamic = usage.allocation
    constant = replace(
        dynamic,
        members=tuple(type(m)(m.layers, [8, 8, 8], list(m.activations)) for m in dynamic.members),
        selectors=tuple(s for s in dynamic.selectors if s.operand == "activation"),
    )
    shares = tuple(((8, 4, 0.5), (8, 8, 0.5)) for _ in dynamic.layers)
    measured = replace(point.test, dynamic=replace(usage, allocation=constant, shares=shares))
    found = choices_figures(replace(result, points=(replace(point, test=measured),)))
    titles = [axes.get_title() for axes in found["choices-learnprec"].axes]
    assert titles == ["Inputs of layers", "", ""]


def test_nothing_lies_over_anything_else_or_outside(figures):
    for figure in figures.values():
        figure.canvas.draw()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        for index, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            for other in boxes[:index]:
                apart = max(
                    box.x0 - other.x1, other.x0 - box.x1, box.y0 - other.y1, other.y0 - box.y1
                )
                assert apart >= 0


def test_it_is_written_beside_the_other_pictures(result, tmp_path):
    paths = {path.name: path for path in write_figures(result, tmp_path)}
    assert size(paths["choices-learnprec.png"]) == size(paths["front.png"])


def test_the_map_of_widths_shows_what_was_used(result):
    weights, activations, _ = bits_figure(result).axes
    assert [text.get_text() for text in activations.texts][3:6] == ["7", "6.5", "4.5"]
    assert [text.get_text() for text in weights.texts][3:6] == ["8", "6", "8"]
    assert np.allclose(float(weights.texts[6].get_text()), (4 + 1.5 + 1) / 1.375, atol=0.01)
