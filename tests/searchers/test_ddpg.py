import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from bitfront.searchers.ddpg import Agent, AgentConfig, truncated_normal
from bitfront.searchers.replay import Memory, Transitions


def rng(seed=0):
    return np.random.default_rng(seed)


def random_batch(count=64, features=3, seed=0):
    draw = rng(seed)
    return Transitions(
        draw.random((count, features), dtype=np.float32),
        draw.random(count, dtype=np.float32),
        draw.random(count, dtype=np.float32),
        draw.random((count, features), dtype=np.float32),
        draw.random(count) < 0.5,
    )


# The noise


@settings(max_examples=50, deadline=None)
@given(mean=st.floats(0, 1), sigma=st.floats(1e-3, 5), seed=st.integers(0, 2**32))
def test_noise_stays_among_the_actions(mean, sigma, seed):
    drawn = truncated_normal(np.full(100, mean, np.float32), sigma, rng(seed))
    assert drawn.dtype == np.float32
    assert np.all((drawn >= 0) & (drawn <= 1))


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.5), (0.0, 0.2), (0.9, 0.05)])
def test_noise_follows_the_truncated_normal_law(mean, sigma):
    drawn = truncated_normal(np.full(200_000, mean, np.float32), sigma, rng())
    law = truncnorm(-mean / sigma, (1 - mean) / sigma, mean, sigma)
    assert drawn.mean() == pytest.approx(law.mean(), abs=0.003)
    assert drawn.std() == pytest.approx(law.std(), abs=0.003)


def test_no_noise_is_the_action_itself():
    mean = np.array([0.0, 0.25, 1.0], np.float32)
    assert truncated_normal(mean, 0.0, rng()).tolist() == mean.tolist()


# Learning


def reward_of(actions, states):
    """The best action is 0.8 where the first feature is large, 0.2 where it is small."""
    return -((actions - np.where(states[:, 0] > 0.5, 0.8, 0.2)) ** 2).astype(np.float32)


def taught(config, updates=600, seed=0):
    draw = rng(seed)
    agent, memory = Agent(2, draw, config), Memory(2, 2000)
    states = draw.random((2000, 2), dtype=np.float32)
    actions = draw.random(2000, dtype=np.float32)
    rewards = reward_of(actions, states)
    memory.add(Transitions(states, actions, rewards, states, np.ones(2000, bool)))
    for _ in range(updates):
        agent.update(memory.at(memory.draw(64, draw)))
    return agent


def test_it_learns_which_action_is_best_in_which_state():
    agent = taught(AgentConfig(actor_lr=1e-3))
    low, high = agent.act(np.array([[0.1, 0.5], [0.9, 0.5]], np.float32))
    assert low == pytest.approx(0.2, abs=0.1)
    assert high == pytest.approx(0.8, abs=0.1)


def test_what_follows_counts_as_the_target_networks_value_it():
    """By hand, in NumPy: r - baseline + gamma Q'(s', mu'(s')), and nothing after an end."""

    def through(state, name, x):
        for layer in (0, 2, 4):
            x = x @ state[f"{name}.{layer}.weight"].T + state[f"{name}.{layer}.bias"]
            x = np.maximum(x, 0) if layer < 4 else x
        return x

    agent, batch = Agent(3, rng(), AgentConfig(gamma=0.9)), random_batch(8)
    state = agent.state()
    action = 1 / (1 + np.exp(-through(state, "actor_target", batch.next_states)))
    value = through(state, "critic_target", np.hstack([batch.next_states, action]))[:, 0]
    expected = batch.rewards - batch.rewards.mean() + 0.9 * ~batch.ends * value
    found = agent._returns(*map(torch.from_numpy, (batch.rewards, batch.next_states, batch.ends)))
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_target_networks_follow_slowly():
    agent = Agent(3, rng(), AgentConfig(gamma=1.0, tau=0.25))
    before = agent.state()
    agent.update(random_batch())
    after = agent.state()
    name = "critic{}.0.weight"
    expected = 0.75 * before[name.format("_target")] + 0.25 * after[name.format("")]
    assert after[name.format("_target")] == pytest.approx(expected, abs=1e-6)


def test_the_actor_learns_in_one_of_so_many_updates():
    agent = Agent(3, rng(), AgentConfig(actor_every=2))
    digests = [agent.digest]
    for seed in range(4):
        agent.update(random_batch(seed=seed))
        digests.append(agent.digest)
    same = [before == after for before, after in pairwise(digests)]
    assert same == [True, False, True, False]


def test_the_same_seed_and_updates_give_the_same_agent():
    assert taught(None, 20).digest == taught(None, 20).digest
    assert taught(None, 20).digest != taught(None, 20, seed=1).digest


def test_it_draws_nothing_from_global_generators():
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    taught(None, 3)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_an_agent_goes_on_from_a_state_as_if_nothing_had_happened():
    agent = taught(None, 20)
    other = Agent(2, rng(9))
    other.restore(agent.state())
    batch = random_batch(features=2)
    agent.update(batch)
    other.update(batch)
    assert agent.digest == other.digest
    assert all(np.array_equal(v, other.state()[k]) for k, v in agent.state().items())


def test_a_state_is_arrays_and_plain_values():
    rest = {k: v for k, v in Agent(2, rng()).state().items() if not isinstance(v, np.ndarray)}
    assert json.loads(json.dumps(rest)) == rest == {"baseline": None, "updates": 0}


def test_the_first_update_by_hand():
    """The baseline is the batch's mean, and without a later reward that is all there is."""
    agent = Agent(2, rng(), AgentConfig(gamma=0.0))
    batch = random_batch(8, 2)
    rewards = torch.from_numpy(batch.rewards)
    wanted = agent._returns(rewards, torch.from_numpy(batch.next_states), torch.ones(8) > 0)
    assert torch.allclose(wanted, rewards - rewards.mean())
    wanted = agent._returns(2 * rewards, torch.from_numpy(batch.next_states), torch.ones(8) > 0)
    assert torch.allclose(wanted, 2 * rewards - 1.5 * rewards.mean())
