"""Strategies that train: what they get, what becomes of what they hand over."""

from pathlib import Path

import pytest

from bitfront.studies.networks import NETWORKS_FOLDER
from bitfront.studies.result import StudyResult
from bitfront.studies.runner import measure_study

TRAINERS = Path(__file__).parent.parent / "searchers" / "trainers.py"
STUDY = {
    ("budgets", "evaluations"): 5,
    ("seeds",): [0],
}


@pytest.fixture
def training_study(tiny_study, monkeypatch):
    """Return a factory of specs with a strategy that trains."""
    monkeypatch.syspath_prepend(TRAINERS.parent)

    def load(strategies=({"name": "trainers:Stepping"},), **execution):
        keys = {("execution", key): value for key, value in execution.items()}
        return tiny_study({**STUDY, ("strategies",): list(strategies), **keys})

    return load


def networks(spec):
    """The digests of the trained networks in a study's folder."""
    return {path.stem for path in (spec.folder / NETWORKS_FOLDER).glob("*")}


def test_what_is_trained_is_measured_with_its_network_on_both_splits(training_study):
    spec = training_study()
    result = measure_study(spec)
    (trial,) = result.trials
    assert (trial.status, trial.evaluations) == ("done", 3)
    assert (trial.images_forward, trial.images_backward) == (3 * 40 + 3 * 32, 3 * 32)
    digests = {point.search.network for point in result.points}
    assert None not in digests and digests == networks(spec)
    for point in result.points:
        assert not point.test.failed
        assert point.test.network == point.search.network
        assert point.test.samples == 50
    assert StudyResult.load(spec.folder) == result
