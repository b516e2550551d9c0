"""Commands: what they print, how they end, what they leave alone."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitfront.energy import table_names
from bitfront.models import data_names, model_names
from bitfront.searchers import strategy_names
from bitfront.spaces import StudyError
from bitfront.studies import StudyResult, StudySpec, library_studies
from bitfront.studies import runner as runner_module
from bitfront.studies import ui as ui_module
from bitfront.studies.catalogue import CATALOGUES
from bitfront.studies.cli import app
from bitfront.studies.cli_write import Kind
from bitfront.studies.progress import ProgressEvent
from bitfront.studies.ui import Ui

HEAVY = (
    "matplotlib", "mlflow", "pandas", "plotly", "ray", "scipy", "sklearn", "timm", "torch",
    "torchvision",
)  # fmt: skip

TINY = """\
study: tiny
model: {name: cnn5, kwargs: {width: 4, hidden: 8}, train: {epochs: 1, threads: 1}}
data: {name: digits, calibration_images: 32, search_images: 40, test_images: 40}
strategies:
  - {name: uniform, widths: [8, 4]}
  - {name: random}
budgets: {evaluations: 3}
execution: {workers: 0}
"""

SURRENDER = """\
from dataclasses import dataclass

from bitfront.searchers import Searcher


@dataclass(frozen=True, kw_only=True)
class Surrender(Searcher):
    summary = "Gives up."

    def search(self, problem):
        problem.evaluate([problem.space.uniform(8)])
        raise RuntimeError("no idea")
"""


DIARY = """\
from dataclasses import dataclass

from bitfront.searchers import Searcher


@dataclass(frozen=True, kw_only=True)
class Diary(Searcher):
    summary = "Logs one step."

    def search(self, problem):
        (measured,) = problem.evaluate([problem.space.uniform(8)])
        problem.log("step", measured.allocation, accuracy=measured.accuracy)
        problem.findings["steps"] = 1
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test has its own folder, cache and no store of somebody else's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def bitfront(*arguments: str):
    return CliRunner().invoke(app, arguments)


def answer(*arguments: str):
    """Return the JSON a command prints, and nothing else."""
    ended = bitfront(*arguments, "--json")
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def in_a_process(*arguments: str) -> list[str]:
    """Return which heavy packages a command has loaded when it ends well."""
    program = (
        "import json, sys\n"
        f"sys.argv = ['bitfront', *{list(arguments)!r}]\n"
        "from bitfront.studies.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return loaded


# Light commands


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("scores", "--help"),
        ("solve", "--help"),
        *(("list", kind.value) for kind in Kind),
        ("init",),
        ("validate", "quickstart"),
    ],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy(arguments):
    assert in_a_process(*arguments) == []


def test_help_comes_within_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "bitfront.studies", "--help"], capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of computing, not of waiting for a busy machine.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.0


def test_help_names_every_command_and_no_command_is_help():
    text = bitfront("--help").stdout
    for command in ("run", "ui", "show", "list", "profile", "init", "validate", "scores", "solve"):
        assert re.search(rf"\b{command}\b", text)
    assert "Usage" in bitfront().output


# list, profile, init, validate


def test_everything_that_can_be_listed_is():
    assert {kind.value for kind in Kind} == set(CATALOGUES)
    names = {kind: [row["name"] for row in answer("list", kind)] for kind in Kind}
    assert names[Kind.STRATEGIES] == strategy_names()
    assert names[Kind.MODELS][: len(model_names())] == model_names()
    assert names[Kind.DATA] == data_names()
    assert names[Kind.TABLES] == table_names()
    assert names[Kind.STUDIES] == library_studies()


@pytest.mark.parametrize("kind", list(Kind))
def test_lists_for_people_name_the_same(kind):
    listed = bitfront("list", kind).stdout
    for row in answer("list", kind):
        assert row["name"] in listed


def test_strategies_are_listed_with_settings_and_defaults():
    uniform = next(row for row in answer("list", "strategies") if row["name"] == "uniform")
    assert [setting["name"] for setting in uniform["settings"]] == ["widths"]
    assert uniform["settings"][0]["default"] is None
    assert "widths" in bitfront("list", "strategies").stdout


