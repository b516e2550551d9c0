import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.energy import EnergyModel, load_table
from bitfront.searchers import Haq, build
from bitfront.searchers.checkpoint import Checkpoint
from bitfront.searchers.haq import Walk, _Run
from bitfront.searchers.steps import cost_of, widths_of
from bitfront.searchers.synthetic import KeptCheckpoint
from bitfront.searchers.testing import SearcherConformance, synthetic_layers, tabular_problem
from bitfront.spaces import InfeasibleError, Layer, StudyError

# Updates for every choice made: few, since they are what takes time. Four choices are an episode of
# the small problems, so that these are one update for each; an eighth would be none.
FEW = 0.25


class TestHaq(SearcherConformance):
    @staticmethod
    def make():
        return Haq(updates=FEW)


class TestHaqAsPublished(SearcherConformance):
    @staticmethod
    def make():
        return Haq(
            warmup=20,
            sigma=0.5,
            actors=1,
            reward="accuracy",
            trim="loop",
            gamma=1.0,
            updates=FEW,
            actor_every=1,
            actor_lr=1e-4,
        )


def walk(**options):
    return Walk(tabular_problem(**{"limits": {"energy": 0.7}, **options}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"warmup": -1}, "warmup"),
        ({"actors": 0}, "actors"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": 0.1, "sigma_end": 0.2}, "fall"),
        ({"gamma": 1.5}, "gamma"),
        ({"actor_lr": 0.0}, "learning rates"),
        ({"updates": math.nan}, "updates"),
        ({"updates": math.inf}, "updates"),
        ({"sigma": math.inf}, "sigma"),
        ({"critic_lr": math.inf}, "learning rates"),
        ({"trim": "greedy"}, "trim"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(StudyError, match=said):
        build("haq", wrong)


# The walk


def test_a_step_for_every_operand_with_a_choice_weights_first():
    steps = [(v.slots[0].layer, v.slots[0].operand) for v in walk()._decisions]
    assert steps == [(1, "weight"), (1, "activation"), (2, "weight"), (2, "activation")]


def test_of_tied_operands_the_first_stands_for_all():
    assert walk(ties=["weights=activations"]).steps == 2


def test_the_ten_numbers_of_a_state():
    found = walk()
    states, actions = found.taken(found.allocation(np.ones(4, np.float32), 0.0, "level"), 0.0)
    assert found.features == states.shape[1] == 10
    assert states.dtype == actions.dtype == np.float32
    assert np.all((states >= 0) & (states <= 1))
    assert states[:, 9].tolist() == [1, 0, 1, 0]  # weights or activation
    assert states[:, 7] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])  # the layer


def test_without_limits_a_state_has_the_target_too():
    found = walk(limits={})
    allocation = found.allocation(np.ones(4, np.float32), 0.3, "level")
    assert found.features == 11
    assert found.taken(allocation, 0.3)[0][:, 10] == pytest.approx([0.3] * 4)


def test_targets_are_spread_evenly():
    found = walk(limits={})
    targets = sorted(found.target(episode) for episode in range(20))
    gaps = np.diff([0.0, *targets, 1.0])
    assert gaps.max() < 2.7 / 20
    assert walk().target(5) == 0.0


def test_what_is_remembered_is_what_was_done():
    """Fault of the published code: its memory keeps actions that the budget had overruled."""
    found = walk(widths=(2, 4, 8), limits={"energy": 0.65})
    wished = np.ones(4, np.float32)
    allocation = found.allocation(wished, 0.0, "loop")
    states, actions = found.taken(allocation, 0.0)
    bits = [w for pair in widths_of(allocation)[1:3].tolist() for w in pair]
    shares = {2: 1 / 6, 4: 3 / 6, 8: 5 / 6}
    assert actions == pytest.approx([shares[b] for b in bits])
    assert not np.array_equal(actions, wished)
    assert states[1:, 8] == pytest.approx([b / 8 for b in bits[:-1]])


def test_states_are_made_anew_for_every_episode():
    """Fault of the published code: it edits its states in place and never resets them."""
    found = walk()
    narrow, wide = (
        found.allocation(np.full(4, action, np.float32), 0.0, "level") for action in (0.0, 1.0)
    )
    first = found.taken(narrow, 0.0)[0]
    found.taken(wide, 0.0)
    assert np.array_equal(found.taken(narrow, 0.0)[0], first)
    assert first[0, 8] == 1.0  # there is no choice before the first


