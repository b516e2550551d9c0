import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.searchers import AutoQ, build
from bitfront.searchers.autoq import Learner, Replay, Walk, likeliest_goal
from bitfront.searchers.kernel_features import halvings_above_mean, kernel_features
from bitfront.searchers.testing import (
    KeptCheckpoint,
    SearcherConformance,
    TinyNetwork,
    model_problem,
    tabular_problem,
)
from bitfront.spaces import BitAllocation, InfeasibleError, StudyError

# Little learning, which is what takes time: two updates for a batch of four episodes, the fewest of
# which one is of the kernel agent. Much noise, so that few episodes come to what is known already.
QUICK = {"updates": 0.125, "actors": 4, "sigma": 1.0, "kernel_sigma": 1.0, "decay": 1.0}


class TestAutoQ(SearcherConformance):
    @staticmethod
    def make():
        return AutoQ(**QUICK)


class TestAsPublished(SearcherConformance):
    @staticmethod
    def make():
        published = {"trim": "loop", "exploration": "independent", "opposite": False, "gamma": 1.0}
        return AutoQ(warmup=6, **published, **QUICK)


class TestWithNetwork(SearcherConformance):
    with_network = True

    @staticmethod
    def make():
        return AutoQ(**QUICK)


def channel_problem(**options):
    return tabular_problem(granularity="channel", **options)


def walk_of(problem, statistics=True, prior=0.0):
    return Walk(problem, statistics, prior)


# The walk


def test_a_unit_is_a_kernel_of_weights_or_an_activation():
    walk = walk_of(channel_problem())  # conv1 and conv2 are free, four channels each
    assert walk.is_kernelwise.tolist() == [True, False, True, False]
    assert [part.stop - part.start for part in walk.parts] == [4, 1, 4, 1]
    assert walk.decision.tolist() == [0] * 4 + [1] + [2] * 4 + [3]
    per_layer = walk_of(tabular_problem())
    assert per_layer.units == 4


def test_equal_shares_of_an_action_are_the_choices():
    walk = walk_of(channel_problem(widths=(2, 4, 8)))
    for action, rank in [(0, 0), (0.33, 0), (0.34, 1), (0.66, 1), (0.67, 2), (1, 2)]:
        chosen = walk.chosen(np.full(walk.units, action, np.float32))
        assert set(chosen.tolist()) == {rank}
    ranks = np.arange(walk.units) % 3
    assert np.array_equal(walk.chosen(walk.actions_of(ranks)), ranks)


def test_the_mean_of_a_decision_is_over_its_kernels():
    walk = walk_of(channel_problem())
    assert walk.means(np.arange(10.0)).tolist() == [1.5, 4, 6.5, 9]


def test_the_allocation_of_ranks_has_one_width_per_kernel_and_one_per_activation():
    problem = channel_problem()
    allocation = walk_of(problem).allocation(np.array([0, 1, 2, 3, 2, 1, 1, 1, 1, 0]))
    assert allocation == BitAllocation(
        ["conv0", "conv1", "conv2", "conv3"], [8, [2, 4, 6, 8], 4, 8], [8, 6, 2, 8]
    )


# The budget, exactly

TIES = [(), (("conv1.weight", "conv2.weight"),), ("weights=activations",)]

SPACES = st.fixed_dictionaries(
    {
        "widths": st.sampled_from([(2, 4, 8), (2, 3, 4, 5, 6, 7, 8), (4, 8)]),
        "granularity": st.sampled_from(["layer", "channel"]),
        "ties": st.sampled_from(
            [(), (("conv1.weight", "conv2.weight"),), ("weights=activations",)]
        ),
        "forbid": st.sampled_from([(), ((4, 8),), ((8, 4),)]),
        "pins": st.sampled_from([{}, {"conv1": {"weight": 4}}]),
    }
)


@settings(max_examples=60, deadline=None)
@given(SPACES, st.sampled_from(["energy", "size", "bops"]), st.floats(0, 1), st.data())
def test_episodes_end_within_the_limits_and_in_the_space(options, cost, share, data):
    free = tabular_problem(**options)
    low, high = (free.price(free.space.uniform(bits), cost) for bits in (2, 8))
    problem = tabular_problem(**options, limits={cost: low + share * (high - low)})
    walk = walk_of(problem)
    actions = np.random.default_rng(data.draw(st.integers(0, 99))).random(walk.units, np.float32)
    for trim in (walk.level, walk.loop):
        allocation = walk.allocation(trim(actions))
        problem.space.validate(allocation)
        assert problem.allows(allocation)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.6, 0.95), st.integers(0, 99), st.sampled_from(["energy", "mean_weight_bits"]))
