"""Steering against networks with a formula: layers that lose a 4^-q, learned by Adam."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.searchers.steering import BetaSchedule, BudgetSteering
from bitfront.spaces import StudyError


class Toy:
    """Widths in 2 to 8, sigmoid of theta, of which each loses ``scale a_i 4^-q_i``.

    The gradient of the loss is noisy, several times as large as itself; that of the energy is not.
    """

    def __init__(self, *, scale, noise=3.0, layers=8, seed=0, lr=0.02):
        self.rng = np.random.default_rng(seed)
        self.sensitivity = scale * 10 ** self.rng.uniform(-1.5, 1.5, layers)
        self.share = 10 ** self.rng.uniform(-1, 0, layers)
        self.share /= self.share.sum()
        self.noise, self.lr = noise, lr
        self.theta = np.full(layers, math.log(11))  # 7.5 bits
        self.mean, self.square, self.steps = np.zeros(layers), np.zeros(layers), 0

    @property
    def bits(self):
        return 2 + 6 / (1 + np.exp(-self.theta))

    @property
    def energy(self):
        return float((self.share * (0.7 * self.bits**2 / 64 + 0.3 * self.bits / 8)).sum())

    def step(self, beta, lr):
        bits = self.bits
        slope = self.share * (1.4 * bits / 64 + 0.3 / 8)
        of_loss = -self.sensitivity * math.log(4) * 4.0**-bits
        of_loss = of_loss * (1 + self.noise * self.rng.standard_normal(len(bits)))
        gradient = (of_loss + beta * slope) * (bits - 2) * (8 - bits) / 6
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.999**self.steps)
        self.theta = self.theta - lr * mean / (np.sqrt(square) + 1e-8)


def steered(target, *, steps=600, every=1, falling=True, **toy):
    """Return energies, goals and weights of a steered run."""
    toy, steering = Toy(**toy), BudgetSteering(target)
    rows = []
    for step in range(steps):
        if step % every == 0:
            steering.update(toy.energy, step / steps)
        rows.append((toy.energy, steering.goal(step / steps), steering.beta))
        toy.step(steering.beta, toy.lr * (1 + math.cos(math.pi * falling * step / steps)) / 2)
    return np.array([*rows, (toy.energy, target, steering.beta)]).T


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1, 1.0, 10.0])
@pytest.mark.parametrize("target", [0.3, 0.45, 0.6, 0.8])
def test_the_energy_ends_at_the_target(target, scale):
    for seed in range(2):
        energy, goal, beta = steered(target, scale=scale, seed=seed)
        assert energy[-1] == pytest.approx(target, rel=0.01)
        held = energy[-90:]  # the last 15 %
        assert np.abs(held / target - 1).max() < 0.02
        assert np.abs(energy / goal - 1).max() < 0.12  # it follows, and never falls far below
        assert (beta >= 0).all()


@pytest.mark.parametrize("target", [0.35, 0.7])
@pytest.mark.parametrize(
    "changed",
    [
        {"noise": 0.0},
        {"noise": 10.0},
        {"every": 4},
        {"steps": 250, "lr": 0.06},
        {"steps": 2000, "lr": 0.006},
        {"layers": 50},
        {"layers": 2, "steps": 1000, "lr": 0.012},
        {"falling": False},
    ],
)
def test_it_does_so_under_other_noise_lengths_and_rates(target, changed):
    energy, _, _ = steered(target, **{"scale": 0.1, **changed})
    assert energy[-1] == pytest.approx(target, rel=0.02)


def test_it_does_not_oscillate_without_noise():
    energy, _, beta = steered(0.5, scale=0.1, noise=0.0)
    held = slice(-150, None)  # the last quarter
    assert np.ptp(energy[held]) < 0.003
    assert np.ptp(np.log(beta[held])) < 0.1


def test_the_energy_falls_smoothly():
    energy, _, _ = steered(0.4, scale=0.1, noise=0.0)
    assert np.diff(energy).max() < 0.002
    assert -np.diff(energy).min() < 4 * (energy[0] - 0.4) / (0.6 * 600)


def test_a_target_above_the_start_is_met_from_below():
    energy, _, _ = steered(0.95, scale=0.1)
    assert energy[0] < 0.9
    assert energy[-1] == pytest.approx(0.95, rel=0.01)


def test_a_target_that_cannot_be_met_leaves_the_weight_finite():
    _, _, beta = steered(0.01, scale=0.1, steps=300)
    assert beta.max() <= BudgetSteering.HIGHEST * (1 + 1e-12)


# The rule, by hand


def test_the_goal_falls_along_half_a_cosine_and_stays():
    steering = BudgetSteering(0.5, share=0.5)
    assert steering.goal(0.1) == 0.5
    steering.update(0.9, 0.0)
    at = {0.0: 0.9, 0.25: 0.7, 0.125: 0.7 + 0.2 * math.cos(math.pi / 4), 0.5: 0.5, 1.0: 0.5}
    for progress, goal in at.items():
        assert steering.goal(progress) == pytest.approx(goal)


def test_the_weight_follows_the_relative_error():
    steering = BudgetSteering(0.5, share=0.5, proportional=10, integral=40)
    assert steering.update(1.0, 0.0) == pytest.approx(1e-8)  # as asked: no pressure
    goal = 0.75
    beta = steering.update(0.9, 0.25)
    error = 0.9 / goal - 1
    assert beta == pytest.approx(1e-8 * math.exp(10 * error + 40 * 0.25 * error))
    assert steering.update(0.9, 0.25) == pytest.approx(beta)  # nothing changed, no time passed
    assert steering.update(0.5, 1.0) == pytest.approx(1e-8 * math.exp(10 * error))


@given(progress=st.lists(st.floats(0, 1), max_size=8), cut=st.integers(0, 8))
@settings(max_examples=30)
def test_it_goes_on_from_its_state(progress, cut):
    progress = sorted(progress)
    energies = [0.9 - 0.05 * i for i in range(len(progress))]
    whole, first, second = (BudgetSteering(0.4) for _ in range(3))
    pairs = list(zip(energies, progress, strict=True))
    expected = [whole.update(*pair) for pair in pairs]
    got = [first.update(*pair) for pair in pairs[:cut]]
    second.restore(json.loads(json.dumps(first.to_dict())))
    got += [second.update(*pair) for pair in pairs[cut:]]
    assert got == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "target must be a positive number, got 0"),
        ({"target": math.nan}, "target must be a positive number"),
        ({"target": 0.5, "share": 1.5}, r"share must be in \(0, 1\], got 1.5"),
        ({"target": 0.5, "integral": -1}, "integral must be a positive number"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        BudgetSteering(**settings)


def test_impossible_updates_are_refused():
    steering = BudgetSteering(0.5)
    with pytest.raises(StudyError, match="energy must be a positive number, got nan"):
        steering.update(math.nan, 0.0)
    steering.update(0.9, 0.5)
    with pytest.raises(StudyError, match=r"between 0.5 and 1, got 0.4"):
        steering.update(0.9, 0.4)
    with pytest.raises(StudyError, match=r"has \['error', .*got \['beta'\]"):
        steering.restore({"beta": 1.0})


# The schedule of the paper


def test_the_schedule_is_that_of_algorithm_1():
    schedule = BetaSchedule(beta=0.01, warmup_epochs=4)
    assert [schedule.at(epoch) for epoch in (1, 2, 4, 5, 100)] == pytest.approx(
        [0.0025, 0.005, 0.01, 0.01, 0.01]
    )
    assert BetaSchedule(beta=0.01).at(1) == 0.01


@pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"beta": math.inf}])
def test_a_weight_is_a_number_of_at_least_zero(wrong):
    with pytest.raises(StudyError, match="beta must be a number of at least 0"):
        BetaSchedule(**wrong)
    with pytest.raises(StudyError, match="warmup_epochs must be at least 0, got -1"):
        BetaSchedule(beta=0.1, warmup_epochs=-1)
