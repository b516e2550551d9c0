"""A deployed network that chooses its precision while it runs, watched and written down.

After "Dynamic Precision Tuning for Energy Savings", an article of 2025: a policy by confidence,
continuous validation with an automatic rollback, and an audit log of when and where precision
changed.
"""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...spaces import ModelError
from .answers import Answer, Floats, Seen, Shadow, joined, nothing
from .audit import AuditError, AuditLog
from .calibration import Calibration
from .guardrail import Guardrail, GuardSettings, Signal
from .journal import Journal
from .levels import Level, check_levels
from .policy import FixedPolicy, Integers, Policy
from .runs import POLICY, Path, Runs, answer, decisions, describe

FORMAT = 1
"""Of the audit log's events."""


class PrecisionController:
    """Answers inputs at the lowest precision that is as good as it was measured to be.

    The *floor* is the level that inputs are first run at. The policy may have an input answered by
    a higher one; the guardrail raises the floor to the highest when answers get worse than chance
    explains, and lowers it step by step when they would be as expected again. Inputs are taken in
    order, and nothing depends on those that come later, so that a batch gives what its inputs give
    one by one. The controller starts at the highest level and leaves it once it is calibrated.

    It never raises while it answers. An input that a level fails on, or the policy, is answered by
    the highest level, which is then in force; so it is when the guardrail fails or the log cannot
    be written. What the highest level fails on is answered with NaN.

    It is for one thread.

    Args:
        levels: From low to high, see `prepare_levels`.
        classes: How many logits an input has.
        policy: Who answers an input; the floor if None.
        guardrail: What is watched.
        audit: Where changes are written down; nowhere if None.
        clock: Seconds since 1970.
        name: Of the network, for the log.

    Raises:
        ModelError: If the levels are out of order.
        AuditError: If the log cannot be written.

    Attributes:
        levels: From low to high.
        policy: Who answers an input.
        settings: What is watched.
        inputs: How many were answered so far.
        history: The floor since the first input: numbers of inputs, and the level from each on.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        classes: int,
        policy: Policy | None = None,
        guardrail: GuardSettings | None = None,
        audit: AuditLog | None = None,
        clock: Callable[[], float] = time.time,
        name: str = "model",
    ) -> None:
        check_levels(levels)
        self.levels = tuple(levels)
        self.policy: Policy = policy or FixedPolicy()
        self.settings = guardrail or GuardSettings()
        self.inputs = 0
        self._classes, self._name = classes, name
        self._highest = len(self.levels) - 1
        self.history: list[tuple[int, int]] = [(0, self._highest)]
        self._energies = np.array([level.energy for level in self.levels])
        self._usual_energies = [level.energy for level in self.levels]
        self._usual_shares: list[Mapping[Signal, float]] = [{} for _ in self.levels]
        self._guardrail: Guardrail | None = None
        self._unsure_below: Floats = np.zeros(0)
        self._failures: dict[str, int] = {}
        self._journal = Journal(audit, clock)
        try:
            self._journal.write(self._description())
        except Exception as error:
            raise AuditError(f"the audit log cannot be written: {describe(error)}") from error

    @property
    def floor(self) -> int:
        """The level in force."""
        return self.history[-1][1]

    @property
    def states(self) -> list[str]:
        """The name of the level in force at every input so far."""
        ends = [first for first, _ in self.history[1:]] + [self.inputs]
        return [
            self.levels[level].name
            for (first, level), end in zip(self.history, ends, strict=True)
            for _ in range(first, end)
        ]

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Measure what is to be expected of every level, and go to the lowest.

        The data must be such as is to come and unseen in training, where levels agree more than
        they ever will again.

        Args:
            batches: Inputs, with labels or None.

        Raises:
            ModelError: If there are no inputs, accuracy is watched and there are no labels, or a
                level fails or is always wrong.
        """
        found = Calibration(self.levels, self.policy, self._classes)
        for x, labels in batches:
            found.add(x, labels)
        if not found.inputs:
            raise ModelError("calibrate needs at least one batch of inputs, got none")
        expected = [found.expected(level) for level in range(self._highest + 1)]
        guardrail = Guardrail(self.settings, expected[:-1])
        self._guardrail = None  # what it has seen so far was held against other expectations
        self._unsure_below = np.array([found.unsure_below(n) for n in range(self._highest)])
        self._usual_energies = found.energies
        self._usual_shares = [
            {signal: 1 - bad / each.inputs for signal, bad in each.bad.items()} for each in expected
        ]
        facts = {"set_up_inputs": found.inputs, "set_up_labels": found.labelled}
        if self.floor > 0:
            self.step_down(0, "as measured at set-up", facts)
        self._guardrail = guardrail

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Answer:
        """Answer inputs.

        Args:
            x: ``n`` of them.
            labels: ``n``, where they are known; -1 stands for one that is not.
        """
        before = self.inputs
        try:
            return self._answer(x, labels)
        except Exception as error:  # no fault of ours may stop an inference
            self._failed("the controller", before, describe(error))
            self.roll_back(f"the controller failed: {describe(error)}")
            answered = self._last_resort(x)
            self.inputs = before + len(answered.level)
            return answered

    def roll_back(self, reason: str) -> None:
        """Go to the highest level, from the next input on.

        Args:
            reason: Why, for the log.
        """
        if self.floor < self._highest:
            event = self._switch(self._highest, reason, {})
            self._enter(self._highest)
            self._write(event)

    def step_down(self, to: int, reason: str, facts: Mapping[str, Any] | None = None) -> bool:
        """Go to a lower level from the next input on, if that can be written down.

        Args:
            to: The level.
            reason: Why, for the log.
            facts: What else the log is to say.

        Returns:
            Whether it is in force.
        """
        if not 0 <= to < self.floor or not self._write(self._switch(to, reason, facts or {})):
            return False
        self._enter(to)
        return True

    def close(self) -> None:
        """Write down how many inputs there were, and close the log."""
        self._write({"event": "stop", "input": self.inputs})
        self._journal.close()

    # Answering

    @torch.inference_mode()
    def _answer(self, x: Tensor, labels: Tensor | None) -> Answer:
        known = self._known(labels, len(x))
        parts = [nothing(self._classes)]
        done = 0
        while done < len(x):
            part = self._answer_some(x[done:], None if known is None else known[done:])
            parts.append(part)
            done += len(part.level)
        return joined(parts)

    def _answer_some(self, x: Tensor, labels: Integers | None) -> Answer:
        """Answer inputs up to the first after which another level is in force.

        All are run at once, before it is known which that is, and those behind it are run again. On
        a device that takes one input at a time they would not have been; so they are not counted.
        """
        seen = self._run(x, labels)
        count = 0
        while count < len(x) and self.floor == seen.floor:
            self.inputs += 1
            self._look(seen, count)
            count += 1
        return self._told(seen, count)

    def _run(self, x: Tensor, labels: Integers | None) -> Seen:
        """Run inputs at the level in force, and some of them in the shadow."""
        floor, rows = self.floor, np.arange(len(x))
        runs = Runs(self.levels, x, self._classes)
        path = answer(runs, len(self.levels), self.policy, floor, rows)
        shadow: Shadow | None = None
        checked = rows[(self.inputs + rows + 1) % self.settings.check_every == 0]
        compared = rows if floor == self._highest else rows[:0]
        if self._guardrail is not None and len(checked):
            if floor < self._highest and "agreement" in self.settings.signals:
                compared = checked
                runs.logits(self._highest, checked)
            if floor > 0:
                below = answer(runs, len(self.levels), self.policy, floor - 1, checked)
                shadow = Shadow(checked, below)
        return Seen(runs, path, floor, labels, compared, shadow)

    def _told(self, seen: Seen, count: int) -> Answer:
        """Return the answers to the first inputs."""
        path, ran = seen.path, seen.runs.ran
        rows, deciding = np.arange(len(ran)), self.policy.decision_energy
        shadow = (ran & ~path.ran) @ self._energies
        if seen.shadow is not None:
            shadow[seen.shadow.rows] += decisions(seen.shadow.path) * deciding
        return Answer(
            seen.runs.all_logits[path.level, rows][:count],
            path.level[:count],
            np.full(count, seen.floor, dtype=np.int64),
            (path.ran @ self._energies + decisions(path) * deciding)[:count],
            shadow[:count],
        )

    def _look(self, seen: Seen, row: int) -> None:
        """Take note of an answer, and change the level if that is due."""
        number = self.inputs - 1
        failure = seen.runs.failures.get((row, self._highest))
        if failure is not None:
            self._failed(self._who(self._highest), number, failure)
            if seen.path.level[row] == self._highest:
                return  # nobody can answer this input; that says nothing of a level
        if row in seen.path.faults:
            level, reason = seen.path.faults[row]
            self._failed(self._who(level), number, reason)
            self.roll_back(f"{self._who(level)} failed: {reason}")
        elif self._guardrail is not None:
            try:
                self._watch(self._guardrail, seen, row)
            except Exception as error:
                self._failed("the guardrail", number, describe(error))
                self.roll_back(f"the guardrail failed: {describe(error)}")

    def _watch(self, guardrail: Guardrail, seen: Seen, row: int) -> None:
        floor = seen.floor
        if floor < self._highest and "accuracy" in self.settings.signals and seen.labels is None:
            reason = "accuracy is watched and there are no labels"
            self._failed("labels", self.inputs - 1, reason)
            self.roll_back(reason)
            return
        sure = self._unsure_below
        guardrail.observe(floor, seen.outcomes(row, seen.path.level[row], floor, sure))
        if floor < self._highest and seen.compared(row):
            outcomes = seen.outcomes(row, self._highest, self._highest, sure)
            guardrail.observe(self._highest, outcomes)
        if seen.shadow is not None and (place := seen.place(row)) is not None:
            guardrail.observe(floor - 1, self._tried(seen, seen.shadow.path, place, row))
        move = guardrail.decide(floor)
        if move is None:
            return
        if move.to > floor:
            self.roll_back(move.reason)
        elif not self.step_down(move.to, move.reason):
            guardrail.forget(move.to)

    def _tried(self, seen: Seen, below: Path, place: int, row: int) -> Mapping[Signal, bool]:
        """Return what became of an input one level below the one in force."""
        if place in below.faults:
            level, reason = below.faults[place]
            self._failed(self._who(level), self.inputs - 1, reason)
            return dict.fromkeys(self.settings.signals, True)
        return seen.outcomes(row, below.level[place], seen.floor - 1, self._unsure_below)

    def _who(self, level: int) -> str:
        return "the policy" if level == POLICY else f"level {self.levels[level].name}"

    def _known(self, labels: Tensor | None, count: int) -> Integers | None:
        if labels is None:
            return None
        try:
            known = np.asarray(labels).astype(np.int64)
            if known.shape != (count,):
                raise ValueError(f"labels have shape {known.shape} for {count} inputs")
        except Exception as error:
            self._failed("labels", self.inputs, describe(error))
            return None
        return known

    def _last_resort(self, x: Any) -> Answer:
        """Return the answers of the highest level to whatever was given, or NaN."""
        try:
            count = len(x)
        except TypeError:
            count = 1
        logits = torch.full((count, self._classes), torch.nan)
        with suppress(Exception):
            found = self.levels[-1].run(x)
            if found.shape == logits.shape:
                logits = found.float()
        level = np.full(count, self._highest, dtype=np.int64)
        energy = np.full(count, self.levels[-1].energy)
        return Answer(logits, level, level, energy, np.zeros(count))

    # Changing the level, and writing it down

    def _enter(self, to: int) -> None:
        before = self.floor
        self.history.append((self.inputs, to))
        with suppress(Exception):  # it is the guardrail's failure that may have led here
            if self._guardrail is not None:
                self._guardrail.moved(before, to, self.inputs)

    def _failed(self, who: str, number: int, reason: str) -> None:
        """Write a failure down, the less often the more there are."""
        count = self._failures[who] = self._failures.get(who, 0) + 1
        if count & (count - 1) == 0:
            event = {"event": "failure", "input": number, "what": who}
            self._write(event | {"reason": reason, "count": count})

    def _write(self, event: Mapping[str, Any]) -> bool:
        """Write an event down; where that fails, the highest level is in force."""
        try:
            self._journal.write(event)
        except Exception as error:
            self._journal.missed(self.inputs, self.levels[-1].name, describe(error))
            if self.floor < self._highest:
                self._enter(self._highest)
            return False
        return True

    def _description(self) -> Mapping[str, Any]:
        return {
            "event": "start",
            "format": FORMAT,
            "input": 0,
            "what": self._name,
            "to": self.levels[-1].name,
            "versions": {
                "bitfront": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "levels": [
                {
                    "name": level.name,
                    "energy": level.energy,
                    "energy_pj": level.energy_pj,
                    "allocation": level.allocation.to_dict(),
                }
                for level in self.levels
            ],
            "policy": self.policy.to_dict(),
            "guardrail": self.settings.to_dict(),
        }

    def _switch(self, to: int, reason: str, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        before, after = self.levels[self.floor], self.levels[to]
        event: dict[str, Any] = {
            "event": "switch",
            "input": self.inputs,
            "what": self._name,
            "layers": _differing(before, after),
            "from": before.name,
            "to": after.name,
            "reason": reason,
        }
        for when, level in (("before", self.floor), ("after", to)):
            energy = self._usual_energies[level]
            event[f"energy_{when}"] = energy
            event[f"energy_pj_{when}"] = self._in_pj(energy)
            for signal in ("agreement", "accuracy"):
                share, count = self._share(level, signal)
                event[f"{signal}_{when}"] = share
                event[f"{signal}_{when}_inputs"] = count
                event[f"{signal}_{when}_at_set_up"] = self._usual_shares[level].get(signal)
        return event | dict(facts)

    def _share(self, level: int, signal: Signal) -> tuple[float | None, int]:
        """Return the share of good answers of late, and of how many; None if it is not known."""
        if self._guardrail is not None:
            with suppress(Exception):  # it is the guardrail's failure that may be written down
                return self._guardrail.good_share(level, signal)
        return None, 0

    def _in_pj(self, energy: float) -> float | None:
        highest = self.levels[-1]
        return None if highest.energy_pj is None else energy * highest.energy_pj / highest.energy


def _differing(one: Level, other: Level) -> int:
    """Return how many layers have other widths."""
    pairs = zip(one.allocation.to_dict().values(), other.allocation.to_dict().values(), strict=True)
    return sum(widths != others for widths, others in pairs)
