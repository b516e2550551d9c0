import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitfront.models.config import ScoreConfig
from bitfront.spaces import BitAllocation, InfeasibleError, Scores, StudyError
from bitfront.studies.record import LEDGER_FILE
from bitfront.studies.scoring import compute_study_scores, solve_study

MSE = ScoreConfig(kind="mse", images=16)


@pytest.fixture
def scored(tiny_study):
    """The tiny study with scores in its ledger, and those."""
    spec = tiny_study()
    (scores,) = compute_study_scores(spec, [MSE])
    return spec, scores


def never(*_, **__):
    pytest.fail("it was computed again")


def test_scores_are_computed_once_and_kept_in_the_ledger(scored, monkeypatch):
    spec, first = scored
    assert first.config["kind"] == "mse"
    assert first.images_forward == 16
    assert first.layers == ("conv1", "conv2", "conv3", "fc1", "fc2")
    monkeypatch.setattr("bitfront.models.sensitivity.compute_scores", never)
    (second,) = compute_study_scores(spec, [MSE])
    np.testing.assert_array_equal(second.values, first.values)
    assert second.wall_s == first.wall_s


def test_solving_runs_no_network_and_finds_the_best_of_all(scored, monkeypatch):
    spec, scores = scored
    monkeypatch.setattr("bitfront.models.quantized.QuantizedModel.forward", never)
    monkeypatch.setattr("bitfront.models.sensitivity.compute_scores", never)
    solved = solve_study(spec, {"energy": 0.5, "mean_weight_bits": 5}, MSE)
    from bitfront.studies.workload import prepare

    prepared = prepare(spec)
    pairs = scores.monotone().pairs()

    def predicted(allocation):
        bits = zip(allocation.weights, allocation.activations, strict=True)
        return sum(pairs[i, w, a] for i, (w, a) in enumerate(bits))

    rng = np.random.default_rng(0)
    for _ in range(300):
        allocation = prepared.space.sample(rng)
        if prepared.pricing.allows(allocation, {"energy": 0.5, "mean_weight_bits": 5}):
            assert predicted(allocation) >= solved.solution.score - 1e-12
    assert solved.solution.status == "optimal"
    assert solved.solution.score == pytest.approx(predicted(solved.solution.allocation))
    assert solved.costs["energy"] == prepared.pricing.price(solved.solution.allocation) <= 0.5
    assert solved.costs["mean_weight_bits"] <= 5
    values = json.loads(json.dumps(solved.to_dict(), allow_nan=False))
    assert BitAllocation.from_dict(values["allocation"]) == solved.solution.allocation
    assert set(values["costs"]) >= {"energy", "size", "bops"}


def test_a_file_serves_as_well_as_the_ledger_even_with_no_ledger_there(scored, tmp_path):
    spec, scores = scored
    scores.save(tmp_path / "mse.json")
    expected = solve_study(spec, {"energy": 0.5}, MSE)
    (spec.folder / LEDGER_FILE).unlink()
    found = solve_study(spec, {"energy": 0.5}, tmp_path / "mse.json")
    assert found.solution.allocation == expected.solution.allocation
    assert found.kind == "mse"


def test_scores_as_measured_may_let_fewer_bits_look_better(scored, tmp_path):
    spec, scores = scored
    values = scores.values.copy()
    row = scores.layers.index("conv2")
    values[row, 0, 3] = values[row, 0, 8] / 2  # noise
    replace(scores, values=values).save(tmp_path / "noisy.json")
    raw, lowered = (
        solve_study(spec, {}, tmp_path / "noisy.json", monotone=flag).solution
        for flag in (False, True)
    )
    assert raw.allocation.weights[row] == 3
    assert lowered.score <= raw.score


def test_missing_scores_name_the_command_that_computes_them(tiny_study, monkeypatch):
    spec = tiny_study()
    with monkeypatch.context() as patched:  # without a ledger the network need not be prepared
        patched.setattr("bitfront.studies.scoring.prepare", never)
        with pytest.raises(StudyError, match=r"bitfront scores STUDY --kind fisher$"):
            solve_study(spec, {}, ScoreConfig(kind="fisher"))
    compute_study_scores(spec, [MSE])
    with pytest.raises(StudyError, match=r"no mse scores .* --kind mse --images 8$"):
        solve_study(spec, {}, replace(MSE, images=8))


def altered(scores: Scores, how: str) -> Scores:
    if how == "layers":
        return replace(scores, layers=("conv1", "conv2", "conv9", "fc1", "fc2"))
    if how == "widths":
        values = scores.values.copy()
        values[1, 0, 3] = np.nan
        return replace(scores, values=values)
    if how == "count":
        return replace(scores, layers=scores.layers[:4], values=scores.values[:4])
    return replace(scores, config={**scores.config, "images": 99})


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("layers", "of another network: there is layer 'conv9' where this one has 'conv3'"),
        ("count", "of another network: it has 4 layers and this one 5"),
        (
            "widths",
            r"of another space: conv2\.weight is scored at 2, 4, 5, 6, 7, 8 bits and",
        ),
        ("settings", "of other weights, other images, another quantizer or another version"),
    ],
)
def test_scores_of_something_else_are_refused_with_the_reason(scored, tmp_path, how, reason):
    spec, scores = scored
    altered(scores, how).save(tmp_path / "other.json")
    with pytest.raises(StudyError, match=rf"other\.json are {reason}"):
        solve_study(spec, {}, tmp_path / "other.json")


def test_scores_of_the_same_network_on_other_images_are_refused(scored, tiny_study, tmp_path):
    _, scores = scored
    scores.save(tmp_path / "mse.json")
    other = tiny_study({("data", "seed"): 1, ("model", "train", "epochs"): 1})
    with pytest.raises(StudyError, match="of other weights, other images"):
        solve_study(other, {}, tmp_path / "mse.json")


@pytest.mark.parametrize(
    ("limits", "kind", "words"),
    [
        ({"energy": 0.01}, InfeasibleError, "no allocation has energy <= 0.01"),
        ({"energy:bitfusion": 1.0}, StudyError, "the study does not name"),
        ({"accuracy": 0.9}, StudyError, "cannot limit 'accuracy'"),
    ],
)
def test_what_cannot_be_solved_says_why(scored, limits, kind, words):
    with pytest.raises(kind, match=words):
        solve_study(scored[0], limits, MSE)


def test_the_solver_is_given_its_time(scored, monkeypatch):
    from bitfront.searchers.additive import AdditiveModel

    given = []
    solve = AdditiveModel.solve
    monkeypatch.setattr(
        AdditiveModel, "solve", lambda *a, **options: given.append(options) or solve(*a, **options)
    )
    solve_study(scored[0], {}, MSE, time_limit_s=7.0)
    assert given == [{"time_limit_s": 7.0}]


def test_a_folder_that_cannot_be_written_is_one_sentence(tiny_study):
    Path("taken").write_text("a file")
    with pytest.raises(StudyError, match="cannot write the study's folder taken"):
        compute_study_scores(tiny_study({("output",): "taken"}), [MSE])
