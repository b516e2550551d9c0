"""What a controller answers, and what it can tell of inputs while it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..dynamic.cascade import confidence
from .guardrail import Signal
from .policy import Integers
from .runs import Path, Runs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a controller makes of ``n`` inputs.

    Attributes:
        logits: ``n x classes``; NaN for an input on which the highest level failed.
        level: The level that answered each.
        floor: The level that was in force for each.
        energy: Of all levels that were run for the answer, and of deciding; relative to uniform 8
            bit.
        shadow_energy: Of what was run only to watch, beside that.
    """

    logits: Tensor
    level: Integers
    floor: Integers
    energy: Floats
    shadow_energy: Floats


def nothing(classes: int) -> Answer:
    """Return the answer to no inputs."""
    none = np.zeros(0, dtype=np.int64)
    return Answer(torch.zeros(0, classes), none, none, np.zeros(0), np.zeros(0))


def joined(parts: Sequence[Answer]) -> Answer:
    """Return the answers to inputs one after the other."""
    return Answer(
        torch.cat([part.logits for part in parts]),
        np.concatenate([part.level for part in parts]),
        np.concatenate([part.floor for part in parts]),
        np.concatenate([part.energy for part in parts]),
        np.concatenate([part.shadow_energy for part in parts]),
    )


@dataclass(frozen=True)
class Shadow:
    """Inputs that one level below the one in force was tried on.

    Attributes:
        rows: Which.
        path: Who would have answered them.
    """

    rows: Integers
    path: Path


class Seen:
    """Inputs that were run while one level was in force.

    Args:
        runs: What levels made of them.
        path: Who answered.
        floor: The level in force.
        labels: Of all, -1 for unknown; None if there are none.
        compared: Those that the highest level is run on whatever the policy makes of them.
        shadow: What was tried besides.
    """

    def __init__(
        self,
        runs: Runs,
        path: Path,
        floor: int,
        labels: Integers | None,
        compared: Integers,
        shadow: Shadow | None,
    ) -> None:
        self.runs, self.path, self.floor = runs, path, floor
        self.labels, self.shadow = labels, shadow
        self._compared = frozenset(compared.tolist())
        self._places = (
            {} if shadow is None else {row: n for n, row in enumerate(shadow.rows.tolist())}
        )
        self._top = runs.all_logits.argmax(dim=2).numpy()
        self._sure = confidence(runs.all_logits)

    def place(self, row: int) -> int | None:
        """Return which of the inputs that were tried below an input is, if it is one."""
        return self._places.get(row)

    def compared(self, row: int) -> bool:
        """Return whether an input was run at the highest level, and not because it is hard.

        What the policy sends there agrees with it trivially and is harder than others, so that it
        tells nothing of all inputs.
        """
        return row in self._compared

    def outcomes(self, row: int, level: int, floor: int, sure: Floats) -> Mapping[Signal, bool]:
        """Return whether an answer was bad, by signal, as far as that is known.

        Args:
            row: The input.
            level: Who answered.
            floor: At which level it was first run.
            sure: The top-1 probability below which each level but the highest is unsure.
        """
        found: dict[Signal, bool] = {}
        highest = len(self._top) - 1
        if self.compared(row) and (row, highest) not in self.runs.failures:
            found["agreement"] = bool(self._top[level, row] != self._top[highest, row])
        if self.labels is not None and self.labels[row] >= 0:
            found["accuracy"] = bool(self._top[level, row] != self.labels[row])
        if floor < highest:
            found["confidence"] = bool(self._sure[floor, row] < sure[floor])
        return found
