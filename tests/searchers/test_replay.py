import numpy as np

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


def test_a_memory_goes_on_from_a_state():
    memory, again = Memory(3, 10), Memory(3, 10)
    memory.add(random_batch(4))
    again.restore(memory.state())
    assert len(again) == 4
    assert np.array_equal(again.at(np.arange(4)).states, memory.at(np.arange(4)).states)
    assert again.add(random_batch(1)).tolist() == [4]