def test_level_uses_the_budget_up(share, seed, name):
    limit = share if name == "energy" else 8 * share
    problem = channel_problem(limits={name: limit}, evaluations=1)
    walk = walk_of(problem)
    ranks = walk.level(np.random.default_rng(seed).random(walk.units, np.float32))
    for unit in np.flatnonzero(ranks < walk.counts - 1):
        following = ranks.copy()
        following[unit] += 1
        assert not problem.allows(walk.allocation(following))


def test_what_costs_nothing_is_taken():
    """Only weights are limited, so that all activations are at their widest."""
    problem = channel_problem(limits={"mean_weight_bits": 4.0})
    walk = walk_of(problem)
    ranks = walk.level(np.full(walk.units, 0.9, np.float32))
    is_weight = walk.is_kernelwise[walk.decision]
    assert (ranks[~is_weight] == walk.counts[~is_weight] - 1).all()


@pytest.mark.parametrize("trim", ["level", "loop"])
def test_forbidden_pairs_of_the_narrowest_widths_leave_the_rest_reachable(trim):
    problem = channel_problem(forbid=[(8, 2)])
    walk = walk_of(problem)
    ranks = getattr(walk, trim)(np.ones(walk.units, np.float32))
    assert walk.allocation(ranks) == problem.space.uniform(8)


@pytest.mark.parametrize("names", [(0, 1), (1, 0)])
def test_limits_that_can_be_met_together_are(names):
    limits = [("mean_weight_bits", 4.2), ("mean_activation_bits", 6.0)]
    problem = channel_problem(forbid=[(2, 2)], limits=dict(limits[i] for i in names))
    walk = walk_of(problem)
    for trim in (walk.level, walk.loop):
        assert problem.allows(walk.allocation(trim(np.ones(walk.units, np.float32))))


def test_limits_that_cannot_be_met_are_refused():
    problem = channel_problem(limits={"energy": 0.3})
    with pytest.raises(InfeasibleError, match="smallest achievable"):
        walk_of(problem)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.6, 0.95), st.integers(0, 99))
def test_loop_lowers_no_kernel_more_than_it_has_to(share, seed):
    problem = channel_problem(limits={"energy": share}, first_last=None)
    walk = walk_of(problem)
    wanted = np.random.default_rng(seed).integers(0, 4, walk.units)
    ranks = walk.loop(walk.actions_of(wanted))
    lowered = np.flatnonzero(ranks < wanted)
    if not len(lowered):
        assert problem.allows(walk.allocation(wanted))
        return
    assert any(
        not problem.allows(walk.allocation(ranks + (np.arange(walk.units) == unit)))
        for unit in lowered
    )


def test_the_loop_by_hand():
    # The last free layer is conv2: its activation goes first, then two of its kernels are enough.
    free = channel_problem(widths=(4, 8))
    target = free.space.uniform(8).replace("conv2", activation=4, weight=[8, 4, 8, 4])
    problem = channel_problem(widths=(4, 8), limits={"energy": free.price(target)})
    walk = walk_of(problem)
    actions = np.ones(walk.units, np.float32)
    actions[[6, 8]] = 0.6  # the second and the fourth kernel of conv2 are least above 4 bits
    assert walk.allocation(walk.loop(actions)) == target


def test_without_limits_actions_are_what_is_done():
    walk = walk_of(channel_problem())
    actions = np.linspace(0, 1, walk.units, dtype=np.float32)
    assert np.array_equal(walk.level(actions), walk.chosen(actions))
    assert np.array_equal(walk.loop(actions), walk.chosen(actions))


def test_where_the_loop_leads_nowhere_the_limits_are_met_all_the_same():
    space = {"widths": (2, 8), "forbid": [(2, 2)], "granularity": "channel"}
    free = tabular_problem(**space)
    limit = 1.1 * free.pricing.smallest(free.space, "size")
    problem = tabular_problem(**space, limits={"size": limit})
    walk = walk_of(problem)
    assert problem.allows(walk.allocation(walk.loop(np.ones(walk.units, np.float32))))


# What is remembered


