"""Fast profiles: what the section `fast` makes of a study, and what is said where it is wrong."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bitfront.models import TrainConfig
from bitfront.searchers import Budget
from bitfront.spaces import StudyError
from bitfront.studies import InvalidStudyError, StudySpec, catalogue, find
from bitfront.studies.cli import app
from bitfront.studies.fast import split
from bitfront.studies.show import find_result
from bitfront.studies.yaml_lines import read_yaml

STUDY = """\
study: slow
model:
  name: cnn5
  train:
    epochs: 20
    lr: 0.01
data: {name: digits, test_images: 500}
strategies:
  - name: uniform
    widths: [8, 6, 4]
  - name: random
budgets:
  evaluations: 30
  limits: {energy: 0.9}
seeds: [0, 1, 2]
execution: {workers: 0}
fast:
  description: A first look.
  model:
    train:
      epochs: 1
  data: {test_images: 50, search_images: 40, calibration_images: 32}
  strategies:
    - name: uniform
      widths: [8, 4]
  budgets:
    evaluations: 2
  seeds: [0]
"""


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> Path:
    """The file of the study, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("study.yaml")
    path.write_text(STUDY)
    return path


def changed(old: str, new: str) -> None:
    assert STUDY.count(old) == 1, old
    Path("study.yaml").write_text(STUDY.replace(old, new))


