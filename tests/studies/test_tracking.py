import json
import os
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from bitfront.searchers.trace import Trace
from bitfront.spaces import METRICS, BitAllocation, StudyError, Usage
from bitfront.studies.mlflow_store import connect, resolve_uri, without_password
from bitfront.studies.mlflow_views import LEARNING_TAG, VIEW_TAG, learning_view
from bitfront.studies.result import StudyResult
from bitfront.studies.tracking import log_study
from tests.studies.dynamic_study import CASCADE, CHANNELS, dynamic_result

# MLflow's own libraries address deprecation warnings to MLflow.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EVALUATIONS = [
    {"strategy": "random", "seed": 0, "order": 0, "accuracy": 0.5, "allocation": "{}"},
    {"strategy": "random", "seed": 0, "order": 1, "accuracy": None, "allocation": "{}"},
]
ALL_RUNS = 1000


@pytest.fixture(scope="module")
def tracked(synthetic_result, tmp_path_factory):
    """A study logged twice, into the default store beside its folder."""
    folder = tmp_path_factory.mktemp("output") / synthetic_result.name
    folder.mkdir()
    environment = os.environ.pop("MLFLOW_TRACKING_URI", None)
    arguments = {"uri": None, "experiment": None, "folder": folder, "evaluations": EVALUATIONS}
    first = log_study(synthetic_result, **arguments)
    last = log_study(synthetic_result, **arguments)
    if environment is not None:
        os.environ["MLFLOW_TRACKING_URI"] = environment
    return first, last, folder


@pytest.fixture(scope="module")
def tiny_result(make_synthetic_result) -> StudyResult:
    result = make_synthetic_result("tiny", {"uniform": 0.0})
    return replace(result, points=result.points[:2])


@pytest.fixture(scope="module")
def client(tracked) -> MlflowClient:
    return MlflowClient(tracking_uri=tracked[1].uri)


@pytest.fixture(scope="module")
def runs(tracked, client) -> list:
    """The runs of the last logging."""
    found = client.search_runs([tracked[1].experiment_id], max_results=ALL_RUNS)
    return [
        run
        for run in found
        if tracked[1].study_run_id in (run.info.run_id, run.data.tags.get("bitfront.study_run"))
    ]


def with_role(runs, role) -> list:
    return [run for run in runs if run.data.tags["bitfront.role"] == role]


def artifact(run, path) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / path).read_text()


def test_default_store_lies_beside_the_study(tracked):
    _, last, folder = tracked
    assert last.uri == f"sqlite:///{folder.parent}/mlflow.db"
    assert (folder.parent / "mlflow.db").is_file()
    assert (folder.parent / "mlflow-artifacts").is_dir()
    assert last.experiment == folder.name


def test_every_finalist_is_one_flat_run(synthetic_result, runs):
    assert len(with_role(runs, "finalist")) == len(synthetic_result.points) == 30
    assert len(with_role(runs, "reference")) == 2
    assert len(with_role(runs, "study")) == 1
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)
    assert all(run.info.status == "FINISHED" for run in runs)


def test_finalist_carries_its_measurement(synthetic_result, runs):
    by_point = {
        (run.data.params["strategy"], run.data.params["seed"], run.data.metrics["accuracy"]): run
        for run in with_role(runs, "finalist")
    }
    for point in synthetic_result.points:
        test = point.test
        run = by_point[point.strategy, str(point.seed), test.accuracy]
        assert {name: run.data.metrics[name] for name in METRICS} == pytest.approx(
            {name: getattr(test, name) for name in METRICS}
        )
        assert run.data.metrics["accuracy_search"] == point.search.accuracy
        assert run.data.params["pareto"] == run.data.tags["pareto"] == str(point.on_front).lower()
        assert run.data.params["strategy_front"] == str(point.on_strategy_front).lower()
        assert run.data.params["energy_table"] == "horowitz-45nm"
        allocation = BitAllocation.from_json(artifact(run, "allocation.json"))
        assert allocation == test.allocation