class Flat:
    """A kernel agent that always gives every kernel the goal plus an offset."""

    def __init__(self, offset=0.0):
        self.offset = np.float32(offset)

    def act(self, states):
        return np.full(len(states), 0.5, np.float32) + self.offset


def test_the_executed_goal_is_as_far_off_as_the_budget_moved_the_layer():
    walk = walk_of(channel_problem())  # four choices: a rank is a quarter
    replay = Replay(walk)
    goals = np.array([0.9, 0.9, 0.5, 0.1], np.float32)
    actions = goals[walk.decision]
    ranks = walk.chosen(actions)
    ranks[[0, 1]] -= 1  # two of four kernels one choice lower: an eighth on average
    ranks[4] -= 2  # an activation is what was executed
    replay.add(goals, actions, ranks)
    assert replay.goals[0] == pytest.approx([0.775, 0.375, 0.5, 0.125])
    assert replay.ranks[0].tolist() == ranks.tolist()
    assert not replay.known.size  # not measured yet


def remembered(problem, goal, ranks, reward=1.0, gain=1.0):
    walk = walk_of(problem)
    replay = Replay(walk)
    ranks = np.asarray(ranks)
    replay.add(np.full(4, goal, np.float32), walk.actions_of(ranks), ranks)
    replay.rewards[:], replay.gains[:] = reward, gain
    return walk, replay


def test_the_intrinsic_reward_by_hand():
    # Kernels at ranks 0, 1, 2, 3 of 4 have actions 1/8, 3/8, 5/8, 7/8: a mean of 0.5, a quarter
    # below the goal, which is one choice.
    _, replay = remembered(channel_problem(), 0.75, [0, 1, 2, 3, 1, 0, 1, 2, 3, 1])
    steps = replay.kernel_steps(0.0, np.random.default_rng(0))
    assert steps.rewards == pytest.approx(-1)
    half = replay.kernel_steps(0.5, np.random.default_rng(0))
    assert half.rewards == pytest.approx(-0.5 + 0.5)  # a gain of 1, all gains being equal


def test_kernel_steps_hold_executed_widths_as_differences_from_the_goal():
    _, replay = remembered(channel_problem(), 0.5, [0, 1, 2, 3, 1, 0, 1, 2, 3, 1])
    steps = replay.kernel_steps(0.1, np.random.default_rng(0))
    assert set(np.unique(steps.actions)) == {0.125, 0.375, 0.625, 0.875}
    assert (steps.states[:, -1] == 0.5).all()
    assert steps.ends.mean() == pytest.approx(0.25, abs=0.15)  # one of four kernels is the last


def test_goal_steps_are_built_fresh_and_see_what_was_executed():
    walk, replay = remembered(channel_problem(), 0.5, [3, 3, 3, 3, 1, 0, 0, 0, 0, 2])
    before = walk.goal_states.copy()
    steps = replay.goal_steps(np.random.default_rng(0))
    assert np.array_equal(walk.goal_states, before)  # no row is edited in place
    assert set(np.unique(steps.states[:, -1])) == {1, 0.875, 0.375, 0.125}
    assert steps.actions[steps.ends] == pytest.approx(0.625)  # the last activation's rank is 2 of 4


def test_relabelling_by_hand():
    states = np.zeros((4, 10), np.float32)
    actions = np.array([0.1, 0.3, 0.5, 0.7], np.float32)
    goals = np.array([0.9, 0.4, 0.45, 0.1], np.float32)
    assert likeliest_goal(Flat(), states, actions, goals) == pytest.approx(0.4)  # the mean
    # An agent that always does 0.3 more than it is told was most likely told 0.1.
    assert likeliest_goal(Flat(0.3), states, actions, goals) == pytest.approx(0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-0.3, 0.3))
def test_a_relabelled_goal_is_never_less_likely_than_the_one_it_replaces(seed, offset):
    walk, replay = remembered(channel_problem(), 0.75, [0, 1, 2, 3, 1, 0, 0, 0, 3, 1])
    before = replay.goals[0].copy()
    replay.relabel(Flat(offset), 8, np.random.default_rng(seed))
    for step in (0, 2):
        actions = walk.actions_of(replay.ranks[0])[walk.parts[step]]
        old, new = (
            ((goals[step] + np.float32(offset) - actions) ** 2).sum()
            for goals in (before, replay.replayed[0])
        )
        assert new <= old + 1e-6
        assert 0 <= replay.replayed[0, step] <= 1
    assert replay.replayed[0, 1] == replay.goals[0, 1]  # activations have no goal
    assert np.array_equal(replay.goals[0], before)


