"""What is to be expected of every level, measured on data such as is to come."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...spaces import ModelError
from ..dynamic.cascade import confidence
from .guardrail import Expected, Signal
from .levels import Level
from .policy import Integers, Policy
from .runs import Runs, answer

Floats = npt.NDArray[np.float64]

UNSURE_SHARE = 0.1
"""Share of the inputs that count as unsure where no labels say how many are answered wrongly."""

_LEAST_UNSURE = 0.01
"""Smallest such share: of a level that is never wrong, the least sure inputs count still."""


class Calibration:
    """Collects what levels answer at set-up, each as the floor of the policy.

    Args:
        levels: From low to high.
        policy: Who answers.
        classes: How many logits an input has.

    Attributes:
        inputs: How many there were.
        labelled: How many of them had labels.
    """

    def __init__(self, levels: Sequence[Level], policy: Policy, classes: int) -> None:
        self._levels, self._policy, self._classes = levels, policy, classes
        self._energies = np.array([level.energy for level in levels])
        self._ran = np.zeros((len(levels), len(levels)), dtype=np.int64)
        self._sure: list[list[Floats]] = [[] for _ in levels]
        self._differs, self._wrong, self._wrong_alone = np.zeros((3, len(levels)), dtype=np.int64)
        self.inputs = self.labelled = 0

    @torch.inference_mode()
    def add(self, x: Tensor, labels: Tensor | None) -> None:
        """Run a batch at every level.

        Raises:
            ModelError: If a level or the policy fails.
        """
        rows = np.arange(len(x))
        runs = Runs(self._levels, x, self._classes)
        known = np.full(len(x), -1) if labels is None else labels.numpy()
        top: Integers | None = None
        for level in reversed(range(len(self._levels))):
            path = answer(runs, len(self._levels), self._policy, level, rows)
            reasons = [*runs.failures.values(), *(reason for _, reason in path.faults.values())]
            if reasons:
                name = self._levels[level].name
                raise ModelError(f"level {name!r} failed at set-up: {reasons[0]}")
            tops = runs.all_logits.argmax(dim=2).numpy()
            answers = tops[path.level, rows]
            top = answers if top is None else top
            self._differs[level] += int((answers != top).sum())
            self._wrong[level] += int((answers != known)[known >= 0].sum())
            self._wrong_alone[level] += int((tops[level] != known)[known >= 0].sum())
            self._sure[level].append(confidence(runs.logits(level, rows)))
            self._ran[level] += path.ran.sum(axis=0)
        self.inputs += len(x)
        self.labelled += int((known >= 0).sum())

    @property
    def energies(self) -> list[float]:
        """Mean energy of an answer with each level as the floor."""
        deciding = self._ran[:, :-1].sum(axis=1) * self._policy.decision_energy
        found: list[float] = ((self._ran @ self._energies + deciding) / self.inputs).tolist()
        return found

    def unsure_below(self, level: int) -> float:
        """Return the top-1 probability below which a level counts as unsure.

        As many inputs are as it would answer wrongly by itself, so that the share of those that it
        is sure of estimates its accuracy.

        Raises:
            ModelError: If it would answer all of them wrongly.
        """
        share = self._wrong_alone[level] / self.labelled if self.labelled else UNSURE_SHARE
        if share == 1:
            raise ModelError(
                f"level {self._levels[level].name!r} is wrong on all {self.labelled} labelled "
                "inputs of the set-up, so that nothing tells when it is sure"
            )
        sure = np.sort(np.concatenate(self._sure[level]))
        return float(sure[int(max(share, _LEAST_UNSURE) * len(sure))])

    def expected(self, level: int) -> Expected:
        """Return what is to be expected of a level.

        Raises:
            ModelError: If it is always wrong.
        """
        sure = np.concatenate(self._sure[level])
        bad: dict[Signal, int] = {
            "agreement": int(self._differs[level]),
            "confidence": int((sure < self.unsure_below(level)).sum()),
        }
        if self.labelled == self.inputs:
            bad["accuracy"] = int(self._wrong[level])
        return Expected(self.inputs, bad)