def bitfront(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def faults(*, fast: bool = False) -> str:
    with pytest.raises(InvalidStudyError) as raised:
        StudySpec.load("study.yaml", fast=fast)
    return str(raised.value)


def test_the_profile_is_merged_into_mappings_and_replaces_lists():
    whole, fast = StudySpec.load("study.yaml"), StudySpec.load("study.yaml", fast=True)
    assert (whole.model.train.epochs, whole.seeds) == (20, (0, 1, 2))
    assert (fast.model.train.epochs, fast.model.train.lr, fast.model.name) == (1, 0.01, "cnn5")
    assert fast.description == "A first look."
    assert [strategy.name for strategy in fast.strategies] == ["uniform"]
    assert fast.strategies[0].settings == {"widths": [8, 4]}
    assert fast.budgets == (Budget(2, limits={"energy": 0.9}),)
    assert fast.seeds == (0,)
    assert fast.execution == whole.execution


def test_a_list_of_budgets_takes_the_place_of_one_budget():
    changed("  budgets:\n    evaluations: 2", "  budgets:\n    - evaluations: 2")
    assert StudySpec.load("study.yaml", fast=True).budgets == (Budget(2),)


def test_null_replaces_too():
    changed("data: {name: digits, test_images: 500}", "data: {name: digits, image_size: 16}")
    text = Path("study.yaml").read_text().replace("{test_images: 50,", "{image_size: null,")
    Path("study.yaml").write_text(text)
    assert StudySpec.load("study.yaml").data.image_size == 16
    assert StudySpec.load("study.yaml", fast=True).data.image_size is None


def test_null_in_place_of_a_mapping_takes_it_away():
    changed("    evaluations: 2\n", "    evaluations: 2\n    limits: null\n")
    text = Path("study.yaml").read_text()
    text = text.replace(
        "    train:\n      epochs: 1\n", "    checkpoint: net.pth\n    train: null\n"
    )
    Path("study.yaml").write_text(text)
    Path("net.pth").touch()
    fast = StudySpec.load("study.yaml", fast=True)
    assert fast.budgets == (Budget(2),)
    assert (fast.model.checkpoint, fast.model.train) == (
        str(Path("net.pth").resolve()),
        TrainConfig(),
    )
    assert StudySpec.load("study.yaml").model.train.epochs == 20


def test_a_fast_study_has_a_name_and_an_experiment_of_its_own():
    assert StudySpec.load("study.yaml").folder == Path("bitfront-runs/slow")
    fast = StudySpec.load("study.yaml", fast=True)
    assert (fast.study, fast.tracking.experiment) == ("slow-fast", None)
    changed("execution: {workers: 0}", "tracking: {experiment: nights}")
    assert StudySpec.load("study.yaml").tracking.experiment == "nights"
    assert StudySpec.load("study.yaml", fast=True).tracking.experiment == "nights-fast"


def test_the_profile_may_name_them():
    changed("fast:\n", "fast:\n  study: quick\n  tracking: {experiment: mornings}\n")
    fast = StudySpec.load("study.yaml", fast=True)
    assert (fast.study, fast.tracking.experiment) == ("quick", "mornings")


def test_options_come_before_the_profile():
    place = ("model", "train", "epochs")
    fast = StudySpec.load("study.yaml", {place: 3, ("seeds",): [7]}, fast=True)
    assert (fast.model.train.epochs, fast.seeds) == (3, (7,))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 1\n", "epochs: 0\n", "study.yaml:21: model.train.epochs: train.epochs must be"),
        ("test_images: 50,", "tests: 50,", "study.yaml:22: data.tests: unknown key"),
        ("  seeds: [0]", "  seeds: [0, -1]", "study.yaml:28: seeds[1]: expected a number of at"),
        ("  seeds: [0]", "  fast: {}", "study.yaml:28: fast: unknown key"),
        ("      widths: [8, 4]", "      depth: 3", "study.yaml:25: strategies[0]"),
        ("  description: A first look.", "  study: a/b", "study.yaml:18: study: a study's name"),
        ("  evaluations: 2", "  evaluations: 2\n    limits: {ergs: 1}", "study.yaml:28: budgets"),
        ("  seeds: [0]", "  strategy: [0]", "study.yaml:28: strategy: unknown key"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_with_or_without_it(old, new, said):
    changed(old, new)
    assert said in faults(fast=True)
    assert said in faults(fast=False)
    result = bitfront("validate", "study.yaml")
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_contradicts_the_rest_of_the_study_is_said_too():
    changed("execution: {workers: 0}", "quantizer: {reconstruction: brecq}")
    text = Path("study.yaml").read_text() + "  adaptation: {method: batch-norm}\n"
    Path("study.yaml").write_text(text)
    assert "study.yaml:29: adaptation.method: a finalist is reconstructed or adapted" in faults()


def test_files_that_only_the_profile_needs_may_be_missing_without_it(monkeypatch):
    for name in ("BITFRONT_DATA", "BITFRONT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    changed("    train:\n      epochs: 1\n", "    train: null\n    checkpoint: net.pth\n")
    text = Path("study.yaml").read_text().replace("{test_images: 50,", "{name: mnist,")
    Path("study.yaml").write_text(text)
    assert StudySpec.load("study.yaml").data.name == "digits"
    said = faults(fast=True)
    assert "study.yaml:21: model.checkpoint: no checkpoint 'net.pth'" in said
    assert "study.yaml:22: data" in said


def test_a_fault_of_the_study_is_said_once():
    changed("    lr: 0.01", "    lr: -1")
    assert faults().count("\n") == 0
    assert faults(fast=True) == faults()


def test_faults_of_study_and_profile_are_said_together():
    text = STUDY.replace("epochs: 20", "epochs: -1").replace("seeds: [0]\n", "seeds: []\n")
    Path("study.yaml").write_text(text)
    first, second = faults().splitlines()
    assert first.startswith("study.yaml:5: model.train.epochs")
    assert second.startswith("study.yaml:28: seeds")


@pytest.mark.parametrize("section", ["3", "[seeds]", "", "quick"])
def test_a_profile_is_a_mapping(section):
    Path("study.yaml").write_text(STUDY.partition("fast:")[0] + f"fast: {section}\n")
    assert faults().startswith("study.yaml:17: fast: expected a mapping of keys to replace, got")
    assert faults() == faults(fast=True)


def test_a_name_that_becomes_too_long_is_said_where_the_profile_begins():
    changed("study: slow", f"study: {'s' * 62}")
    assert faults().startswith("study.yaml:17: study: a study's name is up to 64")


def test_where_there_is_no_profile_one_sentence_says_so(monkeypatch):
    Path("study.yaml").write_text(STUDY.partition("fast:")[0])
    with pytest.raises(StudyError, match="has no section 'fast'"):
        StudySpec.load("study.yaml", fast=True)
    for command in ("run", "validate", "scores", "solve", "show", "ui", "optuna"):
        result = bitfront(command, "study.yaml", "--fast")
        assert result.exit_code == 2
        assert result.stderr == (
            "error: study.yaml: has no section 'fast' that says what --fast replaces; add one, or "
            "leave --fast away\n"
        )


def test_every_value_of_a_merged_study_has_its_line():
    plain, fast = split(read_yaml(Path("study.yaml")))
    assert fast is not None
    assert "fast" not in plain.value
    assert not any(place[:1] == ("fast",) for place in (*plain.origins, *fast.origins))
    lines = STUDY.splitlines()

    def leaves(value, place=()):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in entries:
            if isinstance(inner, dict | list):
                yield from leaves(inner, (*place, key))
            else:
                yield (*place, key), inner

    for place, value in leaves(fast.value):
        if place != ("study",):  # made of the name and the section
            line = fast.origins[place].rpartition(":")[2]
            assert str(value) in lines[int(line) - 1], place


def test_a_fast_study_runs_shows_and_can_be_run_again_from_what_it_kept(model_cache, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checked = json.loads(bitfront("validate", "study.yaml", "--fast", "--json").stdout)
    assert (checked["study"], checked["trials"], checked["evaluations"]) == ("slow-fast", 1, 2)
    ran = bitfront("run", "study.yaml", "--fast", "--json")
    assert ran.exit_code == 0, ran.output
    folder = Path("bitfront-runs/slow-fast")
    assert json.loads(ran.stdout)["folder"] == str(folder)
    assert not Path("bitfront-runs/slow").exists()
    shown = bitfront("show", "study.yaml", "--fast", "--json").stdout
    assert shown == bitfront("show", "slow-fast", "--json").stdout
    again = StudySpec.load(folder / "study.yaml")
    assert again.to_dict() == StudySpec.load("study.yaml", fast=True).to_dict()
    assert json.loads(bitfront("run", folder / "study.yaml", "--json").stdout)["folder"]


def test_the_list_of_ready_studies_says_which_have_a_profile(tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "slow.yaml").write_text(STUDY)
    (library / "plain.yaml").write_text(STUDY.partition("fast:")[0])
    monkeypatch.setattr(find, "LIBRARY", library)
    assert {row["name"]: row["fast"] for row in catalogue.studies()} == {
        "slow": True,
        "plain": False,
    }
    assert find_result("slow", "runs", fast=True) == Path("runs/slow-fast")
    assert "yes" in bitfront("list", "studies").stdout


def test_what_is_kept_of_a_fast_study_has_no_profile():
    kept = yaml.safe_dump(StudySpec.load("study.yaml", fast=True).to_dict(), sort_keys=False)
    Path("kept.yaml").write_text(kept)
    assert StudySpec.load("kept.yaml").study == "slow-fast"
    with pytest.raises(StudyError, match=r"kept.yaml: has no section 'fast'"):
        StudySpec.load("kept.yaml", fast=True)