def test_one_colour_per_strategy(runs):
    pairs = {
        (run.data.params["strategy"], run.data.tags["mlflow.runColor"])
        for run in with_role(runs, "finalist")
    }
    assert len(pairs) == len({colour for _, colour in pairs}) == 3


def test_study_run_holds_everything_needed(synthetic_result, runs, client):
    (study,) = with_role(runs, "study")
    figures = {item.path for item in client.list_artifacts(study.info.run_id, "figures")}
    assert {"figures/fronts.html", "figures/front.png", "figures/front-random.png"} <= figures
    stored = StudyResult.from_dict(json.loads(artifact(study, "result.json")))
    assert stored == synthetic_result
    assert "study: synthetic" in artifact(study, "study.yaml")
    assert study.data.params["version.bitfront"] == "0.1.0"
    table = json.loads(artifact(study, "evaluations.json"))
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == EVALUATIONS


@pytest.fixture(scope="module")
def predicting(make_synthetic_result):
    """A study in which one trial predicted, another was told things by a solver."""
    result = make_synthetic_result("predicting", {"ilp": 0.01, "uniform": 0.0})
    first, second, *others = result.trials
    pairs = ((1.0, 0.5), (2.0, 0.7), (4.0, 0.6))
    trials = (
        replace(first, findings={"predicts": "kl", "predicted": {"a": 1.0}}, predictions=pairs),
        replace(second, findings={"solver": [{"status": "optimal"}]}),
        *others,
    )
    return replace(result, points=result.points[:2], trials=trials)


@pytest.fixture(scope="module")
def dynamic_runs(tmp_path_factory) -> dict:
    """The finalists of a study of dynamic networks, by name."""
    folder = tmp_path_factory.mktemp("output") / "dynamic"
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:  # figures take longer than all the rest
        patch.setattr("bitfront.studies.tracking.write_figures", lambda *_: [])
        tracked = log_study(dynamic_result(), uri=uri, experiment=None, folder=folder)
    found = MlflowClient(tracking_uri=uri).search_runs([tracked.experiment_id])
    return {run.info.run_name: run for run in with_role(found, "finalist")}


def test_dynamic_networks_of_the_same_widths_have_names_of_their_own(dynamic_runs):
    static = next(name for name in dynamic_runs if name.startswith("uniform"))
    assert set(dynamic_runs) == {
        static,
        "learnprec s0 a0a0a0",
        "learnprec s0 a1a1a1",
        "learnprec s1 b0b0b0",
        "cascade s0 c0c0c0",
        "cascade s1 c0c0c0",
    }
    kinds = {name: run.data.params["kind"] for name, run in dynamic_runs.items()}
    assert kinds[static] == "static"
    assert kinds["learnprec s0 a0a0a0"] == "channels"
    assert kinds["cascade s0 c0c0c0"] == "cascade"
    assert all(run.data.tags["kind"] == kinds[name] for name, run in dynamic_runs.items())
    assert "energy_std" not in dynamic_runs[static].data.metrics


def test_what_was_chosen_is_metrics_with_names_that_stay(dynamic_runs):
    metrics = dynamic_runs["learnprec s0 a0a0a0"].data.metrics
    expected = {"energy_std": 0.0312, "deciding_vs_w8a8": 0.00025, "wide_share": 0.3575}
    for name, group in zip(("low", "middle", "high"), CHANNELS.terciles, strict=True):
        expected[f"entropy_{name}.accuracy"] = group.accuracy
        expected[f"entropy_{name}.energy_vs_w8a8"] = group.energy
        expected[f"entropy_{name}.wide_share"] = group.wide_share
    for ablation in CHANNELS.ablations:
        expected[f"{ablation.name}_choices.accuracy"] = ablation.accuracy
        expected[f"{ablation.name}_choices.energy_vs_w8a8"] = ablation.energy
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert set(metrics) == {*expected, *METRICS, "accuracy_search"}
    documented = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    assert [name for name in expected if f"`{name}`" not in documented] == []


def test_what_was_chosen_is_an_artifact(dynamic_runs):
    stored = artifact(dynamic_runs["cascade s1 c0c0c0"], "dynamic.json")
    assert Usage.from_dict(json.loads(stored)) == CASCADE
    static = next(run for name, run in dynamic_runs.items() if name.startswith("uniform"))
    assert not (Path(static.info.artifact_uri.removeprefix("file://")) / "dynamic.json").exists()


