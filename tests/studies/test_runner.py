import json
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bitfront.energy import EnergyModel, load_table
from bitfront.models.engine import EngineWarning
from bitfront.models.profile import profile
from bitfront.models.zoo import build_model
from bitfront.spaces import (
    DEFAULT_OBJECTIVES,
    BitAllocation,
    DynamicAllocation,
    EvaluationError,
    Layer,
    Selector,
    StudyError,
    Usage,
    pareto_front,
)
from bitfront.studies.findings import trace_of
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.result import Point, StudyResult
from bitfront.studies.runner import (
    SPEC_FILE,
    _table_agreement,
    measure_study,
    run_study,
    undominated,
)
from bitfront.studies.spec import StudySpec
from tests.studies.dynamic_study import dynamic, measurement

BROKEN = """
import os
import signal
from bitfront.searchers import Searcher
class Broken(Searcher):
    def search(self, problem):
        print("I have")
        problem.evaluate([problem.space.uniform(8)])
        raise RuntimeError("no idea")

class Scored(Searcher):
    needs_model = True

    def search(self, problem):
        from bitfront.models.config import ScoreConfig
        scores = problem.scores(ScoreConfig(kind="mse", images=16))
        pairs = scores.pairs()
        asked = [problem.space.sample(problem.rng) for _ in range(problem.remaining)]
        problem.findings["predicts"] = "mse"
        problem.findings["predicted"] = {
            a.key: sum(pairs[i, w, b] for i, (w, b) in enumerate(zip(a.weights, a.activations)))
            for a in asked
        }
        problem.charge(forward=5, backward=3)
        problem.evaluate(asked)

class Logging(Searcher):
    def search(self, problem):
        problem.findings["notes"] = ["One reward was not finite."]
        for _ in range(problem.remaining):
            (measured,) = problem.evaluate([problem.space.sample(problem.rng)])
            problem.log("episode", measured.allocation, accuracy=measured.accuracy)

class Deadly(Searcher):
    def search(self, problem):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def facts(result):
    """What must not depend on where and how fast a study runs."""
    return [
        (
            *(point.strategy, point.seed, point.budget, point.on_strategy_front, point.on_front),
            *(replace(m, wall_s=0.0) for m in (point.search, point.test)),
        )
        for point in result.points
    ]


@pytest.fixture
def broken_strategy(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return {"name": "broken:Broken"}


def test_a_study_leaves_its_result_its_spec_and_its_ledger(tiny_study):
    spec = tiny_study()
    events = []
    result = measure_study(spec, progress=events.append)
    assert StudyResult.load(spec.folder) == result
    assert StudySpec.load(spec.folder / SPEC_FILE).to_dict() == spec.to_dict()
    assert sorted(path.name for path in spec.folder.iterdir()) == [
        LEDGER_FILE,
        "result.json",
        SPEC_FILE,
    ]
    assert [event.phase for event in events][-2:] == ["test", "test"]
    assert not result.failed_trials
    assert [(t.strategy, t.seed, t.evaluations) for t in result.trials] == [
        ("uniform", 0, 2),
        *(("random", seed, 3) for seed in (0, 1)),
    ]
    assert {t.images_forward for t in result.trials} == {2 * 40, 3 * 40}
    assert result.float_test.mean_weight_bits == 32
    assert result.uniform_w8a8.energy_vs_w8a8 == 1.0
    assert (result.float_search.split, result.float_test.split) == ("search", "test")


def test_finalists_are_the_front_of_each_trial_measured_on_the_test_split(tiny_study):
    spec = tiny_study({("strategies",): [{"name": "random"}], ("seeds",): [0]})
    result = measure_study(spec)
    db = sqlite3.connect(spec.folder / LEDGER_FILE)
    texts = db.execute("SELECT measurement FROM asks JOIN evaluations USING (allocation, split)")
    history = [type(result.float_test).from_dict(json.loads(text)) for (text,) in texts]
    db.close()
    assert [point.search for point in result.points] == pareto_front(history)
    for point in result.points:
        assert (point.search.split, point.test.split) == ("search", "test")
        assert point.search.allocation == point.test.allocation
        assert (point.search.samples, point.test.samples) == (40, 50)
    on_test = pareto_front([point.test for point in result.points])
    assert [point.test for point in result.front] == on_test


def test_a_second_run_gives_the_same_and_measures_nothing(tiny_study, monkeypatch):
    first = measure_study(tiny_study())
    monkeypatch.setattr("bitfront.studies.pool.Worker", pytest.fail)
    again = measure_study(tiny_study())
    assert again.points == first.points


@pytest.mark.parametrize("method", ["batch-norm", "fine-tune"])
def test_the_images_of_adaptations_are_charged_to_trials(tiny_study, method):
    adaptation = {"method": method, "images": 20, "batch_size": 10}
    result = measure_study(tiny_study({("adaptation",): adaptation, ("seeds",): [0]}))
    # For the statistics of batch norms fine-tuning passes the 32 calibration images, too, twice.
    passed = 20 if method == "batch-norm" else 20 + 2 * 32
    for trial in result.trials:
        backward = 0 if method == "batch-norm" else 20 * trial.evaluations
        assert trial.images_forward == (40 + passed) * trial.evaluations
        assert trial.images_backward == backward
    assert all(point.test.images_forward == passed for point in result.points)
    assert result.float_test.images_forward == 0


def test_finalists_that_are_adapted_are_charged_to_nobody(tiny_study):
    adaptation = {"method": "batch-norm", "when": "finalists"}
    result = measure_study(tiny_study({("adaptation",): adaptation, ("seeds",): [0]}))
    assert all(trial.images_forward == 40 * trial.evaluations for trial in result.trials)
    assert all(point.search.images_forward == 0 for point in result.points)
    assert all(point.test.images_forward == 32 for point in result.points)


def test_a_strategy_that_raises_loses_only_its_own_trial(tiny_study, broken_strategy, capsys):
    strategies = [{"name": "uniform", "widths": [8, 4]}, broken_strategy]
    result = measure_study(tiny_study({("strategies",): strategies}))
    assert [trial.status for trial in result.trials] == ["done", "failed", "failed"]
    (failed, _) = result.failed_trials
    assert (failed.evaluations, failed.error) == (1, "RuntimeError: no idea")
    assert capsys.readouterr() == ("", 2 * "I have\n")  # standard output is the caller's
    # What it had measured by then counts.
    assert {point.strategy for point in result.points} == {"uniform", "broken:Broken"}


def counted_passes(monkeypatch):
    """Return a list that grows with every computation of scores."""
    from bitfront.models import sensitivity

    computed, compute = [], sensitivity.compute_scores

    def counting(*arguments):
        computed.append(arguments[2].kind)
        return compute(*arguments)

    monkeypatch.setattr(sensitivity, "compute_scores", counting)
    return computed


SCORED = [
    {"name": "broken:Scored"},
    {"name": "broken:Scored", "label": "again"},
    {"name": "uniform", "widths": [8]},
]


def test_scores_are_computed_once_in_a_study_and_charged_to_each(
    tiny_study, broken_strategy, monkeypatch
):
    computed = counted_passes(monkeypatch)
    result = measure_study(tiny_study({("strategies",): SCORED}))
    assert computed == ["mse"]
    *scored, uniform = result.trials
    assert len(scored) == 4
    # Three evaluations of 40 images, 16 images for the scores, and what it charged itself.
    assert {(t.images_forward, t.images_backward) for t in scored} == {(3 * 40 + 16 + 5, 3)}
    assert (uniform.images_forward, uniform.images_backward, uniform.findings) == (40, 0, {})
    again = measure_study(tiny_study({("strategies",): SCORED}))
    assert computed == ["mse"]
    assert [replace(t, wall_s=0.0) for t in again.trials] == [
        replace(t, wall_s=0.0) for t in result.trials
    ]


def test_what_a_strategy_predicted_is_kept_with_the_measured_loss(tiny_study, broken_strategy):
    spec = tiny_study({("strategies",): SCORED[:1], ("seeds",): [0]})
    result = measure_study(spec)
    (trial,) = result.trials
    db = sqlite3.connect(spec.folder / LEDGER_FILE)
    asked = db.execute(
        "SELECT allocation, loss FROM asks JOIN evaluations USING (allocation, split) "
        "ORDER BY position"
    ).fetchall()
    db.close()
    predicted = trial.findings["predicted"]
    assert trial.predictions == tuple((predicted[key], loss) for key, loss in asked)
    assert len(set(trial.predictions)) == 3
    assert StudyResult.load(spec.folder).trials == result.trials


def test_what_a_strategy_logged_and_noted_is_in_the_result(tiny_study, broken_strategy):
    spec = tiny_study({("strategies",): [{"name": "broken:Logging", "label": "logs"}]})
    result = measure_study(spec)
    assert [note for note in result.notes if note.startswith("logs")] == [
        "logs, seed 0: One reward was not finite.",
        "logs, seed 1: One reward was not finite.",
    ]
    for trial in result.trials:
        trace = trace_of(trial.findings)
        assert (trace.step, len(trace)) == ("episode", 3)
        best = [p.search.accuracy for p in result.points if p.seed == trial.seed]
        assert trace.metrics["best_accuracy"][-1] == max(best)
    assert StudyResult.load(spec.folder).trials == result.trials


def test_limits_may_be_on_a_further_table_and_on_mean_widths(tiny_study):
    limits = {"energy:bitfusion": 0.5, "mean_weight_bits": 5}
    result = measure_study(
        tiny_study(
            {
                ("energy",): {"also": ["bitfusion"]},
                ("strategies",): [{"name": "random"}],
                ("budgets",): [{"evaluations": 8, "limits": limits}],
                ("seeds",): [0],
            }
        )
    )
    layers = profile(build_model("cnn5", classes=10, input_shape=(1, 8, 8)), (1, 8, 8))
    bitfusion = EnergyModel(load_table("bitfusion"), layers)
    assert len(result.points) > 1
    for point in result.points:
        assert bitfusion.costs(point.test.allocation).energy_vs_w8a8 <= 0.5
        assert point.test.mean_weight_bits <= 5
    assert result.trials[0].evaluations == 8


def test_accuracy_may_be_traded_for_mean_weight_bits(tiny_study):
    spec = tiny_study(
        {
            ("objectives",): ["accuracy", "mean_weight_bits"],
            ("strategies",): [{"name": "random"}],
            ("budgets",): [{"evaluations": 8}],
            ("seeds",): [0],
        }
    )
    events = []
    result = run_study(spec, progress=events.append)
    assert result.cost.name == "mean_weight_bits"
    widths = [point.test.mean_weight_bits for point in result.front]
    assert widths == sorted(widths)
    assert [p.search for p in result.points] == pareto_front(
        [p.search for p in result.points], spec.compared
    )
    assert all(event.hypervolume is None for event in events)
    assert (spec.folder / "figures" / "front.png").exists()


def test_what_workers_note_is_a_note_of_the_result(tiny_study, monkeypatch):
    monkeypatch.setattr("bitfront.models.engine.engine.available", lambda: "no such instruction")
    with pytest.warns(EngineWarning, match="no integer kernels"):
        result = measure_study(tiny_study({("strategies",): [{"name": "uniform", "widths": [8]}]}))
    (note,) = (note for note in result.notes if "no integer kernels" in note)
    assert "no such instruction" in note


def test_limits_hold_for_finalists_and_nothing_found_is_said(tiny_study):
    budgets = [{"evaluations": 3, "limits": {"energy": 0.5}}]
    strategies = [{"name": "uniform", "widths": [4]}, {"name": "uniform", "label": "u8"}]
    strategies[1]["widths"] = [8]
    result = measure_study(
        tiny_study({("strategies",): strategies, ("budgets",): budgets, ("seeds",): [0]})
    )
    assert all(point.test.energy_vs_w8a8 <= 0.5 for point in result.points)
    assert [note for note in result.notes if note == "u8, seed 0: asked for no evaluation"]
    budgets.append({"evaluations": 3, "limits": {"energy": 0.6}})
    result = measure_study(
        tiny_study({("strategies",): strategies, ("budgets",): budgets, ("seeds",): [0]})
    )
    assert [note for note in result.notes if note.startswith("u8")] == [
        f"u8, seed 0, 3 evaluations, energy <= {limit}: asked for no evaluation"
        for limit in (0.5, 0.6)
    ]


def test_other_tables_say_how_far_they_agree(tiny_study):
    result = measure_study(tiny_study({("energy",): {"also": ["bitfusion"]}}))
    assert list(result.table_agreement) == ["bitfusion"]
    assert -1 <= result.table_agreement["bitfusion"] <= 1


@pytest.fixture
def agreement_of(tiny_workload, tiny_study):
    """Return a function of points and the name of another table: agreement, and notes."""

    def agreement(points, table):
        spec = tiny_study({("energy",): {"also": [table]}})
        return _table_agreement(spec, SimpleNamespace(workload=tiny_workload), points)

    return agreement


def test_what_networks_chose_is_ranked_under_other_tables(agreement_of, tiny_workload):
    points = [chosen_point(tiny_workload.layers, wide) for wide in (0.25, 0.75, 0.5)]
    assert agreement_of(points, "bitfusion") == ({"bitfusion": 1.0}, [])
    # Two seeds that found the same network are one finalist, and one cannot be ranked.
    assert agreement_of([points[0]] * 2, "bitfusion") == ({}, [])


def test_a_table_that_prices_all_finalists_alike_ranks_none(agreement_of, tiny_workload):
    layers = tiny_workload.layers
    points = [uniform_point(layers, width) for width in (2, 4)]
    agreement, (note,) = agreement_of(points, "bitfusion:fixed8")
    assert agreement == {}
    assert note == (
        "the finalists cannot be ranked under bitfusion:fixed8: one table prices all alike"
    )


def test_a_table_that_cannot_price_selectors_is_a_note(tiny_study):
    table = load_table("hawqv3-t4")
    layers = [Layer(row.layer, "conv", row.macs, 16, 0, 16, 16, 4, 4) for row in table.rows.layers]
    workload = SimpleNamespace(energy=EnergyModel(load_table("horowitz-45nm"), layers))
    points = [uniform_point(layers, 4), chosen_point(layers, 0.5)]
    spec = tiny_study({("energy",): {"also": ["hawqv3-t4"]}})
    agreement, (note,) = _table_agreement(spec, SimpleNamespace(workload=workload), points)
    assert agreement == {}
    assert note.startswith("the finalists cannot be ranked under hawqv3-t4: ")
    assert "no selectors of widths" in note


def uniform_point(layers, width):
    measured = measurement(BitAllocation.uniform(layers, width))
    return Point("uniform", 0, "3 evaluations", measured, measured, True, True)


def chosen_point(layers, wide):
    """A network whose last layer has 8 bits for a share of its inputs' channels, 4 for others."""
    names, others = [layer.name for layer in layers], len(layers) - 1
    low, high = (BitAllocation(names, [8] * (others + 1), [8] * others + [last]) for last in (4, 8))
    selector = Selector(names[-1], "activation", layers[-1].in_channels, 16)
    shares = (*[((8, 8, 1.0),)] * others, ((8, 4, 1 - wide), (8, 8, wide)))
    allocation = DynamicAllocation("channels", (low, high), (selector,))
    measured = dynamic(Usage(allocation, 50, shares), "ab" * 16)
    return Point("learnprec", 0, "3 evaluations", measured, measured, True, True)