def test_every_width_has_an_equal_share_of_the_actions():
    found = walk(widths=range(2, 9), limits={"energy": 2.0})
    actions = np.linspace(0, 1, 701, dtype=np.float32)[:-1]
    bits = [
        widths_of(found.allocation(np.full(4, a, np.float32), 0.0, "loop"))[1, 0] for a in actions
    ]
    assert np.unique(bits, return_counts=True)[1].tolist() == pytest.approx([100] * 7, abs=1)


# The budget


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    limit=st.floats(0.6, 1.0),
    forbid=st.sampled_from([(), ((2, 8),), ((8, 2), (4, 8))]),
    trim=st.sampled_from(["level", "loop"]),
)
def test_an_episode_is_within_the_budget_and_in_the_space(actions, limit, forbid, trim):
    problem = tabular_problem(limits={"energy": limit}, forbid=forbid)
    found = Walk(problem).allocation(np.array(actions, np.float32), 0.0, trim)
    problem.space.validate(found)
    assert problem.allows(found)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    limit=st.floats(0.6, 0.95),
)
def test_levelled_actions_use_the_budget(actions, limit):
    problem = tabular_problem(limits={"energy": limit})
    found = Walk(problem).allocation(np.array(actions, np.float32), 0.0, "level")
    wider = [a for a in problem.space.neighbours(found) if problem.price(a) > problem.price(found)]
    assert not any(problem.allows(a) for a in wider if np.sum(a.weights) > np.sum(found.weights))


def test_levelling_is_deaf_to_what_all_actions_have_in_common():
    found = walk(widths=range(2, 9))
    actions = np.array([0.2, 0.5, 0.3, 0.4], np.float32)
    assert found.allocation(actions, 0.0, "level") == found.allocation(actions + 0.25, 0.0, "level")


def test_levelling_gives_the_larger_action_the_more_bits():
    found = walk(widths=range(2, 9), limits={"energy": 0.7})
    actions = np.array([0.9, 0.5, 0.1, 0.5], np.float32)
    widths = widths_of(found.allocation(actions, 0.0, "level"))
    assert widths[1, 0] > widths[1, 1] >= widths[2, 1] > widths[2, 0]


def test_limits_that_cannot_be_met_together_are_refused_before_the_first_episode():
    problem = tabular_problem(limits={"energy": 0.5, "size": 50.0}, forbid=[(2, 2)])
    with pytest.raises(InfeasibleError, match="smallest"):
        Haq().run(problem)
    assert not problem.history


@pytest.mark.parametrize("names", [(0, 1), (1, 0)])
@pytest.mark.parametrize("trim", ["level", "loop"])
def test_limits_that_can_be_met_together_are(names, trim):
    limits = [("mean_weight_bits", 4.2), ("mean_activation_bits", 6.0)]
    problem = tabular_problem(forbid=[(2, 2)], limits=dict(limits[i] for i in names))
    assert problem.allows(Walk(problem).allocation(np.ones(4, np.float32), 0.0, trim))


@pytest.mark.parametrize("trim", ["level", "loop"])
def test_a_size_is_limited_as_it_is_priced_in_whole_bytes(trim):
    free = tabular_problem(widths=range(2, 9))
    for limit in np.linspace(free.pricing.smallest(free.space, "size"), 600, 20):
        problem = tabular_problem(widths=range(2, 9), limits={"size": limit})
        found = Walk(problem)
        for action in (0.3, 1.0):
            assert problem.allows(found.allocation(np.full(4, action, np.float32), 0.0, trim))


def test_where_the_loop_leads_nowhere_the_target_is_met_all_the_same():
    problem = tabular_problem(widths=(2, 8), forbid=[(2, 2)], evaluations=9)
    Haq(trim="loop", sigma=0.5, updates=0.0).run(problem)
    assert problem.remaining == 0 or "notes" in problem.findings


@pytest.fixture(scope="module")
def latencies():
    """An energy model of HAQ's latency table, over layers of its names."""
    table = load_table("haq-cloud-latency")
    one = {"macs": 1, "weight_count": 1, "bias_count": 0, "input_count": 1, "output_count": 1}
    layers = [
        Layer(row.layer, "conv", **one, in_channels=1, out_channels=1) for row in table.rows.layers
    ]
    return EnergyModel(table, layers)


