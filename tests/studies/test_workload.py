import pickle
from dataclasses import replace

import numpy as np
import pytest

from bitfront.models.config import AdaptationConfig, QuantizerConfig
from bitfront.spaces import StudyError
from bitfront.studies.checks import inspect
from bitfront.studies.faults import InvalidStudyError
from bitfront.studies.workload import prepare


def test_the_network_comes_back_with_its_weights(tiny_workload):
    state = tiny_workload.float_model().state_dict()
    assert state.keys() == tiny_workload.state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), tiny_workload.state[name])


def test_it_works_on_read_only_arrays_as_the_object_store_gives_them(tiny_workload):
    buffers = []
    data = pickle.dumps(tiny_workload, protocol=5, buffer_callback=buffers.append)
    copies = [bytes(buffer) for buffer in buffers]
    shared = pickle.loads(data, buffers=copies)
    assert not next(iter(shared.state.values())).flags.writeable
    assert shared.digest == tiny_workload.digest
    shared.quantized_model()
    # What is large travels beside the pickle, so that processes can share it.
    assert sum(map(len, copies)) >= tiny_workload.size_bytes
    assert len(data) < tiny_workload.size_bytes / 5


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {"batch_size": w.batch_size + 1},
        lambda w: {"engine": "reference"},
        lambda w: {"quantizer": QuantizerConfig(weight_observer="minmax")},
        lambda w: {"state": {name: array + 1 for name, array in w.state.items()}},
        lambda w: {"images": {**w.images, "test": w.images["search"]}},
        lambda w: {"images": w.images | {"calibration": w.images["search"]}},
        lambda w: {"architecture": replace(w.architecture, name="resnet20")},
        lambda w: {"adaptation": AdaptationConfig(method="batch-norm")},
        lambda w: {"fine_tuning": w.images["search"]},
    ],
)
def test_whatever_decides_accuracies_changes_the_digest(tiny_workload, change):
    other = replace(tiny_workload, **change(tiny_workload))
    assert other.digest != tiny_workload.digest


def test_prices_do_not_change_the_digest(tiny_workload):
    assert replace(tiny_workload, energy=None).digest == tiny_workload.digest


def test_what_was_measured_before_there_were_adaptations_keeps_its_name(tiny_workload):
    idle = AdaptationConfig(when="finalists", images=10)
    assert replace(tiny_workload, adaptation=idle).digest == tiny_workload.digest


def test_training_images_are_read_only_to_fine_tune(tiny_study):
    adaptations = ({}, {"method": "batch-norm"}, {"method": "fine-tune", "images": 100})
    plain, normalised, tuned = (
        prepare(tiny_study({("adaptation",): adaptation})).workload for adaptation in adaptations
    )
    assert plain.fine_tuning is normalised.fine_tuning is None
    assert len(tuned.fine_tuning) == 100
    assert tuned.size_bytes > normalised.size_bytes == plain.size_bytes
    assert [len(w.adaptation_images) for w in (normalised, tuned)] == [32, 100]
    assert len({w.digest for w in (plain, normalised, tuned)}) == 3


def test_a_study_is_prepared_with_trained_weights(tiny_study, tmp_path, monkeypatch):
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "empty"))
    events = []
    first = prepare(tiny_study(), events.append)
    assert [event.phase for event in events[:2]] == ["prepare", "train"]
    assert events[-1].done == events[-1].total
    assert first.space.layers == first.workload.layers
    assert len(first.workload.images["search"]) == 40
    # The second time they come from the cache.
    events.clear()
    assert prepare(tiny_study(), events.append).workload.digest == first.workload.digest
    assert [event.phase for event in events] == ["prepare"]


def test_an_impossible_budget_is_refused_before_anything_is_trained(tiny_study, monkeypatch):
    monkeypatch.setattr("bitfront.studies.workload._with_weights", pytest.fail)
    budgets = {("budgets",): {"evaluations": 3, "limits": {"energy": 0.001}}}
    with pytest.raises(StudyError, match="the smallest achievable is"):
        prepare(tiny_study(budgets))


PLAIN = """\
from torch import nn

def plain(classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
"""


@pytest.mark.parametrize("check", [prepare, inspect])
@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("plain_network:plain", 32, "the network has no batch norms to estimate again"),
        ("cnn5", 33, "adaptation.images: 33 images were asked for, but the calibration split has"),
    ],
)
def test_a_network_that_cannot_be_adapted_is_refused(
    tiny_study, tmp_path, monkeypatch, check, model, images, message
):
    (tmp_path / "plain_network.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    adaptation = {"method": "batch-norm", "images": images}
    spec = tiny_study({("adaptation",): adaptation, ("model", "name"): model})
    with pytest.raises(InvalidStudyError, match=message):
        check(spec)