# Noise and rewards


def learner_of(problem, **settings):
    return Learner(AutoQ(**settings), walk_of(problem), problem)


def test_opposite_episodes_share_goals_and_differ_in_the_noise_only():
    learner = learner_of(channel_problem(widths=range(2, 9)), kernel_sigma=1.0, sigma=0.25)
    learner.roll_out()
    goals, ranks = learner._replay.goals, learner._replay.ranks
    assert learner.pending == 2
    assert goals[0] == pytest.approx(goals[1], abs=0.1)  # but for rounding
    first, second = ranks.astype(int)
    off = (first + second) / 2 - 3  # untrained agents say the middle
    assert np.abs(off).max() <= 1.5
    assert (first != second).any()


def test_noise_follows_the_features_of_kernels():
    problem = model_problem(granularity="channel")
    learner = learner_of(problem)
    walk = learner._walk
    noise = learner._kernel_noise()
    for part, is_kernelwise in zip(walk.parts, walk.is_kernelwise, strict=True):
        if not is_kernelwise:
            assert not noise[part].any()
            continue
        directions = walk.directions[part]
        _, residual, _, _ = np.linalg.lstsq(directions, noise[part], rcond=None)
        assert np.abs(noise[part]).max() > 0
        assert (residual < 1e-12).all()


def test_gains_compare_an_episode_with_its_opposite():
    learner = learner_of(channel_problem())
    replay = learner._replay
    for _ in range(3):
        replay.add(np.full(4, 0.5, np.float32), *2 * [np.zeros(10, np.int64)])
    replay.rewards[:] = [1, 2, 5]
    learner._compare(slice(0, 3))
    assert replay.gains == pytest.approx([-0.5, 0.5, math.nan], nan_ok=True)
    # An episode alone, or half of a pair, is compared with all others.
    replay.rewards[:] = [1, math.nan, 5]
    learner._compare(slice(0, 3))
    assert replay._extrinsic() == pytest.approx([-1, math.nan, 1], nan_ok=True)


def test_the_accuracy_guaranteed_reward_by_hand():
    problem = channel_problem(limits={"energy": 0.9})
    allocation = problem.space.uniform(4)
    energy = problem.price(allocation) / problem.price(problem.space.uniform(8))
    (measured,) = problem.evaluate([allocation])
    quality = -math.log((measured.loss + 1e-3) / 1.001)
    assert learner_of(problem)._reward(measured) == pytest.approx(quality)
    by_loss = learner_of(problem, objective="guaranteed")
    expected = 2 * quality - 0.5 * math.log(energy)
    assert by_loss._reward(measured) == pytest.approx(expected)
    by_accuracy = learner_of(problem, objective="guaranteed", reward="accuracy")
    expected_by_accuracy = 20 * measured.accuracy - 5 * math.log(energy)
    assert by_accuracy._reward(measured) == pytest.approx(expected_by_accuracy)
    free = learner_of(channel_problem())  # without limits costs have to count
    assert free._reward(measured) == pytest.approx(expected)


def test_a_kernel_begins_as_many_bits_above_the_goal_as_its_range_is_doubled():
    features = np.array([[0, 1, 1], [0.5, 1 - 1 / 6, 1], [1, 1 - 2 / 6, 1]], np.float32)
    assert halvings_above_mean(features) == pytest.approx([1, 0, -1], abs=1e-6)
    assert halvings_above_mean(features[:, :1]).tolist() == [0, 0, 0]
    by_bit, by_two = (
        walk_of(model_problem(granularity="channel", widths=widths), prior=1.0)
        for widths in ((2, 3, 4, 5), (2, 4, 6, 8))
    )
    bits = by_bit.prior * by_bit.counts
    assert np.abs(bits).max() > 0.1
    assert by_two.prior * by_two.counts * 2 == pytest.approx(bits, abs=1e-5)
    assert by_bit.means(by_bit.prior) == pytest.approx(0, abs=1e-6)


# Kernels


def test_kernel_features_say_how_far_a_kernel_is_below_the_largest():
    network = TinyNetwork()
    model = network.quantized_model()
    layer = network.layers[1]
    weight = model.quantized_layers[layer.name].inner.weight
    largest = weight.detach().abs().flatten(1).max(dim=1).values.double().numpy()
    features = kernel_features(layer, 8, model)
    assert features.shape == (8, 3)
    assert features[:, 0] == pytest.approx(np.arange(8) / 7)
    assert features[:, 1] == pytest.approx(1 + np.log2(largest / largest.max()) / 6, abs=1e-6)
    assert features.max() == 1
    assert kernel_features(layer, 8).shape == (8, 1)


