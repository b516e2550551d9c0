"""The ready studies: complete, explained, and right about their networks."""

import re
from pathlib import Path

import pytest
import yaml

from bitfront.models import build_model
from bitfront.models.profile import profile
from bitfront.spaces import BitfrontError
from bitfront.studies import StudySpec, library_studies
from bitfront.studies.checks import price_space
from bitfront.studies.fast import FAST
from bitfront.studies.find import LIBRARY, read_study
from bitfront.studies.yaml_lines import read_yaml

EXPECTED = {
    # input shape, classes, quantizable layers
    "quickstart": ((1, 8, 8), 10, 5),
    "mnist-cnn5": ((1, 28, 28), 10, 5),
    # patch embedding, 5 blocks of qkv, 2 matmuls, projection, 2 MLP layers, and the head
    "mnist-vit": ((1, 28, 28), 10, 1 + 5 * 6 + 1),
    "eqat-mnist": ((1, 28, 28), 10, 5),
    "dynamic-mnist": ((1, 28, 28), 10, 5),
    "dynamic-cifar10": ((3, 32, 32), 10, 20),
    "eqat-cifar10": ((3, 32, 32), 10, 20),
    "eqat-cifar100": ((3, 32, 32), 100, 1 + 8 * 2 + 3 + 1),
    "cifar10-resnet20": ((3, 32, 32), 10, 20),
    "cifar10-resnet20-channels": ((3, 32, 32), 10, 20),
    "cifar10-resnet20-learned": ((3, 32, 32), 10, 20),
    "cifar10-resnet20-strategies": ((3, 32, 32), 10, 20),
    "cifar10-resnet20-weights": ((3, 32, 32), 10, 20),
    # stem, 8 blocks of 2, 3 downsampling ones, the head
    "cifar100-resnet18": ((3, 32, 32), 100, 1 + 8 * 2 + 3 + 1),
    # stem, a block without expansion, blocks of 3, head convolution, classifier
    "imagenet-efficientnet-lite0": ((3, 224, 224), 1000, 1 + 2 + 15 * 3 + 1 + 1),
    "imagenet-efficientnet-lite0-strategies": ((3, 224, 224), 1000, 1 + 2 + 15 * 3 + 1 + 1),
    "imagenet-mobilenetv2-strategies": ((3, 224, 224), 1000, 1 + 2 + 16 * 3 + 1 + 1),
    "mnist-vit-strategies": ((1, 28, 28), 10, 1 + 5 * 6 + 1),
    "imagenet-mobilenetv2": ((3, 224, 224), 1000, 1 + 2 + 16 * 3 + 1 + 1),
    "imagenet-deit-tiny": ((3, 224, 224), 1000, 1 + 12 * 6 + 1),
}


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Folders that hold what the studies name, in name only."""
    data = tmp_path / "data"
    (data / "imagenet_sample/val").mkdir(parents=True)
    weights = tmp_path / "weights"
    weights.mkdir()
    for study in library_studies():
        said = read_yaml(LIBRARY / f"{study}.yaml").value
        for section in (said, said.get(FAST, {})):
            checkpoint = section.get("model", {}).get("checkpoint", "")
            if checkpoint and not checkpoint.startswith("wheel:"):
                (weights / checkpoint).touch()
    monkeypatch.setenv("BITFRONT_DATA", str(data))
    monkeypatch.delenv("BITFRONT_WEIGHTS", raising=False)
    return data


def test_the_library_is_complete():
    assert library_studies() == sorted(EXPECTED)


@pytest.mark.parametrize("study", sorted(EXPECTED))
def test_a_ready_study_is_valid_and_explains_itself(study, files):
    spec = StudySpec.load(study)
    assert spec.study == study
    assert spec.description
    # What all others have to beat: the uniform curve, or training at uniform widths.
    names = [strategy.name for strategy in spec.strategies]
    assert names[0] == "uniform" or "lsq" in names
    assert len(spec.strategies) >= 2
    comment = re.match(r"(# .*\n|#\n)+", (LIBRARY / f"{study}.yaml").read_text())
    assert comment is not None
    for word in ("?", "Needs", "ake"):  # a question, what it needs, what it takes
        assert word in comment.group()
    if spec.data.name != "digits":
        assert "BITFRONT_DATA" in comment.group()


@pytest.mark.parametrize("study", sorted(set(EXPECTED) - {"quickstart"}))
def test_without_data_a_ready_study_says_what_to_set(study, monkeypatch):
    for name in ("BITFRONT_DATA", "BITFRONT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BitfrontError, match=rf"{study}.yaml:\d+: data.*BITFRONT_DATA"):
        StudySpec.load(study)


@pytest.mark.parametrize("study", sorted(EXPECTED))
def test_space_and_prices_suit_the_network(study, files):
    spec = StudySpec.load(study)
    input_shape, classes, layers = EXPECTED[study]
    model = build_model(
        spec.model.name, classes=classes, input_shape=input_shape, kwargs=spec.model.kwargs
    )
    space, pricing = price_space(spec, profile(model, input_shape))
    assert len(space.layers) == layers
    assert space.size > 10**5
    assert pricing.energy.w8a8 < pricing.energy.fp32


WITH_PROFILE = [study for study in sorted(EXPECTED) if FAST in read_study(study).value]


def test_the_studies_that_take_days_have_a_fast_profile():
    assert {"eqat-mnist", "eqat-cifar10", "eqat-cifar100"} <= set(WITH_PROFILE)


@pytest.mark.parametrize("study", WITH_PROFILE)
def test_a_fast_profile_is_valid_and_says_what_it_leaves_out(study, files):
    assert StudySpec.load(study, fast=True).study == f"{study}-fast"
    assert "--fast" in (LIBRARY / f"{study}.yaml").read_text().partition("\nstudy:")[0]


@pytest.mark.parametrize("study", sorted(EXPECTED))
def test_what_a_study_keeps_of_itself_can_be_run_again(study, files, tmp_path):
    spec = StudySpec.load(study)
    kept = tmp_path / "study.yaml"
    kept.write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False))
    assert StudySpec.load(kept).to_dict() == spec.to_dict()
