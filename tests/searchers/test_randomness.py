import json

import pytest

from bitfront.searchers.randomness import generator, generator_state
from bitfront.spaces import StudyError


def draws(made):
    return [*made.integers(2**62, size=3), *(child.random() for child in made.spawn(2))]


def test_seed_and_label_decide():
    assert draws(generator(1, "a")) == draws(generator(1, "a"))
    assert draws(generator(1, "a")) != draws(generator(2, "a"))
    assert draws(generator(1, "a")) != draws(generator(1, "b"))


def test_a_generator_goes_on_where_it_stood_and_spawns_others():
    made = generator(3, "a")
    made.integers(10, dtype="uint32")  # half of a word is kept for the next draw
    made.spawn(2)
    state = json.loads(json.dumps(generator_state(made)))
    assert draws(generator(3, "a", state)) == draws(made)


@pytest.mark.parametrize("state", [{}, {"spawned": 0, "bits": {}}, {"spawned": -1, "bits": None}])
def test_another_state_is_refused(state):
    with pytest.raises(StudyError, match="no state of its generator"):
        generator(0, "a", state)
