"""The cascade: what it measures of what, and what it makes of it."""

from dataclasses import replace
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.energy import EnergyModel, load_table, usage_costs
from bitfront.models.dynamic.cascade import confidence, member_logits, route
from bitfront.models.profile import profile
from bitfront.searchers import Cascade, build
from bitfront.searchers.synthetic import AdditiveLandscape
from bitfront.searchers.testing import SearcherConformance, TinyNetwork, tabular_problem
from bitfront.spaces import DynamicAllocation, EnergyTableError, SpaceError, StudyError, Usage

IMAGES = 400
MEMBERS = (3, 8)


class TestCascade(SearcherConformance):
    make = Cascade


class TestCascadeOfThree(SearcherConformance):
    evaluations = 8

    @staticmethod
    def make():
        return Cascade(stages=3, calibrate=False, tolerance=0.05, screen_images=8)


def quadrants(count, seed):
    """Return noise with one quadrant that is brighter, some by much and some by little."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    brighter = torch.zeros(count, 1, 2, 2)
    brighter[torch.arange(count), 0, labels // 2, labels % 2] = 1
    contrast = 0.2 + 1.5 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    return contrast * torch.nn.functional.interpolate(brighter, size=(8, 8)) + noise, labels


@cache
def weights():
    """Return weights that tell quadrants apart, trained in half a second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QuadrantNetwork.architecture()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for step in range(150):
            images, labels = quadrants(64, 100 + step)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.state_dict()


class QuadrantNetwork(TinyNetwork):
    """A tiny network that has learned something, and so is sure of some images only."""

    def __post_init__(self):
        self._model = self.architecture().eval()
        self._model.load_state_dict(weights())
        self._images, self._labels = quadrants(128, 0)
        self.layers = profile(self._model, (1, 8, 8))

    @staticmethod
    def architecture():
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32, 4)),
        )

    def calibration(self):
        return [(self._images, self._labels)]


class Answering:
    """Measures what the network answers to images, as studies do.

    Args:
        evaluator: Says what static allocations cost.
    """

    def __init__(self, evaluator: AdditiveLandscape) -> None:
        self.energy = evaluator.energy
        self.costs = evaluator.measure
        self.logits = {}

    @cached_property
    def network(self):
        return QuadrantNetwork().quantized_model()

    @cached_property
    def batches(self):
        return [quadrants(IMAGES, 1)]

    def answers(self, allocation):
        if allocation not in self.logits:
            self.logits[allocation] = member_logits(self.network, [allocation], self.batches)[0][0]
        return self.logits[allocation]

    def __call__(self, allocations, *, fidelity=1.0, networks=None):
        labels = self.batches[0][1].numpy()
        found = []
        for number, allocation in enumerate(allocations):
            measured = self.costs(allocation, fidelity)
            logits = self.answers(allocation)
            if networks is not None:
                dynamic = networks[number].dynamic
                logits, usage = self.cascade(dynamic)
                costs = usage_costs(self.energy, usage)
                measured = replace(
                    measured,
                    dynamic=usage,
                    network=networks[number].digest,
                    energy_vs_w8a8=costs.energy_vs_w8a8,
                )
            accuracy = float((logits.argmax(axis=1) == labels).mean())
            found.append(replace(measured, accuracy=accuracy, loss=1 - accuracy, samples=IMAGES))
        return found

    def cascade(self, dynamic: DynamicAllocation):
        logits = np.stack([self.answers(member) for member in dynamic.members])
        sure = [
            confidence(mine, temperature)
            for mine, temperature in zip(logits, dynamic.temperatures, strict=False)
        ]
        answered, ran = route(dynamic, sure)
        often = ran.mean(axis=0).tolist()
        shares = tuple(
            tuple(
                (int(member.weights[layer]), int(member.activations[layer]), share)
                for member, share in zip(dynamic.members, often, strict=True)
            )
            for layer in range(len(dynamic.layers))
        )
        usage = Usage(dynamic, IMAGES, shares, ran=tuple(often))
        return logits[answered, np.arange(IMAGES)], usage


def problem_with_answers(**options):
    network = QuadrantNetwork()
    options = {"layers": network.layers, "widths": (2, 3, 4, 8), "wrap": Answering, **options}
    return tabular_problem(model=network, **options)


def cascades(problem):
    return [m for m in problem.history if m.dynamic is not None]


def statics(problem):
    return [m for m in problem.history if m.dynamic is None]


@pytest.fixture(scope="module")
def searched():
    problem = problem_with_answers(evaluations=30)
    Cascade().run(problem)
    return problem


# What is measured


def test_a_third_of_the_budget_is_for_static_allocations_the_reference_first(searched):
    assert len(searched.history) == 30
    assert searched.history[0].allocation == searched.space.uniform(8)
    assert all(m.dynamic is None for m in searched.history[:10])
    assert all(m.dynamic is not None for m in searched.history[10:])


def test_nothing_is_measured_twice(searched):
    asked = [(m.allocation, m.network) for m in searched.history]
    assert len(set(asked)) == len(asked)


def test_the_published_threshold_is_tried_first(searched):
    first, *others = cascades(searched)
    assert first.dynamic.allocation.thresholds == (0.9,)
    assert all(m.dynamic.allocation.thresholds != (0.9,) for m in others[:3])


def test_a_cascade_within_the_tolerance_beats_the_static_front(searched):
    found = searched.findings["cascade"]
    reference = searched.history[0].accuracy
    assert found["reference_accuracy"] == reference
    good = [m for m in searched.history if m.accuracy >= reference - 0.002 - 1e-9]
    best = min(good, key=lambda m: m.energy_vs_w8a8)
    assert found["within_tolerance"] and found["energy"] == best.energy_vs_w8a8
    assert best.dynamic is not None and found["energy"] < found["static_energy"]
    assert found["accuracy"] == best.accuracy
    assert found["thresholds"] == list(best.dynamic.allocation.thresholds)
    low, high = found["member_energies"]
    assert low + (found["runs"] - 1) * high == pytest.approx(found["energy"], abs=0.01)
    (note,) = searched.findings["notes"]
    assert "the best cascade" in note and "predicted" in note


