"""What an agent that learns from experience remembers of it; light, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Transitions:
    """Steps of an agent, one per row.

    Attributes:
        states: ``n x S``; where it was.
        actions: ``n``, in [0, 1]; what was done, which may not be what it proposed.
        rewards: ``n``.
        next_states: ``n x S``; where it came to, of no importance at the end of an episode.
        ends: ``n``; whether the episode ended there.
    """

    states: Floats
    actions: Floats
    rewards: Floats
    next_states: Floats
    ends: npt.NDArray[np.bool_]

    @classmethod
    def of_episode(cls, states: Floats, actions: Floats, reward: float) -> Self:
        """Return the steps of one episode, in order, each with the reward of its end.

        Args:
            states: ``n x S``, in order.
            actions: ``n``.
            reward: Given to every step.
        """
        ends = np.zeros(len(states), dtype=bool)
        ends[-1:] = True
        rewards = np.full(len(states), reward, dtype=np.float32)
        return cls(states, actions, rewards, np.roll(states, -1, axis=0), ends)

    def __len__(self) -> int:
        return len(self.states)


class Memory:
    """The last transitions, to be drawn from.

    Args:
        features: Numbers that describe a state.
        capacity: Transitions that are kept; further ones take the place of the oldest.
    """

    def __init__(self, features: int, capacity: int) -> None:
        self._rows = np.zeros((capacity, 2 * features + 3), dtype=np.float32)
        self._features = features
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._rows))

    def add(self, transitions: Transitions) -> npt.NDArray[np.int64]:
        """Keep transitions; return their places, from which they will be gone some day."""
        places = (self._added + np.arange(len(transitions))) % len(self._rows)
        self._rows[places] = np.column_stack(
            [
                transitions.states,
                transitions.actions,
                transitions.rewards,
                transitions.ends,
                transitions.next_states,
            ]
        )
        self._added += len(transitions)
        return places

    def draw(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the places of transitions drawn at random, each equally likely every time."""
        return rng.integers(len(self), size=count)

    def at(self, places: npt.NDArray[np.int64]) -> Transitions:
        """Return the transitions of some places."""
        rows, n = self._rows[places], self._features
        return Transitions(
            rows[:, :n],
            rows[:, n],
            rows[:, n + 1],
            rows[:, n + 3 :],
            rows[:, n + 2] > 0,
        )

    def state(self) -> dict[str, Any]:
        """Return all it keeps; `restore` is the inverse."""
        return {"rows": self._rows[: len(self)].copy(), "added": self._added}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the memory whose `state` this was, of as many features and the same capacity."""
        self._rows[: len(state["rows"])] = state["rows"]
        self._added = state["added"]


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a state whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