def test_profile_counts_what_the_layers_do():
    found = answer("profile", "cnn5", "--input-shape", "1,8,8")
    # 3x3 convolutions 1-16-32-64 on 8x8, 8x8 and 4x4 pixels; linear layers 256-128-10.
    macs = [9 * 16 * 64, 9 * 16 * 32 * 64, 9 * 32 * 64 * 16, 256 * 128, 128 * 10]
    assert [layer["macs"] for layer in found["layers"]] == macs
    assert found["macs"] == sum(macs)
    assert found["energy_w8a8"] == pytest.approx(sum(r["energy_w8a8"] for r in found["layers"]))
    assert found["energy_fp32"] > found["energy_w8a8"] > 0
    assert "633,088 MACs" in bitfront("profile", "cnn5", "--input-shape", "1,8,8").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profile", "cnn6"), "unknown model 'cnn6'; did you mean 'cnn5'"),
        (("profile", "cnn5", "--table", "horowits"), "did you mean 'horowitz-45nm'?"),
        (("profile", "cnn5", "--input-shape", "3,5,5"), "divisible by 4, got 5x5"),
        (("profile", "cnn5", "--input-shape", "3,32"), "expected three whole numbers"),
        (("profile", "cnn5", "--input-shape", "3,32,-1"), "expected three whole numbers"),
        (("profile", "cnn5", "--input-shape", "[3"), "not valid YAML"),
        (("validate", "quickstrat"), "did you mean 'quickstart'?"),
        (("validate", "quickstart", "--set", "seeds"), "expected KEY=VALUE, got seeds"),
        (("validate", "quickstart", "--set", "seeds=[a]"), "expected a whole number, got text 'a'"),
        (("validate", "quickstart", "--set", "seeds.x=1"), "'x' is not in a list"),
        (("validate", "quickstart", "--set", "study=!x y"), "is refused"),
        (("run", "quickstart", "--seeds", "0,a"), "option seeds: seeds[1]: expected a whole"),
        (("run", "quickstart", "--workers", "-1"), "greater than"),
        (("show", "nothing"), "no finished study 'nothing'"),
        (("ui", "nothing"), "no finished study 'nothing'"),
        (("ui",), "no MLflow store at"),
        (("list", "strategy"), "strategies"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_ends_with_one_sentence_and_exit_code_2(arguments, words, own_folder):
    ended = bitfront(*arguments)
    assert ended.exit_code == 2
    assert words in re.sub(r"\s*│?\n│?\s*", " ", ended.stderr)  # a box breaks lines
    assert "Traceback" not in ended.output
    assert list(own_folder.iterdir()) == []


def test_debug_lets_the_error_through():
    ended = bitfront("--debug", "show", "nothing")
    assert isinstance(ended.exception, StudyError)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def broken():
        raise ValueError("a fault")

    monkeypatch.setitem(CATALOGUES, "data", broken)
    ended = bitfront("list", "data")
    assert ended.exit_code == 1
    assert str(ended.exception) == "a fault"


def test_validate_says_what_would_run():
    facts = answer("validate", "quickstart", "--set", "seeds=[0, 1]")
    assert facts["valid"] is True
    assert facts["trials"] == 1 + 1 + 2  # the seed makes a difference to random only
    assert facts["evaluations"] == 4 * 30
    assert "quickstart" in bitfront("validate", "quickstart").stdout


def test_validate_deep_looks_at_network_and_data():
    facts = answer("validate", "quickstart", "--deep")
    assert facts["layers"] == 5
    assert facts["log10_allocations"] == pytest.approx(5.07)  # 7^6: three layers are free
    assert facts["search_images"] + facts["train_images"] == 1198
    assert facts["test_images"] == 599


def test_validate_lists_faults_as_json():
    Path("bad.yaml").write_text(TINY.replace("seeds", "seed").replace("digits", "digit"))
    ended = bitfront("validate", "bad.yaml", "--json")
    assert ended.exit_code == 2
    assert json.loads(ended.stdout) == {
        "valid": False,
        "faults": [
            {
                "where": "bad.yaml:3",
                "place": "data.name",
                "message": "unknown data set 'digit'; did you mean 'digits'?",
            }
        ],
    }


def test_init_writes_a_study_that_is_valid_and_says_the_defaults():
    assert answer("init", "first.yaml") == {"written": "first.yaml"}
    spec = StudySpec.load("first.yaml")
    assert spec.study == "first"
    text = Path("first.yaml").read_text()
    commented = re.compile(r"^(\s*)# (\s*[a-z_]+:)", flags=re.MULTILINE)
    assert len(commented.findall(text)) > 30
    Path("first.yaml").write_text(commented.sub(r"\1\2", text).replace("train: {epochs: 20}", ""))
    full = StudySpec.load("first.yaml")
    assert full.budgets[0].limits == {"energy": 0.6}  # the one example that is no default
    assert full.to_dict() | {"budgets": 0} == spec.to_dict() | {"budgets": 0}


def test_init_spares_a_file_that_is_there():
    Path("study.yaml").write_text("mine")
    assert bitfront("init").exit_code == 2
    assert Path("study.yaml").read_text() == "mine"
    assert bitfront("init", "--force").exit_code == 0
    assert Path("study.yaml").read_text() != "mine"
    assert "cannot be written" in bitfront("init", "no/such/folder.yaml").stderr


@pytest.mark.parametrize("name", ["1 st {study}.yaml", "ünï.yaml", "_-_.yaml", "a.b.yaml"])
def test_init_makes_a_valid_name_of_any_file_name(name):
    assert bitfront("init", name).exit_code == 0
    StudySpec.load(name)


# run, show, ui


def test_a_study_runs_and_shows():
    Path("tiny.yaml").write_text(TINY)
    ended = bitfront("run", "tiny.yaml", "--seeds", "3", "--output", "out")
    assert ended.exit_code == 0, ended.output
    assert "searching: 5/5" in ended.stderr
    assert "browse it: bitfront ui tiny --output out" in ended.stdout
    result = StudyResult.load(Path("out/tiny"))
    assert {trial.seed for trial in result.trials} == {3}
    rows = answer("show", "tiny", "--output", "out")
    assert rows == answer("show", "out/tiny")
    assert {row["strategy"] for row in rows} == {"uniform", "random"}
    assert {row["split"] for row in rows} == {"test"}
    assert "finalists, 40 test images" in bitfront("show", "out/tiny", "--all").stdout


def test_a_failing_strategy_is_told_and_ends_with_exit_code_1(monkeypatch, own_folder):
    (own_folder / "surrender_module.py").write_text(SURRENDER)
    monkeypatch.syspath_prepend(own_folder)
    text = TINY.replace("{name: random}", "{name: 'surrender_module:Surrender', label: mine}")
    Path("tiny.yaml").write_text(text)
    ended = bitfront("run", "tiny.yaml", "--json")
    assert ended.exit_code == 1
    said = json.loads(ended.stdout)
    statuses = {trial["strategy"]: (trial["status"], trial["error"]) for trial in said["trials"]}
    assert statuses == {"uniform": ("done", None), "mine": ("failed", "RuntimeError: no idea")}
    assert {point["strategy"] for point in said["points"]} == {"uniform", "mine"}
    assert "mine, seed 0 failed: RuntimeError: no idea" in bitfront("show", "tiny").stdout


def test_what_was_logged_step_by_step_is_in_the_result_and_not_printed(monkeypatch, own_folder):
    (own_folder / "diary_module.py").write_text(DIARY)
    monkeypatch.syspath_prepend(own_folder)
    Path("tiny.yaml").write_text(TINY.replace("{name: random}", "{name: 'diary_module:Diary'}"))
    _, printed = answer("run", "tiny.yaml")["trials"]
    assert printed["findings"] == {"steps": 1}
    _, kept = StudyResult.load(Path("bitfront-runs/tiny")).trials
    assert kept.findings["trace"]["step"] == "step"
    assert printed == kept.to_dict() | {"findings": {"steps": 1}}


def test_an_impossible_budget_is_refused_before_anything_is_written(own_folder):
    Path("tiny.yaml").write_text(
        TINY.replace("{evaluations: 3}", "\n  evaluations: 3\n  limits: {size: 100}")
    )
    ended = bitfront("run", "tiny.yaml")
    assert ended.exit_code == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: tiny.yaml:9: budgets[0].limits.size: no allocation has size <=")
    assert "the smallest achievable is" in last
    assert [path.name for path in own_folder.iterdir()] == ["tiny.yaml"]


class Dropping:
    """Raises what Ctrl-C raises where Python can only drop it."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("drops", [False, True])
def test_interrupting_says_how_to_go_on(monkeypatch, drops):
    def interrupted(spec, *, progress):
        if drops:
            Dropping()
        else:
            signal.raise_signal(signal.SIGINT)
        progress(ProgressEvent(phase="search"))
        pytest.fail("it went on")

    monkeypatch.setattr(runner_module, "run_study", interrupted)
    ended = bitfront("run", "quickstart")
    assert ended.exit_code == 130
    assert "run the same command again" in ended.stderr


@pytest.mark.slow
def test_a_study_goes_on_after_ctrl_c():
    Path("tiny.yaml").write_text(TINY.replace("{evaluations: 3}", "{evaluations: 3000}"))
    command = [sys.executable, "-m", "bitfront.studies", "run", "tiny.yaml"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("searching: "):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith("run the same command again to go on")
    assert not Path("bitfront-runs/tiny/result.json").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert Path("bitfront-runs/tiny/result.json").exists()


def test_ui_opens_the_page_of_the_study_in_the_store_it_was_logged_to(
    monkeypatch, synthetic_result, own_folder
):
    asked = []

    def start(uri, experiment=None, *, port=None):
        asked.append((uri, experiment, port))
        return Ui("http://127.0.0.1:1/page")

    monkeypatch.setattr(ui_module, "start_ui", start)
    folder = own_folder / "bitfront-runs/synthetic"
    folder.mkdir(parents=True)
    synthetic_result.save(folder)
    assert answer("ui", "synthetic", "--no-open") == {"url": "http://127.0.0.1:1/page"}
    default = f"sqlite:///{own_folder}/bitfront-runs/mlflow.db"
    ended = bitfront("ui", "--no-open", "--port", "5005")
    assert ended.stdout.startswith("http://127.0.0.1:1/page\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    bitfront("ui", "synthetic", "--no-open")
    assert asked == [
        (default, "synthetic", None),
        (default, None, 5005),
        ("http://127.0.0.1:9", "synthetic", None),
    ]
