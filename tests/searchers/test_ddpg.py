import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from bitfront.searchers.ddpg import (
    Agent,
    AgentConfig,
    Memory,
    Transitions,
    truncated_normal,
)


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


# Episodes and memory


def test_every_step_of_an_episode_has_the_reward_of_its_end():
    states = np.arange(6, dtype=np.float32).reshape(3, 2)
    episode = Transitions.of_episode(states, np.array([0.1, 0.2, 0.3], np.float32), -1.5)
    assert episode.rewards.tolist() == [-1.5] * 3
    assert episode.ends.tolist() == [False, False, True]
    assert episode.next_states[:2].tolist() == states[1:].tolist()


def test_a_memory_returns_what_it_was_given():
    memory, batch = Memory(3, 100), random_batch(5)
    found = memory.at(memory.add(batch))
    for name in ("states", "actions", "rewards", "next_states", "ends"):
        assert np.array_equal(getattr(found, name), getattr(batch, name)), name


def test_a_full_memory_forgets_the_oldest():
    memory = Memory(3, 8)
    places = [memory.add(random_batch(5, seed=seed)) for seed in range(3)]
    assert len(memory) == 8
    assert places[2].tolist() == [2, 3, 4, 5, 6]
    assert np.array_equal(memory.at(places[2]).actions, random_batch(5, seed=2).actions)
    assert np.array_equal(memory.at(places[1][-3:]).actions, random_batch(5, seed=1).actions[-3:])


def test_only_what_is_there_is_drawn():
    memory = Memory(3, 100)
    memory.add(random_batch(4))
    assert set(memory.draw(200, rng()).tolist()) == {0, 1, 2, 3}


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


def test_a_first_step_learns_from_the_reward_of_the_second():
    """The second state says what was done in the first, and only there is a reward."""
    draw = rng()
    agent, memory = Agent(2, draw, AgentConfig(actor_lr=1e-3, tau=0.05)), Memory(2, 2000)
    first = np.array([0, 0], np.float32)
    for action in draw.random(500, dtype=np.float32):
        second = np.array([1, action], np.float32)
        reward = -10 * (action - 0.8) ** 2
        memory.add(
            Transitions(
                np.stack([first, second]),
                np.array([action, draw.random()], np.float32),
                np.array([0, reward], np.float32),
                np.stack([second, second]),
                np.array([False, True]),
            )
        )
    for _ in range(800):
        agent.update(memory.at(memory.draw(64, draw)))
    assert agent.act(first[None])[0] == pytest.approx(0.8, abs=0.15)


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
    assert json.loads(json.dumps(rest)) == rest == {"baseline": None}
    memory = Memory(2, 10)
    memory.add(random_batch(4, 2))
    again = Memory(2, 10)
    again.restore(memory.state())
    assert len(again) == 4
    assert np.array_equal(again.at(np.arange(4)).states, memory.at(np.arange(4)).states)


def test_the_first_update_by_hand():
    """The baseline is the batch's mean, and without a later reward that is all there is."""
    agent = Agent(2, rng(), AgentConfig(gamma=0.0))
    batch = random_batch(8, 2)
    rewards = torch.from_numpy(batch.rewards)
    wanted = agent._returns(rewards, torch.from_numpy(batch.next_states), torch.ones(8) > 0)
    assert torch.allclose(wanted, rewards - rewards.mean())
    wanted = agent._returns(2 * rewards, torch.from_numpy(batch.next_states), torch.ones(8) > 0)
    assert torch.allclose(wanted, 2 * rewards - 1.5 * rewards.mean())
