"""What levels make of a batch of inputs, and who answers.

A failure stays with the input it is of: the others of its batch are run without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .levels import Level
from .policy import Integers, Policy

Flags = npt.NDArray[np.bool_]

POLICY = -1
"""Stands for the policy where a level could stand."""


class Runs:
    """The logits of inputs at levels, each computed once and when it is needed.

    Args:
        levels: From low to high.
        x: Inputs.
        classes: How many logits an input has.
    """

    def __init__(self, levels: Sequence[Level], x: Tensor, classes: int) -> None:
        self._levels = levels
        self._x = x
        self._logits = torch.full((len(levels), len(x), classes), torch.nan)
        self.ran: Flags = np.zeros((len(x), len(levels)), dtype=bool)
        self.failures: dict[tuple[int, int], str] = {}

    def logits(self, level: int, rows: Integers) -> Tensor:
        """Return the logits of some inputs at a level; NaN where it failed."""
        missing = rows[~self.ran[rows, level]]
        if len(missing):
            self.ran[missing, level] = True
            self._run(level, missing)
        return self._logits[level, torch.from_numpy(rows)]

    @property
    def all_logits(self) -> Tensor:
        """``levels x n x classes``; NaN where a level was not run or failed."""
        return self._logits

    def failed(self, level: int, rows: Integers) -> Flags:
        """Return for which inputs a level failed that was run on them."""
        if not self.failures:
            return np.zeros(len(rows), dtype=bool)
        return np.array([(row, level) in self.failures for row in rows.tolist()], dtype=bool)

    def _run(self, level: int, rows: Integers) -> None:
        everything = len(rows) == len(self._x)
        index = torch.from_numpy(rows)
        try:
            logits = self._levels[level].run(self._x if everything else self._x[index])
            expected = (len(rows), self._logits.shape[2])
            if tuple(logits.shape) != expected:
                raise ValueError(f"logits have shape {tuple(logits.shape)}, expected {expected}")
        except Exception as error:  # whatever the network makes of an input
            if len(rows) == 1:
                self.failures[int(rows[0]), level] = describe(error)
                return
            for row in rows:
                self._run(level, np.array([row]))
            return
        finite = torch.isfinite(logits).all(dim=1)
        self._logits[level, index[finite]] = logits[finite].float()
        for row in rows[~finite.numpy()].tolist():
            self.failures[row, level] = "logits are not finite"


@dataclass(frozen=True)
class Path:
    """Who answered inputs, and at what cost.

    Attributes:
        level: Of every input, the level that answered.
        ran: ``n x levels``: which were run for that.
        faults: By input, the lower level that failed, or `POLICY`, and why.
    """

    level: Integers
    ran: Flags
    faults: dict[int, tuple[int, str]]


def answer(runs: Runs, levels: int, policy: Policy, floor: int, rows: Integers) -> Path:
    """Run inputs from a level on upwards until an answer stands.

    An input that a level fails on, or the policy, is answered by the highest level.

    Args:
        runs: Runs them.
        levels: How many there are.
        policy: Says when an answer stands.
        floor: The first level.
        rows: Which inputs, ``n``.
    """
    highest = levels - 1
    at = np.full(len(rows), floor, dtype=np.int64)
    ran = np.zeros((len(rows), levels), dtype=bool)
    faults: dict[int, tuple[int, str]] = {}
    for level in range(floor, levels):
        mine = np.flatnonzero(at == level)
        if not len(mine):
            continue
        ran[mine, level] = True
        logits = runs.logits(level, rows[mine])
        if level == highest:
            break
        failed = runs.failed(level, rows[mine])
        for place in mine[failed].tolist():
            faults[place] = (level, runs.failures[int(rows[place]), level])
            at[place] = highest
        whole = mine[~failed]
        try:
            chosen = policy.next_levels(logits[torch.from_numpy(~failed)], level)
            at[whole] = _checked(chosen, level, highest, len(whole))
        except Exception as error:  # a policy may be anybody's
            faults |= dict.fromkeys(whole.tolist(), (POLICY, describe(error)))
            at[whole] = highest
    return Path(at, ran, faults)


def _checked(found: Integers, level: int, highest: int, count: int) -> Integers:
    levels = np.asarray(found)
    if levels.shape != (count,) or not ((levels >= level) & (levels <= highest)).all():
        raise ValueError(f"the policy named levels out of {level} to {highest} for {count} inputs")
    return levels


def describe(error: Exception) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def decisions(path: Path) -> Integers:
    """Return how often it was decided for each input whether an answer stands."""
    found: Integers = path.ran[:, :-1].sum(axis=1)
    return found
