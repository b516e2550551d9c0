"""Widths of channels that follow the input."""

import re

import numpy as np
import pytest

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import LearnPrec, LearnPrecJoint, Pricing, build
from bitfront.searchers.testing import SearcherConformance, model_problem
from bitfront.spaces import (
    BitSpace,
    EnergyTableError,
    InfeasibleError,
    Layer,
    SpaceError,
    StudyError,
)

TINY = {
    "max_overhead": 1.0,  # its layers are tiny
    "positions": 8,
    "epochs": 1,
    "batch_size": 8,
    "points": 3,
    "directions": 1,
    "regression_steps": 5,
}


class TestLearnPrec(SearcherConformance):
    @staticmethod
    def make():
        return LearnPrec(**TINY)


JOINT = {
    **{name: TINY[name] for name in ("max_overhead", "positions", "directions")},
    "regression_steps": 5,
    "epochs": 3,
    "images": 32,
    "batch_size": 16,
    "selectors_from": 1,
}


class TestLearnPrecJoint(SearcherConformance):
    test_same_seed_asks_the_same_in_a_second_process = None  # that takes its time

    @staticmethod
    def make():
        return LearnPrecJoint(**JOINT, evaluate_every=3)


@pytest.mark.slow
class TestLearnPrecOfAllocations(SearcherConformance):
    evaluations = 4
    test_same_seed_asks_the_same_in_a_second_process = None  # that takes its time
    test_ends_when_the_space_is_exhausted = None

    @staticmethod
    def make():
        return LearnPrec(**{**TINY, "points": 2, "epochs": 0}, weights="ilp", widths=(2, 4, 8))


# What is measured


def run(searcher, **options):
    problem = model_problem(**options)
    searcher.run(problem)
    return problem


def test_the_points_span_the_energies_between_narrowest_and_widest():
    problem = run(LearnPrec(**TINY))
    energies = [m.energy_vs_w8a8 for m in problem.history]
    assert len(problem.history) == 3
    assert energies[0] == max(energies)
    assert energies[1] == min(energies)
    assert all(0 < m.dynamic.deciding < m.energy_vs_w8a8 for m in problem.history)
    widths = [m.mean_activation_bits for m in problem.history]
    assert np.argsort(widths).tolist() == np.argsort(energies).tolist()
    assert problem.trace.metrics["learned_energy"]
    assert problem.images_backward == 16 + 16


def test_a_limit_is_met_with_narrower_weights_where_it_has_to_be():
    free = run(LearnPrec(**TINY))
    limit = min(m.energy_vs_w8a8 for m in free.history) - 0.1
    problem = run(LearnPrec(**TINY), limits={"energy": limit})
    assert any(problem.within(m) for m in problem.history)
    assert all(m.mean_weight_bits < 8 for m in problem.history)


def test_a_limit_on_another_cost_is_met():
    problem = run(LearnPrec(**TINY), limits={"mean_activation_bits": 6.5})
    assert problem.history
    assert any(problem.within(m) for m in problem.history)


def test_selectors_that_cost_too_much_are_left_out_with_a_note():
    problem = run(LearnPrec(**{**TINY, "max_overhead": 0.01}))
    (measured,) = problem.history
    assert measured.dynamic is None
    (note,) = problem.findings["notes"]
    assert re.search(
        r"^nothing chooses: 2 activations have one width .*than the max_overhead of 1 % of the "
        r"layer; most of all that of \w+ with \d+\.\d %$",
        note,
    )


def test_a_space_that_leaves_nothing_to_choose_is_told_apart_from_that():
    problem = run(LearnPrec(**TINY), pins={"*": {"activation": 8}})
    assert problem.history[0].dynamic is None
    (note,) = problem.findings["notes"]
    assert "the space leaves no activation two of the widths [4, 8]" in note


def test_joint_training_learns_before_and_after_selectors_join():
    problem = run(LearnPrecJoint(**JOINT, points=2))
    static, *chosen = problem.history
    assert static.dynamic is None
    assert [m.dynamic is not None for m in chosen] == [True] * 4
    assert chosen[-1].network != chosen[0].network
    learned = problem.trace.metrics["learned_energy"]
    assert learned[0] is None
    assert all(energy is not None for energy in learned[1:])


# Bad input


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("learnprec", {"widths": [8, 4]}, "rise and are two at least"),
        ("learnprec", {"weights": "best"}, "'weights' must be"),
        ("learnprec", {"weights": 1}, "from 2 to 8 bits, got 1"),
        ("learnprec", {"weights": 12}, "from 2 to 8 bits, got 12"),
        ("learnprec-joint", {"weights": 12}, "from 2 to 8 bits, got 12"),
        ("learnprec", {"points": 0}, "points must be at least 1, got 0"),
        ("learnprec", {"headroom": -0.1}, "headroom must be a share"),
        ("learnprec-joint", {"selectors_from": 30}, r"less than epochs \(30\), got 30"),
        ("learnprec-joint", {"beta": 0.0}, "beta must be a positive number"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(StudyError, match=message):
        build(name, settings)


def test_widths_that_the_space_does_not_offer_are_refused():
    with pytest.raises(SpaceError, match="widths asks for 5 bits, and the space offers 2, 4, 6, 8"):
        run(LearnPrec(**{**TINY, "widths": (5, 8)}))


def test_a_limit_that_selectors_make_impossible_is_refused():
    space = model_problem().space
    narrowest = model_problem().price(space.uniform(2, 4))
    with pytest.raises(InfeasibleError, match="with their selectors"):
        run(LearnPrec(**TINY), limits={"energy": narrowest * 1.0001})


@pytest.mark.parametrize("strategy", [LearnPrec(), LearnPrecJoint()])
def test_a_table_of_whole_layers_is_refused_before_anything_is_fitted(strategy):
    table = load_table("hawqv3-t4")
    rows = table.rows.layers
    layers = [Layer(row.layer, "conv", row.macs or 1, 1, 0, 1, 1, 1, 1) for row in rows]
    space = BitSpace.build(layers, weights=(4, 8), activations=(4, 8))
    with pytest.raises(EnergyTableError, match="prices whole layers of one network"):
        strategy.check_prices(space, Pricing(EnergyModel(table, layers)))
