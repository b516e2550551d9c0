"""When a level is left, and when it is taken again, by outcomes alone."""

import numpy as np
import pytest

from bitfront.models.runtime.guardrail import Expected, Guardrail, GuardSettings
from bitfront.spaces import ModelError

EXPECTED = (Expected(1000, {"agreement": 60, "accuracy": 80}),) * 2
HIGH = 2


def guardrail(**settings) -> Guardrail:
    signals = settings.pop("signals", ("accuracy",))
    return Guardrail(GuardSettings(signals=signals, **settings), EXPECTED)


def run(guard: Guardrail, bad, floor: int = 0, start: int = 0) -> list[tuple[int, int]]:
    """Let every input be bad or not at the level in force, and be tried below every 8th time."""
    moves = []
    for number, is_bad in enumerate(bad, start):
        guard.observe(floor, {"accuracy": bool(is_bad)} if floor < HIGH else {})
        if floor > 0 and (number + 1) % guard.settings.check_every == 0:
            guard.observe(floor - 1, {"accuracy": bool(is_bad)})
        if move := guard.decide(floor):
            guard.moved(floor, move.to, number + 1)
            floor = move.to
            moves.append((number + 1, floor))
    return moves


def test_a_level_that_is_as_measured_is_practically_never_left():
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert run(guardrail(), rng.random(10_000) < 0.08) == []


@pytest.mark.parametrize("share", [0.3, 0.4, 0.8])
def test_a_drop_is_found_within_256_inputs(share):
    rng = np.random.default_rng(1)
    for _ in range(20):
        guard = guardrail()
        assert run(guard, rng.random(2000) < 0.08) == []
        moves = run(guard, rng.random(256) < share, start=2000)
        assert moves and moves[0][1] == HIGH


def test_a_small_drop_that_lasts_is_found_and_a_clean_stream_left_alone():
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        expected = [Expected(4000, {"accuracy": int(rng.binomial(4000, 0.02))})]
        bad = np.concatenate([rng.random(10_000) < 0.02, rng.random(3000) < 0.06])
        guard = Guardrail(GuardSettings(signals=("accuracy",)), expected)
        found.append(leaves(guard, bad))
    assert all(number is not None and number > 10_000 for number in found)
    assert np.median(found) < 11_500


def leaves(guard: Guardrail, bad) -> int | None:
    """Return after how many inputs the lowest level is left."""
    for number, is_bad in enumerate(bad, 1):
        guard.observe(0, {"accuracy": bool(is_bad)})
        if guard.decide(0):
            return number
    return None


def test_a_long_stretch_is_judged_as_rarely_as_it_is_longer():
    settings = GuardSettings(window=64, memory=250)
    assert settings.lengths == (8, 16, 32, 64)
    assert settings.long_lengths == (128, 250)
    for short in (0, 63, 64):
        assert GuardSettings(window=64, memory=short).long_lengths == ()


def test_a_lasting_small_drop_does_not_let_the_level_flap():
    rng = np.random.default_rng(6)
    guard = guardrail()
    moves = run(guard, rng.random(60_000) < 0.2)
    assert 1 <= sum(level == HIGH for _, level in moves) <= 6
    assert all(number < 40_000 for number, _ in moves)


def test_a_level_that_only_fails_is_left_after_eight_inputs():
    assert run(guardrail(), np.ones(20))[0] == (8, HIGH)


def test_a_drop_within_the_tolerance_is_none():
    rng = np.random.default_rng(2)
    assert run(guardrail(tolerance=0.1), rng.random(10_000) < 0.16) == []


def test_it_returns_step_by_step_after_patience():
    moves = run(guardrail(patience=16), np.zeros(1000), floor=HIGH)
    assert moves == [(128, 1), (256, 0)]


def test_it_stays_high_while_the_level_below_is_bad_and_returns_after():
    rng = np.random.default_rng(3)
    guard = guardrail()
    bad = np.concatenate([rng.random(2000) < 0.7, rng.random(2000) < 0.08])
    moves = run(guard, bad, floor=HIGH)
    assert [level for _, level in moves] == [1, 0]
    assert 2000 < moves[0][0] <= 3000


def test_patience_doubles_when_a_level_is_left_soon_and_is_bounded():
    guard = guardrail(patience=8, max_patience=32)
    seen = []
    for number in range(0, 400, 100):
        guard.moved(HIGH, 1, number)
        guard.moved(1, HIGH, number + 50)
        seen.append(guard.patience)
    assert seen == [16, 32, 32, 32]
    guard.moved(HIGH, 1, 500)
    guard.moved(1, HIGH, 500 + 1024 * 8 + 1)
    assert guard.patience == 8


def test_one_signal_is_enough_to_leave_and_all_are_needed_to_return():
    guard = guardrail(signals=("agreement", "accuracy"), patience=8)
    for _ in range(8):
        guard.observe(0, {"agreement": True, "accuracy": False})
    move = guard.decide(0)
    assert move is not None and move.to == HIGH
    assert move.reason == "agreement 0.000 over the last 8 checked inputs, 0.940 expected"
    guard.moved(0, HIGH, 8)
    for _ in range(8):
        guard.observe(1, {"accuracy": False})
    assert guard.decide(HIGH) is None
    for _ in range(8):
        guard.observe(1, {"agreement": False})
    move = guard.decide(HIGH)
    assert move is not None and move.to == 1


def test_the_share_of_late_is_over_the_last_window():
    guard = guardrail(window=8)
    assert guard.good_share(0, "accuracy") == (None, 0)
    for bad in [True] * 8 + [False] * 6 + [True] * 2:
        guard.observe(0, {"accuracy": bad})
    assert guard.good_share(0, "accuracy") == (0.75, 8)


def test_counts_stay_right_over_a_long_time():
    guard = guardrail(window=16, patience=16, max_patience=32)
    rng = np.random.default_rng(4)
    bad = rng.random(1000) < 0.3
    for outcome in bad:
        guard.observe(0, {"accuracy": bool(outcome)})
    assert guard.good_share(0, "accuracy") == (1 - bad[-16:].mean(), 16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"signals": ()}, "watches some of agreement, accuracy, confidence"),
        ({"signals": ("speed",)}, "watches some of"),
        ({"signals": ("accuracy", "accuracy")}, "watches some of"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"window": 4}, "window is at least 8"),
        ({"memory": -1}, "memory is at least 0"),
        ({"check_every": 0}, "check_every"),
        ({"sigmas": 0.0}, "sigmas"),
        ({"patience": 10, "max_patience": 5}, "max_patience"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ModelError, match=said):
        GuardSettings(**settings)


def test_accuracy_cannot_be_watched_without_labels():
    expected = [Expected(100, {"agreement": 3})]
    with pytest.raises(ModelError, match="accuracy was not measured at set-up: labels are needed"):
        Guardrail(GuardSettings(signals=("accuracy",)), expected)
