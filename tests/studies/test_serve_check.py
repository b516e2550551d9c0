"""The command serve-check: what it prints, that it finds a shift, and how it ends on bad input."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bitfront.models.locate import resolve_checkpoint
from bitfront.models.runtime.audit import read_audit
from bitfront.models.runtime.guardrail import GuardSettings
from bitfront.spaces import ModelError
from bitfront.studies.cli import app
from bitfront.studies.serve_check import serve_check
from bitfront.studies.serve_settings import ServeSettings
from bitfront.studies.spec import StudySpec

TINY = """\
study: tiny
model: {name: cnn5, train: {epochs: 4, threads: 1}}
data: {name: digits, calibration_images: 64, search_images: 40, test_images: 560}
strategies: [{name: uniform}]
budgets: {evaluations: 3}
execution: {workers: 0}
"""
SHIFT = (
    "--repeat",
    "7",
    "--patience",
    "24",
    "--noise",
    "0.6",
    "--noise-from",
    "800",
    "--noise-to",
    "1600",
)


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFRONT_CACHE", str(model_cache))
    Path("tiny.yaml").write_text(TINY)


def serve(*arguments: str):
    return CliRunner().invoke(app, ["serve-check", "tiny.yaml", *arguments])


@pytest.mark.parametrize("guard", ["agreement,confidence", "accuracy"])
def test_a_shift_is_found_written_down_and_survived(guard):
    ended = serve(*SHIFT, "--guard", guard, "--audit", "audit.jsonl", "--json")
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout)
    assert report["inputs"] == 2940
    assert 0 < report["rolled_back_after"] <= 256
    assert report["returned_after"] is not None
    assert report["replays"] is True
    assert report["failures"] == []
    rolled_back = report["switches"][1]
    assert (rolled_back["from"], rolled_back["to"]) == ("low", "high")
    assert rolled_back["input"] == 800 + report["rolled_back_after"]
    written = [event for event in read_audit("audit.jsonl").events if event["event"] == "switch"]
    assert written == report["switches"]
    before, under, after = report["phases"][1:]
    assert before["lowest_share"] == 1 and under["lowest_share"] < 0.5 < after["lowest_share"] + 0.5
    assert before["energy"] == pytest.approx(report["levels"][0]["energy"])
    assert sum(level["answered"] for level in report["levels"]) == 2940


def test_it_prints_what_changed_by_level_and_by_part():
    ended = serve(*SHIFT)
    assert ended.exit_code == 0, ended.output
    for said in ("What changed", "as measured at set-up", "By level", "under the noise"):
        assert said in ended.stdout
    assert "inputs of noise" in ended.stdout


def test_without_noise_nothing_happens():
    report = json.loads(serve("--repeat", "4", "--json", "--policy", "confidence").stdout)
    assert [event["to"] for event in report["switches"]] == ["low"]
    assert report["rolled_back_after"] is None and report["returned_after"] is None
    assert [phase["name"] for phase in report["phases"]] == ["all"]
    level = report["levels"][0]
    assert level["in_force"] == report["inputs"] > level["answered"]


def test_the_window_is_shortened_to_what_a_short_stream_fills():
    report = json.loads(serve("--json", "--guard", "agreement, confidence").stdout)
    assert (report["inputs"], report["window"], report["check_every"]) == (420, 52, 8)
    assert report["window_fitted"] is True
    ended = serve("--limit", "100")
    assert ended.exit_code == 0, ended.output
    said = " ".join(ended.stdout.split())
    assert "up to 16 checked inputs, one of 6 in the shadow: what 100 inputs leave" in said


@pytest.mark.parametrize("members", ["2,3,4,8", "4,8"])
def test_thresholds_of_other_than_three_levels_can_be_set(members):
    thresholds = ",".join(["0.9", "0.8", "0.6"][: members.count(",")])
    report = json.loads(
        serve(
            "--json", "--policy", "confidence", "--members", members, "--thresholds", thresholds
        ).stdout
    )
    assert len(report["levels"]) == members.count(",") + 1
    assert report["window_fitted"] is True


@pytest.mark.slow
def test_the_same_seed_gives_the_same_whatever_the_batch_size():
    found = [
        json.loads(serve(*SHIFT, "--json", "--batch-size", size, "--seed", seed).stdout)
        for size, seed in (("64", "1"), ("500", "1"), ("64", "2"))
    ]
    for report in found:
        for event in report["switches"]:
            del event["time"], event["previous"]
    first, same, other = found
    assert first["switches"] == same["switches"]
    assert np.isclose(first["phases"][0]["energy"], same["phases"][0]["energy"])
    assert first["phases"] != other["phases"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--members", "8,6,4"), "'low' must cost less than 'mid', but it costs 1 of"),
        (("--members", "4,9"), "--members asks for 9 bits, and the space offers"),
        (("--members", "8"), "at least 2 widths"),
        (("--policy", "confidence", "--thresholds", "0.6,0.9"), "thresholds of a cascade fall"),
        (("--policy", "confidence", "--thresholds", "0.9"), "has 2 thresholds, got 1"),
        (("--thresholds", "0.9,0.6"), "--thresholds are of --policy confidence"),
        (("--policy", "guess"), "--policy is fixed or confidence"),
        (("--guard", "speed"), "watches some of agreement, accuracy, confidence"),
        (("--noise", "0.3", "--noise-from", "5000"), "before the noise begins at 5000"),
        (("--noise", "0.3", "--noise-to", "5000"), "before the noise ends at 5000"),
        (("--noise", "0.3", "--noise-from", "9", "--noise-to", "9"), "must end after it begins"),
        (("--noise-from", "5"), "say when there is --noise"),
        (("--noise", "-1"), "at least 0"),
        (
            ("--policy", "confidence", "--members", "2,3,4,8"),
            "--members names 4: set --thresholds, 3 that fall",
        ),
        (
            ("--policy", "confidence", "--members", "4,8", "--thresholds", "0.9,0.6"),
            "2 members has 1 threshold, got 2",
        ),
        (("--window", "256"), "before a window of 256 checked ones is full at 2048"),
        (("--limit", "12"), "before a window of 16 checked ones is full at 16"),
        (("--set-up", "560"), "560 images are to be set aside of a test split of 560"),
        (("--audit", "nowhere/audit.jsonl"), "cannot write the audit log"),
        (("--audit", "."), "Is a directory"),
        (("--audit", "tiny.yaml"), "tiny.yaml is no audit log; name another file"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said):
    given = () if "--noise" in arguments else ("--repeat", "4")
    ended = serve(*given, "--audit", "refused.jsonl", *arguments)
    assert not Path("refused.jsonl").exists()
    assert ended.exit_code == 2, ended.output
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


@pytest.mark.slow
def test_widths_that_the_table_does_not_price_are_refused_and_not_chosen():
    widths = "{weights: [2, 4, 8], activations: [2, 4, 8]}"
    given = ("--repeat", "4", "--set", "energy.table=mpic", "--set", f"space={widths}")
    ended = serve(*given, "--members", "6,8")
    assert ended.exit_code == 2, ended.output
    assert "--members asks for 6 bits, and the space offers 2, 4, 8" in ended.stderr
    report = json.loads(serve(*given, "--json").stdout)
    assert [level["width"] for level in report["levels"]] == [2, 4, 8]
    every = json.loads(serve("--repeat", "4", "--set", "energy.table=mpic", "--json").stdout)
    assert [level["width"] for level in every["levels"]] == [4, 8]  # 6 costs as much as 8
    ended = serve("--repeat", "4", "--set", "energy.table=mpic", "--members", "6,8")
    assert ended.exit_code == 2
    assert "'low' must cost less than 'high', but it costs 1 of uniform 8 bit" in ended.stderr


@pytest.mark.slow
def test_a_shift_is_found_on_cifar_10():
    if not os.environ.get("BITFRONT_DATA"):
        pytest.skip("needs CIFAR-10: set BITFRONT_DATA")
    try:
        resolve_checkpoint("cifar10_resnet20.safetensors")
    except ModelError as error:
        pytest.skip(str(error))
    guard = GuardSettings(patience=24)
    settings = ServeSettings(guard=guard, noise=0.05, noise_from=1200, noise_to=1600, limit=2700)
    report = serve_check(StudySpec.load("cifar10-resnet20"), settings)
    assert report.rolled_back_after is not None and report.rolled_back_after <= 256
    assert report.returned_after is not None
    assert [event["to"] for event in report.switches][:2] == ["low", "high"]
    assert report.replays