@pytest.mark.parametrize(
    ("ratio", "published"),
    [
        (0.8, 31_646_565),
        (0.6, 23_456_373),
        (0.556, 21_947_381),
        (0.5, 19_803_141),
        (0.4, 15_788_789),
        (0.3, 11_882_085),
    ],
)
def test_an_actor_that_wants_all_ends_where_the_published_one_does(ratio, published, latencies):
    # HAQ reads the latency of the first activation at 7 bits, see the page of budget_loop.
    problem = tabular_problem(
        energy=latencies,
        widths=range(2, 9),
        limits={"energy": ratio},
        pins={"conv_stem": {"activation": 7}},
    )
    found = Walk(problem)
    end = found.allocation(np.ones(found.steps, np.float32), 0.0, "loop")
    eight = latencies.w8a8
    assert cost_of(latencies.layer_costs, widths_of(end)) == pytest.approx(published, abs=0.5)
    assert eight == pytest.approx(39_624_933)


# Learning


def test_what_cannot_be_measured_ends_its_episode_and_three_in_a_row_the_search():
    nan = math.nan

    def failing(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            return [
                replace(m, accuracy=nan, loss=nan, error="the worker died")
                for m in evaluator(allocations, fidelity=fidelity)
            ]

        return evaluate

    problem = tabular_problem(evaluations=20, wrap=failing, widths=range(2, 9))
    Haq(actors=1).run(problem)
    assert len(problem.history) == 3
    assert problem.findings["failed_episodes"] == 3
    (note,) = problem.findings["notes"]
    assert "3 in a row are not finite" in note
    assert "the worker died" in note


@pytest.mark.parametrize(("actors", "shares"), [(1, [1.0]), (2, [0.707, 1.414])])
def test_actors_differ_in_their_noise_and_one_alone_has_that_of_the_settings(actors, shares):
    problem = tabular_problem(evaluations=100)
    run = _Run(Haq(actors=actors, sigma=0.5), problem)
    assert run._noise(actors) == pytest.approx([0.5 * share for share in shares], rel=1e-3)


def test_where_all_is_pinned_there_is_one_thing_to_measure():
    problem = tabular_problem(widths=(8,))
    Haq().run(problem)
    assert len(problem.history) == len(problem.trace) == 1


def test_it_logs_its_episodes_and_names_its_policy():
    problem = tabular_problem(evaluations=12, limits={"energy": 0.8}, seed=3)
    Haq(updates=FEW).run(problem)
    assert problem.trace.step == "episode"
    assert {"reward", "accuracy", "loss", "energy"} <= set(problem.trace.metrics)
    assert len(problem.trace) >= len(problem.history)
    assert len(problem.findings["policy"]) == 16


def test_a_run_that_goes_on_ends_with_the_same_policy():
    options = {"evaluations": 24, "limits": {"energy": 0.8}, "seed": 3, "widths": range(2, 9)}
    kept, whole = KeptCheckpoint(), tabular_problem(**options)
    Haq(updates=FEW).run(whole)
    asked = 0

    def dying(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            nonlocal asked
            asked += len(allocations)
            if asked > 17:
                raise KeyboardInterrupt
            return evaluator(allocations, fidelity=fidelity)

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        Haq(updates=FEW).run(tabular_problem(**options, wrap=dying, checkpoints=kept))
    assert Checkpoint.from_bytes(kept.data).state["proposed"]  # in the middle of an episode
    again = tabular_problem(**options, checkpoints=kept)
    Haq(updates=FEW).run(again)
    assert again.findings["policy"] == whole.findings["policy"]
    assert again.history == whole.history
    untaught = tabular_problem(**options)
    Haq(updates=0).run(untaught)
    assert untaught.findings["policy"] != whole.findings["policy"]


def test_it_finds_more_than_those_that_do_not_learn():
    def best(name, seed, **chosen):
        problem = tabular_problem(
            evaluations=60,
            seed=seed,
            limits={"energy": 0.6},
            widths=range(2, 9),
            layers=synthetic_layers(12),
            landscape_seed=seed,
        )
        build(name, chosen).run(problem)
        return max(m.accuracy for m in problem.history if problem.within(m))

    for seed in range(2):
        learned = best("haq", seed, updates=FEW)
        for name in ("uniform", "budget_loop", "random"):
            assert learned > best(name, seed), name