def test_a_table_without_float_serves(tiny_study):
    result = measure_study(tiny_study({("energy",): {"table": "bitfusion"}}))
    assert StudyResult.load(tiny_study().folder).points
    assert result.points[0].test.energy_table == "bitfusion"


def test_a_network_that_cannot_be_measured_is_an_error(tiny_study, monkeypatch):
    from bitfront.models.evaluate import Counts

    counts = Counts(0, float("nan"), 40, 0.1, finite=False)
    monkeypatch.setattr("bitfront.studies.evaluation.evaluate_each", lambda *_: [counts])
    with pytest.raises(EvaluationError, match="the float network cannot be measured: allocation"):
        measure_study(tiny_study())


def test_a_folder_that_cannot_be_written_is_one_sentence(tiny_study, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StudyError, match="cannot write the study's folder taken"):
        measure_study(tiny_study({("output",): "taken"}))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("tracking", {"uri": "http://127.0.0.1:9"}, "no MLflow server answers"),
        ("tracking", {"uri": "nonsense://x"}, "nonsense://x"),
        ("tracking", {"uri": "sqlite:///tiny.yaml"}, "is not an MLflow store"),
        ("execution", {"workers": 2, "address": "127.0.0.1:9"}, "no Ray cluster answers"),
    ],
)
def test_a_service_that_does_not_answer_is_heard_of_first(tiny_study, place, value, words):
    spec = tiny_study({(place,): value})
    with pytest.raises(StudyError, match=words):
        run_study(spec)
    assert not spec.folder.exists()


