"""An audit log as a controller keeps it: it may fail, and what it missed is said afterwards."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .audit import AuditLog


class ControllerWarning(UserWarning):
    """A controller cannot write down what it does."""


class Journal:
    """Writes events with the time.

    Args:
        log: Where to; nowhere if None.
        clock: Seconds since 1970.
    """

    def __init__(self, log: AuditLog | None, clock: Callable[[], float]) -> None:
        self._log, self._clock = log, clock
        self._gap: dict[str, Any] | None = None
        self._has_warned = False

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event, and before it what was missed.

        Raises:
            Exception: Whatever log and clock raise.
        """
        if self._log is None:
            return
        now = self._clock()
        if self._gap is not None:
            self._log.append(self._gap, now)
            self._gap = None
        self._log.append(event, now)

    def missed(self, number: int, level: str, reason: str) -> None:
        """Note that an event could not be written, and warn the first time.

        Args:
            number: Of the input from which on the log cannot be followed.
            level: In force since then.
            reason: Why.
        """
        if self._gap is None:
            self._gap = {"event": "gap", "input": number, "to": level, "reason": reason, "lost": 0}
        self._gap["lost"] += 1
        if not self._has_warned:
            self._has_warned = True
            with suppress(Warning):  # where warnings are errors, and inference must go on
                warnings.warn(
                    f"the audit log cannot be written, so that level {level!r} stays in force "
                    f"until it can: {reason}",
                    ControllerWarning,
                    stacklevel=2,
                )

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None
