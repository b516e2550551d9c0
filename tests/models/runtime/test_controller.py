"""The controller: what it answers, when it changes the level, and that nothing stops it."""

import errno
import os
import warnings

import numpy as np
import pytest
import torch

from bitfront.models.runtime.audit import AuditError, AuditLog, read_audit, replay
from bitfront.models.runtime.controller import PrecisionController
from bitfront.models.runtime.guardrail import Guardrail, GuardSettings
from bitfront.models.runtime.journal import ControllerWarning
from bitfront.models.runtime.levels import Level
from bitfront.models.runtime.policy import ConfidencePolicy
from bitfront.spaces import BitAllocation, ModelError
from tests.models.runtime.toy import CLASSES, FAILS, NOT_FINITE, inputs, toy_levels

SET_UP = inputs(1000, seed=0)


class Clock:
    """One second an event."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def make(path):
    """Return a factory of calibrated controllers, closed at the end."""
    made = []

    def factory(*, levels=None, calibrated=True, logged=True, signals=("agreement",), **settings):
        policy = settings.pop("policy", None)
        clock = settings.pop("clock", Clock())
        controller = PrecisionController(
            levels or toy_levels(),
            classes=CLASSES,
            policy=policy,
            guardrail=GuardSettings(signals=signals, **settings),
            audit=AuditLog(path) if logged else None,
            clock=clock,
        )
        made.append(controller)
        if calibrated:
            controller.calibrate([SET_UP])
        return controller

    yield factory
    for controller in made:
        controller.close()


def serve(controller, x, labels=None, batch: int = 64):
    return [
        controller(x[at : at + batch], None if labels is None else labels[at : at + batch])
        for at in range(0, len(x), batch)
    ]


def joined(answers, name):
    return np.concatenate([np.asarray(getattr(answer, name)) for answer in answers])


def stream(shift_from: int, shift_to: int, count: int, hard: float = 0.6):
    parts = [
        inputs(shift_from, seed=1),
        inputs(shift_to - shift_from, seed=2, hard=hard),
        inputs(count - shift_to, seed=3),
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def happened(path, event="switch"):
    return [one for one in read_audit(path).events if one["event"] == event]


# What it answers


def test_it_answers_at_the_highest_level_until_it_is_calibrated(make):
    controller = make(calibrated=False)
    x, labels = inputs(20, seed=1)
    answer = controller(x)
    assert answer.level.tolist() == [2] * 20
    assert torch.equal(answer.logits.argmax(dim=1), labels)
    assert answer.energy.tolist() == [1.0] * 20
    controller.calibrate([SET_UP])
    assert controller(x).level.tolist() == [0] * 20
    assert controller.states == ["high"] * 20 + ["low"] * 20


def test_every_8th_input_is_run_in_the_shadow_and_paid_for(make):
    answer = make()(inputs(24, seed=1)[0])
    assert answer.energy.tolist() == [0.5] * 24
    assert answer.shadow_energy.tolist() == ([0.0] * 7 + [1.0]) * 3


def test_confidence_asks_higher_levels_and_adds_up_what_ran(make):
    policy = ConfidencePolicy(3, decision_energy=0.01)
    controller = make(policy=policy, check_every=1000)
    answer = controller(torch.tensor([[3.0, 0.2, 0.0], [3.0, 0.7, 0.0], [3.0, 1.35, 0.0]]))
    assert answer.level.tolist() == [0, 1, 2]  # sure, in between, unsure
    assert answer.energy == pytest.approx([0.51, 1.27, 1.51])
    assert answer.floor.tolist() == [0] * 3


def test_no_inputs_are_answered_with_nothing(make):
    answer = make()(torch.zeros(0, 3))
    assert answer.logits.shape == (0, CLASSES) and len(answer.level) == 0


@pytest.mark.parametrize("policy", [None, ConfidencePolicy(3)])
def test_a_batch_gives_what_its_inputs_give_one_by_one(make, policy):
    x, labels = stream(200, 400, 700)
    signals = ("agreement", "accuracy", "confidence")
    found = []
    for batch in (1, 7, 300, 700):
        controller = make(policy=policy, signals=signals, logged=False, patience=8)
        found.append((serve(controller, x, labels, batch), controller.history))
    assert any(level == 2 for _, level in found[0][1][1:])
    for answers, history in found[1:]:
        assert history == found[0][1]
        for name in ("logits", "level", "floor", "energy", "shadow_energy"):
            assert np.array_equal(joined(answers, name), joined(found[0][0], name)), name


# The guardrail


@pytest.mark.parametrize("signals", [("agreement",), ("accuracy",), ("confidence",)])
def test_it_rolls_back_under_a_shift_and_returns_after_it(make, path, signals):
    controller = make(signals=signals)
    x, labels = stream(2000, 3000, 5000)
    answers = serve(controller, x, labels)
    controller.close()
    first, rolled_back, *rest = happened(path)
    assert (first["from"], first["to"], first["input"]) == ("high", "low", 0)
    assert (rolled_back["from"], rolled_back["to"]) == ("low", "high")
    assert 2000 < rolled_back["input"] <= 2256
    assert rolled_back["reason"].startswith(signals[0])
    assert rolled_back["energy_before"] == 0.5 and rolled_back["energy_after"] == 1.0
    assert rolled_back["energy_pj_before"] == 32.0 and rolled_back["energy_pj_after"] == 64.0
    assert rolled_back["accuracy_before"] < 0.95
    assert rolled_back["layers"] == 1
    assert [event["to"] for event in rest][-2:] == ["mid", "low"]
    assert rest[-1]["input"] > 3000
    trail = read_audit(path)
    assert replay(trail.events) == controller.states
    names = [level.name for level in controller.levels]
    assert [names[floor] for floor in joined(answers, "floor")] == controller.states
    assert trail.events[-1] | {"event": "stop", "input": 5000} == trail.events[-1]


def test_it_stays_low_on_a_clean_stream(make):
    controller = make(signals=("agreement", "accuracy", "confidence"))
    serve(controller, *inputs(10_000, seed=5), batch=1000)
    assert controller.history == [(0, 2), (0, 0)]


def test_decisions_do_not_depend_on_inputs_that_come_later(make):
    x, labels = stream(200, 600, 1000)
    controller = make(logged=False)
    serve(controller, x, labels, batch=1000)
    other = make(logged=False)
    serve(other, x[:450], labels[:450], batch=450)
    assert other.states == controller.states[:450]


def sometimes_differing(count: int, seed: int, differing: float):
    """Return inputs (class of low, class of high, low is sure); it is unsure of three in ten."""
    rng = np.random.default_rng(seed)
    columns = [rng.random(count) < differing, np.zeros(count), rng.random(count) >= 0.3]
    return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)


def sure_levels():
    """Return two levels of which the lower one is sure of what the other contradicts."""

    def low(x):
        return torch.nn.functional.one_hot(x[:, 0].long(), CLASSES) * (1 + 9 * x[:, 2:])

    def high(x):
        return torch.nn.functional.one_hot(x[:, 1].long(), CLASSES) * 10.0

    widths = (BitAllocation(["a"], [width], [width]) for width in (4, 8))
    return [
        Level(name, allocation, energy, None, run)
        for name, allocation, energy, run in zip(
            ("low", "high"), widths, (0.5, 1.0), (low, high), strict=True
        )
    ]


def test_what_the_policy_escalates_does_not_hide_that_the_rest_disagrees(make):
    """It agrees trivially, and there is more of it than is checked."""
    clean, shifted = sometimes_differing(6400, 1, 0.06), sometimes_differing(6400, 2, 0.2)
    histories = []
    for batch in (64, 1000):
        controller = make(
            levels=sure_levels(), calibrated=False, logged=False, policy=ConfidencePolicy(2)
        )
        controller.calibrate([(sometimes_differing(2000, 0, 0.06), None)])
        serve(controller, clean, batch=batch)
        assert controller.history == [(0, 1), (0, 0)]
        serve(controller, shifted, batch=batch)
        histories.append(controller.history)
    assert histories[0] == histories[1]
    assert histories[0][2][1] == 1 and histories[0][2][0] < 6400 + 4000


def test_agreement_is_known_of_regularly_checked_inputs_only(make, path):
    controller = make(levels=sure_levels(), calibrated=False, policy=ConfidencePolicy(2))
    controller.calibrate([(sometimes_differing(2000, 0, 0.06), None)])
    x = sometimes_differing(160, 1, 0.06)
    serve(controller, x, batch=10)
    controller.roll_back("asked for")
    checked = x[7::8]
    differs = (checked[:, 0] != checked[:, 1]) & (checked[:, 2] == 1)
    switch = happened(path)[-1]
    assert switch["agreement_before_inputs"] == 20
    assert switch["agreement_before"] == pytest.approx(1 - differs.float().mean().item())


def test_a_level_that_is_always_wrong_is_refused_at_set_up(make):
    controller = make(calibrated=False)
    x, labels = inputs(50, seed=1, hard=0.0)
    with pytest.raises(ModelError, match="level 'low' is wrong on all 50 labelled inputs"):
        controller.calibrate([(x, (labels + 1) % CLASSES)])
    assert controller.floor == 2


def test_labels_that_are_not_known_are_left_out(make):
    controller = make(signals=("accuracy",))
    x, labels = inputs(500, seed=4)
    labels[::2] = -1
    serve(controller, x, labels)
    assert controller.floor == 0


def test_the_log_begins_with_versions_levels_and_settings(make, path):
    make(policy=ConfidencePolicy(3)).close()
    start = read_audit(path).events[0]
    assert start["event"] == "start" and start["to"] == "high"
    assert set(start["versions"]) == {"bitfront", "torch", "python"}
    assert [level["name"] for level in start["levels"]] == ["low", "mid", "high"]
    assert start["levels"][0]["allocation"] == {"a": {"weight": 4, "activation": 4}}
    assert start["policy"]["thresholds"] == [0.9, 0.6]
    assert start["guardrail"]["tolerance"] == 0.007
    assert start["time"] == "1970-01-01T00:00:01.000+00:00"
    (switch,) = happened(path)
    assert switch["set_up_inputs"] == 1000
    assert 0.9 < switch["agreement_after_at_set_up"] <= 1
    assert switch["agreement_before_at_set_up"] == 1
    assert switch["agreement_after"] is None


def test_a_second_controller_continues_the_log(make, path):
    make().close()
    make().close()
    trail = read_audit(path)
    assert [event["event"] for event in trail.events] == ["start", "switch", "stop"] * 2


def test_set_up_says_what_is_missing(make):
    with pytest.raises(ModelError, match="accuracy was not measured at set-up: labels are needed"):
        make(signals=("accuracy",), calibrated=False).calibrate([(SET_UP[0], None)])
    with pytest.raises(ModelError, match="at least one batch"):
        make(calibrated=False, logged=False).calibrate([])
    x = inputs(10, seed=1, what=FAILS)[0]
    with pytest.raises(ModelError, match="'low' failed at set-up: RuntimeError: low fails"):
        make(calibrated=False, logged=False).calibrate([(x, None)])


# Nothing stops it


@pytest.mark.parametrize("kind", [FAILS, NOT_FINITE])
def test_an_input_that_a_level_fails_on_is_answered_by_the_highest(make, path, kind):
    controller = make()
    x, labels = inputs(100, seed=1)
    x[40, 2] = kind + 1
    answer = controller(x, labels)
    assert answer.level.tolist() == [0] * 40 + [2] * 60
    assert answer.floor.tolist() == [0] * 41 + [2] * 59
    assert answer.energy[40] == 1.5
    assert torch.isfinite(answer.logits).all()
    switch = happened(path)[-1]
    assert switch["input"] == 41 and switch["reason"].startswith("level low failed: ")
    (failure,) = happened(path, "failure")
    assert failure["input"] == 40 and failure["what"] == "level low"


def test_an_input_that_everything_fails_on_is_answered_with_nan(make, path):
    controller = make()
    x, labels = inputs(100, seed=1)
    x[40, 2] = FAILS + 2
    answer = controller(x, labels)
    assert torch.isnan(answer.logits[40]).all()
    assert torch.isfinite(answer.logits[torch.arange(100) != 40]).all()
    assert answer.level.tolist() == [0] * 40 + [2] + [0] * 59  # it says nothing of the level
    assert happened(path, "failure")[0]["what"] == "level high"


def test_a_level_that_is_broken_is_not_taken_again(make, path):
    controller = make()
    x, labels = inputs(4000, seed=1, what=FAILS + 1)
    answers = serve(controller, x, labels)
    assert set(joined(answers, "level")[1:]) == {2}
    assert len(happened(path, "failure")) < 15  # of hundreds


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(4, 2),
        torch.zeros(4, 3, dtype=torch.complex64),
        torch.full((4, 3), torch.nan),
        torch.tensor(1.0),
        "a string",
        None,
    ],
)
def test_inputs_that_make_no_sense_do_not_stop_it(make, x):
    controller = make()
    answer = controller(x)
    assert answer.logits.shape[1] == CLASSES
    assert controller.inputs == len(answer.logits)
    assert len(controller.states) == controller.inputs
    good, labels = inputs(8, seed=1)
    assert torch.equal(controller(good).logits.argmax(dim=1), labels)


@pytest.mark.parametrize(
    "labels", [torch.zeros(3), torch.zeros(8, 2), "labels", torch.full((8,), torch.nan)]
)
def test_labels_that_make_no_sense_do_not_stop_it(make, labels):
    x, expected = inputs(8, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NaN as a label
        answer = make()(x, labels)
    assert torch.equal(answer.logits.argmax(dim=1), expected)


def test_missing_labels_mean_high_precision_where_accuracy_is_watched(make, path):
    controller = make(signals=("accuracy",), patience=8)
    x, labels = inputs(400, seed=1)
    answers = serve(controller, x)
    assert joined(answers, "floor").tolist() == [0] + [2] * 399
    assert happened(path)[-1]["reason"] == "accuracy is watched and there are no labels"
    serve(controller, x, labels)
    assert controller.floor == 0


class Broken:
    """A policy that fails, or names levels that there are not."""

    decision_energy = 0.0

    def __init__(self, found=None):
        self.found = found
        self.asked = 0

    def next_levels(self, logits, level):
        self.asked += 1
        if self.asked <= 2:  # set-up goes well
            return np.full(len(logits), level)
        if self.found is None:
            raise RuntimeError("no idea")
        return np.full(len(logits), self.found)

    def to_dict(self):
        return {"name": "broken"}


@pytest.mark.parametrize("found", [None, -1, 3, "level"])
def test_a_policy_that_fails_means_high_precision(make, path, found):
    controller = make(policy=Broken(found))
    x, labels = inputs(600, seed=1)
    answers = serve(controller, x, labels)
    assert set(joined(answers, "level")) == {2}
    assert happened(path)[-1]["reason"].startswith("the policy failed: ")
    assert replay(read_audit(path).events, inputs=600) == controller.states


@pytest.mark.parametrize("method", ["observe", "decide", "moved", "good_share"])
def test_a_guardrail_that_fails_means_high_precision(make, path, monkeypatch, method):
    controller = make()

    def fail(*_):
        raise RuntimeError("no idea")

    monkeypatch.setattr(Guardrail, method, fail)
    x, labels = stream(200, 600, 800)
    answers = serve(controller, x, labels)
    assert torch.isfinite(torch.from_numpy(joined(answers, "logits"))).all()
    assert controller.floor == 2
    assert replay(read_audit(path).events, inputs=800) == controller.states


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_means_high_precision_one_warning_and_a_gap_that_is_told(
    make, path, monkeypatch
):
    controller = make(patience=8)
    x, labels = stream(400, 800, 4000)
    serve(controller, x[:400], labels[:400])
    monkeypatch.setattr(os, "write", full)
    with pytest.warns(ControllerWarning, match="No space left") as caught:
        serve(controller, x[400:2000], labels[400:2000])
    assert len(caught) == 1
    assert controller.floor == 2
    monkeypatch.undo()
    serve(controller, x[2000:], labels[2000:])
    assert controller.floor == 0
    (gap,) = happened(path, "gap")
    assert gap["lost"] > 1 and gap["to"] == "high"
    controller.close()
    assert replay(read_audit(path).events) == controller.states


def test_a_log_that_was_closed_means_high_precision_even_where_warnings_are_errors(path):
    log = AuditLog(path)
    controller = PrecisionController(toy_levels(), classes=CLASSES, audit=log)
    controller.calibrate([SET_UP])
    log.close()
    x, labels = stream(100, 500, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = serve(controller, x, labels)
    assert controller.floor == 2
    assert torch.isfinite(torch.from_numpy(joined(answers, "logits"))).all()


def test_a_log_that_cannot_be_begun_is_refused(path, monkeypatch):
    log = AuditLog(path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AuditError, match="cannot be written: OSError"):
        PrecisionController(toy_levels(), classes=CLASSES, audit=log)
    log.close()


def test_a_clock_that_fails_means_high_precision(make):
    class Stopping(Clock):
        def __call__(self) -> float:
            if self.now >= 2:
                raise RuntimeError("no time")
            return super().__call__()

    controller = make(clock=Stopping())
    with pytest.warns(ControllerWarning, match="no time"):
        serve(controller, *stream(200, 600, 800))
        controller.close()
    assert controller.floor == 2


def test_changes_by_hand_are_written_down(make, path):
    controller = make()
    controller.roll_back("asked for")
    controller.roll_back("again")
    assert controller.floor == 2
    assert controller.step_down(1, "down")
    assert not controller.step_down(1, "there already")
    assert not controller.step_down(-1, "no such level")
    assert controller.floor == 1
    assert [event["reason"] for event in happened(path)][1:] == ["asked for", "down"]


def test_two_levels_will_do(make):
    controller = make(levels=toy_levels(2))
    serve(controller, *stream(500, 900, 1200))
    assert [level for _, level in controller.history[:3]] == [1, 0, 1]