def test_what_the_driver_measures_itself_is_seen_to_advance(tiny_study):
    events = []
    measure_study(tiny_study(), progress=events.append)
    for phase in ("baselines", "test"):
        steps = [event for event in events if event.phase == phase]
        assert len(steps) > 2
        assert [event.done for event in steps] == list(range(len(steps)))
        assert {event.total for event in steps} == {len(steps) - 1}


def test_of_equally_good_measurements_none_is_dominated(synthetic_result):
    first, second = (point.test for point in synthetic_result.points[:2])
    worse = replace(first, accuracy=first.accuracy - 0.1)
    marks = undominated([first, first, worse, second], DEFAULT_OBJECTIVES)
    assert marks[:3] == [True, True, False]
    assert undominated([], DEFAULT_OBJECTIVES) == []


MIXED = {
    ("space",): {"granularity": "channel", "weights": [2, 4, 8], "activations": [4, 8]},
    ("strategies",): [
        {"name": "budget_loop"},
        {"name": "random"},
        {"name": "random", "label": "random by layer", "granularity": "layer"},
    ],
    ("seeds",): [0],
    ("budgets", "evaluations"): 6,
}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_strategies_by_layer_and_by_channel_share_a_per_channel_study(tiny_study, workers):
    result = measure_study(tiny_study({**MIXED, ("execution", "workers"): workers}))
    assert not result.failed_trials
    by_layer = {label: set() for label in ("budget_loop", "random", "random by layer")}
    for point in result.points:
        by_layer[point.strategy].add(point.test.allocation.is_layerwise)
    assert by_layer == {"budget_loop": {True}, "random": {False}, "random by layer": {True}}