@pytest.mark.parametrize("values", [np.zeros(4), np.array([1, 0.5, 2**-6, 0])])
def test_kernels_without_weights_are_at_the_end_of_the_scale(values):
    import torch

    inner = torch.nn.Linear(1, 4)
    inner.weight.data = torch.tensor(values, dtype=torch.float32)[:, None]
    model = SimpleNamespace(quantized_layers={"fc": SimpleNamespace(inner=inner)})
    layer = SimpleNamespace(name="fc", kind="linear")
    expected = [1, 1 - 1 / 6, 0, 0] if values.any() else [1] * 4
    assert kernel_features(layer, 4, model)[:, 1] == pytest.approx(expected, abs=1e-6)


# As a strategy


def answering(change):
    """Make an evaluator answer something else than the formula says."""

    def wrap(evaluator):
        def evaluate(allocations, *, fidelity=1.0):
            return [replace(m, **change(m)) for m in evaluator(allocations, fidelity=fidelity)]

        return evaluate

    return wrap


def steep(m):
    """The four kernels of a layer matter by powers of ten, the last one most."""
    widths = np.array([np.broadcast_to(m.allocation.weights[i], 4) for i in (1, 2)], dtype=float)
    return {"loss": 0.01 + float((10.0 ** np.arange(4) * 4**-widths).sum())}


@pytest.mark.slow
def test_it_proposes_better_allocations_as_it_goes():
    options = {"widths": range(2, 9), "first_last": None, "limits": {"energy": 0.8}}
    falls = []
    for seed in range(3):
        problem = channel_problem(evaluations=40, seed=seed, wrap=answering(steep), **options)
        AutoQ(updates=4, kernel_sigma=0.7, prior=0.0).run(problem)
        losses = [m.loss for m in problem.history]
        falls.append(np.median(losses[-10:]) / np.median(losses[:10]))
    assert np.median(falls) < 0.7


def test_every_episode_is_logged_and_the_policy_is_named():
    problem = channel_problem(evaluations=10, limits={"energy": 0.6})
    AutoQ().run(problem)
    assert problem.trace.step == "episode"
    assert len(problem.trace) >= len(problem.history)
    assert {"reward", "accuracy", "loss", "energy"} <= set(problem.trace.metrics)
    assert len(problem.findings["policy"].split("-")) == 2


@pytest.mark.parametrize("answers", [1, 9, 22])
def test_killed_and_resumed_it_ends_with_the_same_policy(answers):
    def interrupting(evaluator):
        given = 0

        def evaluate(allocations, *, fidelity=1.0):
            nonlocal given
            given += len(allocations)
            if given > answers:
                raise KeyboardInterrupt
            return evaluator(allocations, fidelity=fidelity)

        return evaluate

    options = {"evaluations": 30, "widths": range(2, 9), "limits": {"energy": 0.7}}
    kept = KeptCheckpoint()
    with pytest.raises(KeyboardInterrupt):
        AutoQ().run(channel_problem(wrap=interrupting, checkpoints=kept, **options))
    again, whole = channel_problem(checkpoints=kept, **options), channel_problem(**options)
    for problem in (again, whole):
        AutoQ().run(problem)
    assert again.findings == whole.findings
    assert again.history == whole.history


def test_everything_pinned_is_measured_once():
    problem = channel_problem(widths=(8,))
    AutoQ().run(problem)
    assert [m.allocation for m in problem.history] == [problem.space.uniform(8)]


def test_three_failures_in_a_row_end_it_with_a_sentence():
    failing = answering(lambda m: {"accuracy": math.nan, "loss": math.nan})
    problem = channel_problem(wrap=failing, limits={"energy": 0.6})
    AutoQ().run(problem)
    assert 3 <= len(problem.history) <= 4
    assert problem.findings["failed_episodes"] >= 3
    assert any("not finite" in note for note in problem.findings["notes"])


@pytest.mark.parametrize(
    "wrong",
    [{"actors": 0}, {"warmup": -1}, {"zeta": 1.5}, {"gamma": math.nan}, {"sigma": -1}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(StudyError, match=next(iter(wrong))):
        build("autoq", wrong)
