import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from bitfront.studies.figures import write_figures
from bitfront.studies.palette import styles
from bitfront.studies.prediction_page import prediction_html


def predicting(result, strategy, pairs, **findings):
    """The study with predictions of one strategy's first trial."""
    trials = list(result.trials)
    index = [trial.strategy for trial in trials].index(strategy)
    trials[index] = replace(trials[index], predictions=pairs, findings=findings)
    return replace(result, trials=tuple(trials))


PAIRS = ((1.0, 0.5), (2.0, 0.7), (4.0, 0.6))


@pytest.fixture
def result(synthetic_result):
    first = predicting(synthetic_result, "percentile", PAIRS, predicts="kl")
    return predicting(first, "random", ((5.0, 1.0),), predicts="<b>loss</b>")


def drawn(page):
    """The traces and the layout that plotly is given."""
    call = re.search(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page)
    traces, end = json.JSONDecoder().raw_decode(page, call.end())
    layout, _ = json.JSONDecoder().raw_decode(page, page.index("{", end))
    return traces, layout


def values(axis):
    if isinstance(axis, dict):
        return np.frombuffer(base64.b64decode(axis["bdata"]), axis["dtype"]).tolist()
    return axis


def test_there_is_no_page_without_predictions(synthetic_result, tmp_path):
    assert prediction_html(synthetic_result) is None
    assert "predicted.html" not in {p.name for p in write_figures(synthetic_result, tmp_path)}


def test_every_strategy_that_predicts_has_its_colour_and_all_its_points(result):
    traces, layout = drawn(prediction_html(result))
    colours = styles(trial.strategy for trial in result.trials)
    assert [trace["name"] for trace in traces] == ["percentile", "random"]
    for trace, pairs in zip(traces, (PAIRS, ((5.0, 1.0),)), strict=True):
        assert trace["marker"]["color"] == colours[trace["name"]].colour
        assert list(zip(values(trace["x"]), values(trace["y"]), strict=True)) == list(pairs)
    assert layout["xaxis"]["title"]["text"] == "Predicted kl"
    assert layout["yaxis"]["title"]["text"] == "Measured loss on the search split (nats)"
    titles = [annotation["text"] for annotation in layout["annotations"]]
    assert titles[0] == "percentile<br>Kendall's tau 0.33<br>R² 0.11<br>3 allocations"
    assert titles[1] == "random<br>1 allocation"


def test_seeds_share_a_panel_and_equal_points_are_drawn_once(result):
    first, second, *others = result.trials
    more = replace(second, predictions=(*PAIRS, (8.0, 0.9)), findings={"predicts": "kl"})
    traces, _ = drawn(prediction_html(replace(result, trials=(first, more, *others))))
    assert values(traces[0]["y"]) == [0.5, 0.7, 0.6, 0.9]


def test_the_page_needs_no_network_and_escapes_what_strategies_say(result):
    page = prediction_html(result)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "<b>loss" not in page
    _, layout = drawn(page)
    assert layout["xaxis2"]["title"]["text"] == "Predicted &lt;b&gt;loss&lt;/b&gt;"


def test_it_is_one_of_the_pictures(result, tmp_path):
    paths = write_figures(result, tmp_path)
    (page,) = (path for path in paths if path.name == "predicted.html")
    assert "predicted against measured" in page.read_text()