@pytest.mark.slow
def test_no_two_worker_counts_give_different_fronts(tiny_study, broken_strategy):
    strategies = [
        *({"name": name} for name in ("uniform", "percentile", "random", "broken:Scored")),
        broken_strategy,
    ]

    def run(workers):
        overrides = {
            ("strategies",): strategies,
            ("budgets",): {"evaluations": 8},
            ("execution", "workers"): workers,
            ("output",): f"with-{workers}",
        }
        return measure_study(tiny_study(overrides))

    in_process, *with_ray = (run(workers) for workers in (0, 1, 2))
    assert len(in_process.points) > 6
    for result in with_ray:
        assert facts(result) == facts(in_process)
        assert [replace(t, wall_s=0.0) for t in result.trials] == [
            replace(t, wall_s=0.0) for t in in_process.trials
        ]
        assert result.workload == in_process.workload


@pytest.mark.slow
def test_a_strategy_that_kills_its_process_loses_its_own_trial(tiny_study, broken_strategy, capsys):
    strategies = [{"name": "broken:Deadly"}, {"name": "random"}]
    overrides = {("strategies",): strategies, ("seeds",): [0], ("execution", "workers"): 1}
    result = measure_study(tiny_study(overrides))
    deadly, random = result.trials
    assert (deadly.status, deadly.evaluations) == ("failed", 0)
    assert deadly.error.startswith("its process died: The actor is dead because")
    assert capsys.readouterr().out == ""
    assert (random.status, random.evaluations) == ("done", 3)
    assert {point.strategy for point in result.points} == {"random"}


def test_a_set_of_images_without_parts_is_judged_whole(tiny_study, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    images = {
        "name": "image-folder",
        "root": str(tmp_path / "images"),
        "image_size": 8,
        "calibration_images": 6,
        "search_images": 8,
    }
    result = measure_study(tiny_study({("data",): images}))
    assert (result.float_search.samples, result.float_test.samples) == (8, 10)
    (note,) = (note for note in result.notes if note.startswith("float32 on all"))
    assert "all 24 images" in note
