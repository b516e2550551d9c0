"""Levels that do what their inputs say, so that a controller can be tested without a network.

An input is (class, hardness, what happens): a level is right about it if it is not too hard for it,
the surer the easier it is; about others it is unsure.
"""

import numpy as np
import torch
from torch import Tensor

from bitfront.models.runtime.levels import Level
from bitfront.spaces import BitAllocation

CLASSES = 10
REACH = (1.0, 1.5, 2.0)
NAMES = ("low", "mid", "high")
FAILS, NOT_FINITE = 10, 20
"""Plus a level's number: it and all below it fail so."""


def toy_levels(count: int = 3) -> tuple[Level, ...]:
    def level(number: int) -> Level:
        place = number if count == 3 or number == 0 else 2
        width = (4, 6, 8)[place]

        def run(x: Tensor) -> Tensor:
            what = x[:, 2]
            if ((what >= FAILS + place) & (what < FAILS + 3)).any():
                raise RuntimeError(f"{NAMES[place]} fails")
            margin = REACH[place] - x[:, 1]
            found = torch.where(margin > 0, x[:, 0], (x[:, 0] + 1) % CLASSES).long()
            logits = torch.nn.functional.one_hot(found, CLASSES) * (1 + 8 * margin.relu())[:, None]
            logits[(what >= NOT_FINITE + place) & (what < NOT_FINITE + 3)] = torch.nan
            return logits

        return Level(NAMES[place], BitAllocation(["a"], [width], [width]), width / 8, width**2, run)

    return tuple(level(number) for number in range(count))


def inputs(
    count: int, seed: int, *, hard: float = 0.05, what: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return inputs of which some are too hard for the lowest level, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    easy = rng.uniform(0, 0.9, count)
    hardness = np.where(rng.random(count) < hard, rng.uniform(1.0, 1.9, count), easy)
    columns = np.stack([labels, hardness, np.full(count, what)], axis=1)
    return torch.tensor(columns, dtype=torch.float32), torch.from_numpy(labels)
