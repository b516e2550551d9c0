"""The commands scores and solve: what they print, and how they end."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitfront.spaces import BitAllocation, OutOfTimeError, Scores, SolverError
from bitfront.studies.cli import app

TINY = """\
study: tiny
model: {name: cnn5, kwargs: {width: 4, hidden: 8}, train: {epochs: 1, threads: 1}}
data: {name: digits, calibration_images: 32, search_images: 40, test_images: 40}
space: {weights: [2, 4, 8], activations: [4, 8]}
strategies: [{name: uniform}]
budgets: {evaluations: 3}
execution: {workers: 0}
"""


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFRONT_CACHE", str(model_cache))
    Path("tiny.yaml").write_text(TINY)


def bitfront(*arguments: str):
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def scored(study):
    ended = bitfront("scores", "tiny.yaml", "--kind", "mse", "--output", "mse.json")
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_scores_are_a_table_by_layer_operand_and_bits(scored):
    heading, columns, *rows = scored.splitlines()
    assert heading.startswith("mse scores by bits: 32 images forward, 0 backward, ")
    assert columns.split() == ["layer", "operand", "2", "4", "8"]
    cells = [row.split() for row in rows]
    assert [row[:2] for row in cells] == [
        [layer, operand]
        for layer in ("conv1", "conv2", "conv3", "fc1", "fc2")
        for operand in ("weight", "activation")
    ]
    assert cells[0][2:] == ["0"]  # one width to choose from
    assert [len(row) - 2 for row in cells[2:4]] == [3, 2]
    values = Scores.load(Path("mse.json")).values
    assert cells[2][2:] == [f"{values[1, 0, bits]:.1e}" for bits in (2, 4, 8)]


def test_scores_of_several_kinds_are_a_list_in_json():
    ended = bitfront("scores", "tiny.yaml", "--kind", "mse", "--kind", "sqnr", "--json")
    found = [Scores.from_dict(entry) for entry in json.loads(ended.stdout)]
    assert [scores.kind for scores in found] == ["mse", "sqnr"]


def test_an_allocation_is_found_and_told_with_its_costs(scored):
    arguments = ("solve", "tiny.yaml", "--score", "mse", "--limit", "energy=0.7")
    ended = bitfront(*arguments, "--limit", "mean_weight_bits=6")
    assert ended.exit_code == 0, ended.output
    assert "optimal" in ended.stdout
    answer = json.loads(bitfront(*arguments, "--limit", "mean_weight_bits=6", "--json").stdout)
    allocation = BitAllocation.from_dict(answer["allocation"])
    assert allocation.key in ended.stdout
    assert answer["costs"]["energy"] <= 0.7
    assert answer["costs"]["mean_weight_bits"] <= 6
    shown = [line.split() for line in ended.stdout.splitlines()]
    for layer in zip(allocation.layers, allocation.weights, allocation.activations, strict=True):
        assert list(map(str, layer)) in shown
    size = f"{answer['costs']['size']:,.0f}"
    assert ["size", size] in shown


def test_a_file_of_scores_serves_in_place_of_the_ledger(scored):
    ended = bitfront("solve", "tiny.yaml", "--scores", "mse.json", "--json")
    assert json.loads(ended.stdout)["kind"] == "mse"


@pytest.mark.parametrize(
    "error",
    [
        SolverError("the integer program could not be solved: HiGHS says nothing"),
        OutOfTimeError("no allocation was found within 1 s"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_solver_without_an_answer_is_one_sentence(scored, monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("bitfront.searchers.additive.AdditiveModel.solve", broken)
    ended = bitfront("solve", "tiny.yaml", "--score", "mse")
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1] == f"error: {error}"
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "energy=0.01"), "no allocation has energy <= 0.01; the smallest achievable"),
        (("--scores", "nothing.json"), "nothing.json cannot be read"),
        (("--scores", "tiny.yaml"), "tiny.yaml cannot be read"),
        (("--limit", "enrgy=1"), "cannot limit 'enrgy'"),
        (("--limit", "energy:bitfusion=1"), "a table the study does not name"),
        (("--limit", "energy=-1"), "must be a positive number, got -1"),
        (("--score", "loss"), "bitfront scores STUDY --kind loss"),
        (("--score", "los"), "no score 'los'; did you mean 'loss'"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_solved_ends_with_one_sentence(scored, arguments, words):
    ended = bitfront("solve", "tiny.yaml", "--score", "mse", *arguments)
    assert ended.exit_code == 2
    (said,) = [line for line in ended.stderr.splitlines() if line != "preparing"]
    assert said.startswith("error: ")
    assert words in said
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("solve", "tiny.yaml", "--limit", "energy"), "expected COST=NUMBER"),
        (("solve", "tiny.yaml", "--limit", "energy=much"), "expected COST=NUMBER"),
        (
            ("scores", "tiny.yaml", "--kind", "kl", "--kind", "mse", "--output", "x.json"),
            "a file holds scores of one kind",
        ),
        (("scores", "tiny.yaml", "--kind", "kll"), "no score 'kll'; did you mean 'kl'"),
        (("scores", "tiny.yaml", "--images", "0"), "greater than or equal to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_refused_before_anything_is_computed(arguments, words):
    ended = bitfront(*arguments)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert not Path("bitfront-runs").exists()


def test_a_file_that_cannot_be_written_is_one_sentence():
    ended = bitfront("scores", "tiny.yaml", "--kind", "mse", "--output", "no/such/folder.json")
    assert ended.exit_code == 2
    assert "no/such/folder.json cannot be written" in ended.stderr