def test_images_are_charged(searched):
    scored = problem_with_answers()
    Cascade(members=MEMBERS).run(scored)
    assert scored.images_forward == 128 * 3  # two members and the reference
    assert searched.images_forward > 128 * 4


def test_every_evaluation_is_logged(searched):
    trace = searched.trace
    assert trace.step == "candidate" and len(trace) == 30
    assert trace.metrics["energy"] == [m.energy_vs_w8a8 for m in searched.history]
    assert trace.metrics["predicted_energy"][:10] == [None] * 10
    assert None not in trace.metrics["predicted_accuracy"][10:]
    assert max(trace.metrics["runs"][10:]) <= 2


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 11])
def test_any_budget_is_respected(evaluations):
    problem = problem_with_answers(evaluations=evaluations)
    Cascade().run(problem)
    assert len(problem.history) == evaluations
    assert bool(cascades(problem)) == (evaluations > 2)


def test_static_evaluations_can_be_set():
    problem = problem_with_answers(evaluations=9)
    Cascade(static_evaluations=7).run(problem)
    assert len(statics(problem)) == 7


def test_members_can_be_set():
    problem = problem_with_answers(evaluations=8)
    Cascade(members=MEMBERS).run(problem)
    expected = tuple(problem.space.uniform(width) for width in MEMBERS)
    assert {m.dynamic.allocation.members for m in cascades(problem)} == {expected}
    assert {m.allocation for m in statics(problem)} == set(expected)
    three = problem_with_answers(evaluations=8)
    Cascade(members=(2, (3, 4), 8), calibrate=False).run(three)
    first, *_ = cascades(three)
    assert first.dynamic.allocation.thresholds == (0.9, 0.6)
    assert first.dynamic.allocation.temperatures == (1.0, 1.0)
    assert {len(m.dynamic.allocation.members) for m in cascades(three)} == {3}


def test_three_stages_include_two():
    problem = problem_with_answers(evaluations=40)
    Cascade(stages=3, tolerance=0.01).run(problem)
    first, *others = cascades(problem)
    assert first.dynamic.allocation.thresholds == (0.9, 0.6)
    assert {len(m.dynamic.allocation.members) for m in others} >= {2}


# Limits


def test_a_limit_on_the_energy_is_one_on_the_mean():
    problem = problem_with_answers(evaluations=24, limits={"energy": 0.6})
    Cascade(tolerance=0.01).run(problem)
    assert any(
        problem.price(m.dynamic.allocation.widest) > 0.6 and problem.within(m)
        for m in cascades(problem)
    )
    assert problem.findings["cascade"]["energy"] <= 0.6
    assert all(m.energy_vs_w8a8 <= 0.6 for m in problem.front())


def test_a_limit_on_the_size_is_one_on_all_that_is_stored():
    free = problem_with_answers()
    limit = free.price(free.space.uniform(8), "size")
    problem = problem_with_answers(evaluations=12, limits={"size": limit})
    Cascade().run(problem)
    for measured in cascades(problem):
        sizes = [problem.price(m, "size") for m in measured.dynamic.allocation.members]
        assert sum(sizes) <= limit


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thresholds": [0.6, 0.9]}, r"thresholds of a cascade fall.*got \[0.6, 0.9\]"),
        ({"thresholds": [1.2]}, r"in \[0, 1\], got \[1.2\]"),
        ({"thresholds": [0.9], "stages": 3}, r"must be two for a cascade of three, got \[0.9\]"),
        ({"thresholds": [0.9], "members": [4, 6, 8]}, "thresholds must be two for a cascade of"),
        ({"thresholds": [0.9, 0.8, 0.7]}, "must be one, or two, for a cascade of two, got"),
        ({"stages": 4}, "stages must be 2 or 3, got 4"),
        ({"tolerance": -0.1}, r"tolerance must be a fraction in \[0, 1\), got -0.1"),
        ({"tolerance": 1}, r"got 1"),
        ({"members": [8]}, r"2 or 3 widths, got \[8\]"),
        ({"static_evaluations": 0}, "at least 1, got 0"),
        ({"score": "magic"}, "'score' must be"),
        ({"screen_images": 0}, "at least 1, got 0"),
        ({"time_limit_s": 0}, "positive number of seconds"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        build("cascade", settings)


def test_a_low_that_costs_more_than_its_high_is_refused_with_both_costs():
    problem = problem_with_answers()
    with pytest.raises(StudyError, match=r"energies are 1 and then 0\.\d+ of uniform 8 bit"):
        Cascade(members=(8, 4)).run(problem)
    assert not problem.history


def test_members_that_the_space_does_not_offer_are_refused():
    problem = problem_with_answers()
    with pytest.raises(SpaceError, match="members asks for 5 bits, and the space offers 2, 3, 4"):
        Cascade(members=(5, 8)).run(problem)
    pinned = problem_with_answers(pins={"*": {"activation": 8}})
    with pytest.raises(SpaceError, match="come to the same allocation"):
        Cascade(members=((4, 4), (4, 8))).run(pinned)


def test_widths_that_the_table_does_not_price_are_refused():
    energy = EnergyModel(load_table("mpic"), QuadrantNetwork().layers)
    problem = problem_with_answers(energy=energy, widths=(4, 8, 16))
    with pytest.raises(EnergyTableError, match="16"):
        Cascade(members=(4, 16)).run(problem)