def study_run(tracked):
    client = MlflowClient(tracking_uri=tracked.uri)
    return client, client.get_run(tracked.study_run_id)


def test_what_strategies_report_is_an_artifact_and_a_figure(predicting, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = log_study(predicting, uri=uri, experiment=None, folder=tmp_path / "predicting")
    client, run = study_run(tracked)
    rows = json.loads(artifact(run, "findings.json"))
    assert rows == [
        {
            "strategy": "ilp",
            "seed": 0,
            "budget": "30 evaluations",
            "findings": {"predicts": "kl", "predicted": {"a": 1.0}},
            "predictions": [[1.0, 0.5], [2.0, 0.7], [4.0, 0.6]],
            "agreement": {
                "count": 3,
                "tau": pytest.approx(1 / 3),
                "r2": pytest.approx(0.107, abs=1e-3),
            },
        },
        {
            "strategy": "ilp",
            "seed": 1,
            "budget": "30 evaluations",
            "findings": {"solver": [{"status": "optimal"}]},
            "predictions": [],
            "agreement": None,
        },
    ]
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert "figures/predicted.html" in figures


def test_without_findings_there_is_no_artifact(tracked, client):
    _, last, _ = tracked
    names = {item.path for item in client.list_artifacts(last.study_run_id)}
    assert "result.json" in names
    assert "findings.json" not in names
    figures = {item.path for item in client.list_artifacts(last.study_run_id, "figures")}
    assert "figures/predicted.html" not in figures


@pytest.fixture(scope="module")
def learned(learning_result, tmp_path_factory):
    """A study whose first strategy logged its search, its client, and its runs by role and name."""
    folder = tmp_path_factory.mktemp("output") / learning_result.name
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    tracked = log_study(learning_result, uri=uri, experiment=None, folder=folder)
    client = MlflowClient(tracking_uri=uri)
    return tracked, client, client.search_runs([tracked.experiment_id], max_results=ALL_RUNS)


def test_every_trial_that_logged_its_search_is_one_flat_run(learning_result, learned):
    tracked, _, runs = learned
    trials = {run.info.run_name: run for run in with_role(runs, "trial")}
    assert sorted(trials) == ["haq s0", "haq s1"]
    for seed in (0, 1):
        run = trials[f"haq s{seed}"]
        group = {"strategy": "haq", "budget": "30 evaluations", "seed": str(seed)}
        assert run.data.params == group
        assert {name: run.data.tags[name] for name in group} == group
        assert run.data.tags["bitfront.study_run"] == tracked.study_run_id
        assert "mlflow.parentRunId" not in run.data.tags
        assert (run.data.metrics["steps"], run.data.metrics["evaluations"]) == (150, 30)
        assert run.info.status == "FINISHED"
    colours = {run.data.tags["mlflow.runColor"] for run in trials.values()}
    assert colours == {run.data.tags["mlflow.runColor"] for run in haq_finalists(runs)}


def haq_finalists(runs) -> list:
    return [run for run in with_role(runs, "finalist") if run.data.params["strategy"] == "haq"]


def test_a_trials_run_has_its_curves_its_trace_and_its_pictures(learning_result, learned):
    _, client, runs = learned
    (run,) = (run for run in with_role(runs, "trial") if run.data.params["seed"] == "1")
    trace = Trace.from_dict(learning_result.trials[1].findings["trace"])
    for name, column in trace.metrics.items():
        logged = client.get_metric_history(run.info.run_id, f"episode.{name}")
        assert [(m.step, m.value) for m in sorted(logged, key=lambda m: m.step)] == [
            (step, value) for step, value in enumerate(column) if value is not None
        ]
    assert Trace.from_dict(json.loads(artifact(run, "trace.json"))) == trace
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {"figures/learning-haq.png", "figures/widths-haq-s1.png"}


def test_the_study_run_has_all_pictures_and_no_second_copy_of_traces(learned):
    tracked, client, runs = learned
    figures = {item.path for item in client.list_artifacts(tracked.study_run_id, "figures")}
    assert {f"figures/widths-haq-s{seed}.png" for seed in (0, 1)} <= figures
    assert "figures/learning-haq.png" in figures
    names = {item.path for item in client.list_artifacts(tracked.study_run_id)}
    assert "findings.json" not in names  # nothing was reported but the traces
    (study,) = with_role(runs, "study")
    stored = StudyResult.from_dict(json.loads(artifact(study, "result.json")))
    assert stored.trials[0].findings["trace"]["step"] == "episode"


def test_the_preset_page_shows_finalists_and_no_trials(learning_result, learned):
    tracked, client, runs = learned
    view = json.loads(client.get_experiment(tracked.experiment_id).tags[VIEW_TAG])
    shown = client.search_runs([tracked.experiment_id], view["searchFilter"], max_results=ALL_RUNS)
    assert {run.info.run_id for run in shown} == {
        run.info.run_id for run in with_role(runs, "finalist")
    }
    assert len(shown) == len(learning_result.points)


def test_the_learning_page_shows_the_curves_of_all_trials(learned):
    tracked, client, runs = learned
    text = client.get_experiment(tracked.experiment_id).tags[LEARNING_TAG]
    assert len(text) < 5000
    view = json.loads(text)
    shown = client.search_runs([tracked.experiment_id], view["searchFilter"])
    assert {run.info.run_id for run in shown} == {
        run.info.run_id for run in with_role(runs, "trial")
    }
    cards = {card["metricKey"]: card for card in view["compareRunCharts"]}
    names = ("reward", "accuracy", "critic_loss", "best_accuracy", "energy")
    assert list(cards) == [f"episode.{name}" for name in names]
    assert {card["type"] for card in cards.values()} == {"LINE"}
    assert cards["episode.reward"]["lineSmoothness"] > 0
    assert cards["episode.best_accuracy"]["lineSmoothness"] == 0


def test_the_learning_page_fits_into_a_tag_of_older_stores():
    metrics = [f"episode.{'m' * 20}{index}" for index in range(50)]
    text = learning_view("0" * 32, trials=15, metrics=metrics, smooth=True)
    assert len(json.loads(text)["compareRunCharts"]) == 12
    assert len(text) < 5000


def test_the_learning_page_shows_what_people_look_for_first():
    looked_for = ("kl", "energy", "accuracy", "mean_weight_bits", "mean_activation_bits")
    metrics = [f"epoch.{name}" for name in (*(f"m{i}" for i in range(20)), *looked_for)]
    view = json.loads(learning_view("0" * 32, trials=1, metrics=metrics))
    shown = [card["metricKey"] for card in view["compareRunCharts"]]
    assert shown == metrics[:7] + metrics[-5:]


def test_few_steps_are_not_smoothed():
    view = json.loads(learning_view("0" * 32, trials=1, metrics=["epoch.loss"]))
    assert [card["lineSmoothness"] for card in view["compareRunCharts"]] == [0]


def test_names_that_mlflow_refuses_and_long_traces_are_logged(tiny_result, tmp_path):
    names = ("energy:bitfusion", "größe/2", "a$b")
    values = [float(step) for step in range(1200)]
    widths = [[8 - 6 * step / 1200] for step in range(1200)]
    trace = Trace("epoch", ("fc",), dict.fromkeys(names, values), widths, widths)
    logged = replace(tiny_result.trials[0], findings={"trace": trace.to_dict()})
    trials = (logged, replace(tiny_result.trials[0], budget="60 evaluations"))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result = replace(tiny_result, trials=trials)
    tracked = log_study(result, uri=uri, experiment=None, folder=tmp_path / "tiny")
    client = MlflowClient(tracking_uri=uri)
    (run,) = with_role(client.search_runs([tracked.experiment_id]), "trial")
    assert run.info.run_name == "uniform s0, 30 evaluations"  # there are others
    keys = ("epoch.energy_bitfusion", "epoch.größe_2", "epoch.a_b")
    assert {key: run.data.metrics[key] for key in keys} == dict.fromkeys(keys, 1199.0)
    figures = [item.path for item in client.list_artifacts(run.info.run_id, "figures")]
    kinds = ("layers", "learning", "widths")
    assert [path.partition("-")[0] for path in sorted(figures)] == [f"figures/{k}" for k in kinds]
    view = json.loads(client.get_experiment(tracked.experiment_id).tags[LEARNING_TAG])
    assert {card["lineSmoothness"] for card in view["compareRunCharts"]} == {0}  # epochs are few


def test_preset_page_opens_on_the_cost_that_is_compared(tiny_result, tmp_path):
    spec = {**tiny_result.spec, "objectives": ["accuracy", "mean_weight_bits"]}
    tracked = log_study(
        replace(tiny_result, spec=spec),
        uri=f"sqlite:///{tmp_path}/mlflow.db",
        experiment=None,
        folder=tmp_path / "tiny",
    )
    client = MlflowClient(tracking_uri=tracked.uri)
    text = client.get_experiment(tracked.experiment_id).tags[VIEW_TAG]
    view = json.loads(text)
    scatters = [card for card in view["compareRunCharts"] if card["type"] == "SCATTER"]
    assert [card["xaxis"]["key"] for card in scatters] == [
        "mean_weight_bits",
        "energy_vs_w8a8",
        "size_bytes",
    ]
    assert len({card["uuid"] for card in scatters}) == 3
    assert view["orderByKey"] == "metrics.`mean_weight_bits`"
    assert "metrics.`mean_weight_bits`" in view["selectedColumns"]
    assert len(text) < 5000


def test_preset_page_shows_the_last_logging_only(tracked, client, runs):
    first, last, _ = tracked
    assert first.study_run_id != last.study_run_id
    view = json.loads(client.get_experiment(last.experiment_id).tags[VIEW_TAG])
    shown = client.search_runs([last.experiment_id], view["searchFilter"], max_results=ALL_RUNS)
    finalists = {run.info.run_id for run in with_role(runs, "finalist")}
    assert {run.info.run_id for run in shown} == finalists
    scatter = view["compareRunCharts"][0]
    assert (scatter["type"], scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == (
        "SCATTER",
        "energy_vs_w8a8",
        "accuracy",
    )


def test_preset_page_fits_into_a_tag_of_older_stores(tracked, client):
    assert len(client.get_experiment(tracked[1].experiment_id).tags[VIEW_TAG]) < 5000


def test_deleted_experiment_is_brought_back(tiny_result, tracked, client):
    _, last, folder = tracked
    arguments = {"uri": last.uri, "experiment": "put away", "folder": folder}
    first = log_study(tiny_result, **arguments)
    client.delete_experiment(first.experiment_id)
    assert log_study(tiny_result, **arguments).experiment_id == first.experiment_id


def test_logging_is_silent_and_leaves_mlflow_as_it_was(tiny_result, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    before = mlflow.get_tracking_uri()
    folder = tmp_path / "output" / "study"
    tracked = log_study(tiny_result, uri=None, experiment="named", folder=folder)
    assert tracked.uri == f"sqlite:///{tmp_path}/elsewhere.db"
    assert tracked.experiment == "named"
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None
    assert capfd.readouterr() == ("", "")


def test_study_comes_before_environment_before_default(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert resolve_uri(None, tmp_path) == "http://there:5000"
    assert resolve_uri("http://here:5000", tmp_path) == "http://here:5000"


def test_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("buy milk")
    with pytest.raises(StudyError, match=r"notes\.db is not an MLflow store"):
        connect(f"sqlite:///{path}", create=True)
    assert path.read_text() == "buy milk"


def test_missing_store_is_not_made_by_looking(tmp_path):
    with pytest.raises(StudyError, match="run a study first"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write MLflow's store"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db", create=True)


def test_server_that_does_not_answer_is_named_without_its_password():
    with pytest.raises(StudyError, match=r"no MLflow server answers at http://ana:\*\*\*@127") as e:
        connect("http://ana:secret@127.0.0.1:9")
    assert "secret" not in str(e.value)


def test_uri_without_password_is_shown_whole():
    assert without_password("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
