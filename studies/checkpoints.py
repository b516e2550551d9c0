"""Checkpoints on their way into the ledger: the newest of each trial, as often as costs little."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .ledger import Ledger

WRITING_SHARE = 0.05
"""Share of the time that writing checkpoints may take: who writes keeps all others waiting."""


@dataclass
class _Trial:
    """Where a trial that saves stands.

    Attributes:
        waiting: The signature and the newest checkpoint, unless that is in the ledger.
        due_s: When the next may be written, on the clock.
    """

    waiting: tuple[str, bytes] | None = None
    due_s: float = 0.0


class Checkpoints:
    """Writes checkpoints to a ledger.

    A strategy may save after every step, and a checkpoint is megabytes. So a trial's next is
    written once the time since its last is long against what writing took, and long enough for all
    trials that save to do the same. One that comes sooner waits here for the next, or for the
    trial's end. A study that is killed loses a few steps that way, if its steps are short.

    Args:
        ledger: Where they are written.
        clock: Returns seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._trials: dict[str, _Trial] = {}

    def get(self, trial: str, signature: str | None = None) -> bytes | None:
        """Return what a trial saved last; None if it saved nothing under this signature, if any."""
        self._write(trial)
        return self._ledger.checkpoint(trial, signature)

    def put(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before."""
        saving = self._trials.setdefault(trial, _Trial())
        saving.waiting = (signature, data)
        if self._clock() >= saving.due_s:
            self._write(trial)

    def end(self, trial: str) -> None:
        """Write what is waiting of a trial that has ended."""
        self._write(trial)
        self._trials.pop(trial, None)

    def close(self) -> None:
        """Write all that is waiting."""
        for trial in list(self._trials):
            self.end(trial)

    def _write(self, trial: str) -> None:
        saving = self._trials.get(trial)
        if saving is None or saving.waiting is None:
            return
        waiting, saving.waiting = saving.waiting, None
        started = self._clock()
        self._ledger.put_checkpoint(trial, *waiting)
        ended = self._clock()
        saving.due_s = ended + len(self._trials) * (ended - started) / WRITING_SHARE
