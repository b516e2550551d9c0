"""The ready study on published weights, cut to a subset of its images and evaluations."""

import os

import pytest

from bitfront.models.locate import resolve_checkpoint
from bitfront.spaces import ModelError
from bitfront.studies.runner import measure_study
from bitfront.studies.spec import StudySpec

STUDY = "cifar10-resnet20"
IMAGES = 1000


@pytest.mark.slow
def test_published_weights_give_their_accuracy_and_the_fronts_beside_it(tmp_path):
    if not os.environ.get("BITFRONT_DATA"):
        pytest.skip("needs CIFAR-10: set BITFRONT_DATA")
    try:
        resolve_checkpoint("cifar10_resnet20.safetensors")
    except ModelError as error:
        pytest.skip(str(error))
    smaller = {
        ("data", "test_images"): IMAGES,
        ("data", "search_images"): 250,
        ("budgets",): {"evaluations": 6},
        ("seeds",): [0],
        ("execution", "workers"): 0,
        ("output",): str(tmp_path),
    }
    result = measure_study(StudySpec.load(STUDY, smaller))
    # 91.73 % is published for all 10,000 images; the subset has a standard error of 0.9 points.
    assert result.float_test.samples == IMAGES
    assert result.float_test.accuracy == pytest.approx(0.9173, abs=0.02)
    uniform = {
        round(point.search.mean_weight_bits): point.search.accuracy
        for point in result.points
        if point.strategy == "uniform"
    }
    # Uniform 8 and 6 bits are as good as float there; 6 may dominate 8, and then 8 is no finalist.
    assert {4, 6} <= set(uniform)
    assert uniform[4] < uniform[6]
    assert uniform[6] == pytest.approx(result.float_search.accuracy, abs=0.02)
    percentile = [point.test for point in result.points if point.strategy == "percentile"]
    assert any(m.accuracy > 0.88 and m.energy_vs_w8a8 < 0.7 for m in percentile)
    assert all(not trial.error for trial in result.trials)
