"""An append-only log of what a controller did, one JSON object a line, chained by digests.

Every line carries the digest of the line before and its own, so that an edit anywhere shows; that
whole lines were cut off the end does not. One process writes a log at a time.
"""

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...spaces import BitfrontError

_FIRST = "0" * 64
"""What stands for the digest of the line before the first."""

_MARK = ',"digest":"'

_BEGINNING = re.compile(rb'\{"sequence":\d+,"time":"')
"""How the line of an event begins."""


class AuditError(BitfrontError):
    """An audit log that cannot be opened, or was changed after it was written."""


@dataclass(frozen=True)
class AuditTrail:
    """What an audit log says.

    Attributes:
        events: In order.
        torn: What was cut off within its last line, if anything: a sentence.
    """

    events: tuple[Mapping[str, Any], ...]
    torn: str | None = None


class AuditLog:
    """Appends events to a file, each on the disk's side before the call returns.

    A log that is there already is checked and continued. What was left of an interrupted write is
    cut off, and the next event says how many bytes that were.

    Args:
        path: The file.

    Raises:
        AuditError: If it cannot be opened, is in use, was changed, or is something else than an
            audit log, which is left as it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _opened(self.path, os.O_CREAT)
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise

    def _take(self) -> None:
        data = self.path.read_bytes()
        lines, rest = _lines(data, self.path)
        self._previous, events = _checked(lines, self.path)
        self._sequence = len(events)
        self._end = len(data) - len(rest)
        self._torn = len(rest)
        if rest:
            os.ftruncate(self._file, self._end)

    def append(self, event: Mapping[str, Any], time_s: float) -> None:
        """Write one event, whole or not at all.

        Args:
            event: Plain values.
            time_s: Since 1970.

        Raises:
            OSError: If it cannot be written, for want of space or because the log is closed.
            ValueError: If a value has no place in JSON.
        """
        moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
        torn = {"torn_bytes": self._torn} if self._torn else {}
        values = {"sequence": self._sequence, "time": moment, **event, **torn}
        text = _dump({**values, "previous": self._previous})
        digest = _digest(text)
        line = f'{text[:-1]}{_MARK}{digest}"}}\n'.encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(f"the audit log {self.path} took part of an event only")
        except OSError:
            with suppress(OSError):  # what is torn now is found when the log is opened again
                os.ftruncate(self._file, self._end)
            raise
        self._previous, self._torn = digest, 0
        self._sequence += 1
        self._end += len(line)

    def close(self) -> None:
        """Let go of the file; twice does no harm."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def check_writable(path: str | Path) -> None:
    """Check that an `AuditLog` could be opened, without a trace of that.

    Args:
        path: The file, or where it is to be.

    Raises:
        AuditError: If not.
    """
    path = Path(path)
    if not path.exists():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            what = "write in" if path.parent.exists() else "find"
            raise AuditError(f"cannot write the audit log {path}: cannot {what} {path.parent}")
        return
    file = _opened(path)
    try:
        read_audit(path)
    finally:
        os.close(file)


def read_audit(path: str | Path) -> AuditTrail:
    """Read an audit log and check its chain.

    Args:
        path: The file.

    Raises:
        AuditError: If it cannot be read, is no audit log, or was changed: the first line that does
            not follow from those before it is named.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AuditError(f"cannot read the audit log {path}: {error.strerror}") from error
    lines, rest = _lines(data, path)
    events = _checked(lines, path)[1]
    torn = None
    if rest:
        torn = (
            f"line {len(lines) + 1} of {path} is torn after {len(rest)} bytes: whoever wrote it "
            f"was interrupted; the {len(lines)} lines before are whole"
        )
    return AuditTrail(tuple(events), torn)


def replay(
    events: Sequence[Mapping[str, Any]], *, inputs: int | None = None, run: int = -1
) -> list[str]:
    """Return the level in force at each input, by what the log says alone.

    Args:
        events: Of a log.
        inputs: How many inputs there were; None to take the log's word, which ends with its last
            event if the controller was not closed.
        run: Which of the controllers that wrote the log, in order.

    Raises:
        AuditError: If the log has no such controller.
    """
    starts = [n for n, event in enumerate(events) if event["event"] == "start"]
    if not -len(starts) <= run < len(starts):
        raise AuditError(f"the log is of {len(starts)} controllers; there is no number {run}")
    end = [*starts, len(events)][run % len(starts) + 1]
    mine = events[starts[run] : end]
    changes = [(event["input"], event["to"]) for event in mine if "to" in event]
    if inputs is None:
        last = mine[-1]
        inputs = last["input"] + (last["event"] == "failure")
    levels: list[str] = []
    for number, (first, level) in enumerate(changes):
        following = changes[number + 1][0] if number + 1 < len(changes) else inputs
        levels += [level] * (min(following, inputs) - first)
    return levels


def _opened(path: Path, flags: int = 0) -> int:
    """Return a file that nobody else writes events to."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o644)
    except OSError as error:
        raise AuditError(f"cannot write the audit log {path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise AuditError(f"the audit log {path} is no regular file")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AuditError(
                f"the audit log {path} is written by another process or controller; give each a "
                f"log of its own"
            ) from error
    except BaseException:
        os.close(file)
        raise
    return file


def _lines(data: bytes, path: str | Path) -> tuple[list[bytes], bytes]:
    """Return whole lines, and what an interrupted write left behind the last one.

    Raises:
        AuditError: If none of it looks like an event, or what stands behind the last line does not:
            who else's it is, it is not to be cut off.
    """
    *lines, rest = data.split(b"\n")
    begun = f'{{"sequence":{len(lines)},"time":"'.encode()
    is_torn = rest.startswith(begun[: len(rest)])
    if not any(map(_BEGINNING.match, lines)) and (lines or not is_torn):
        raise AuditError(f"{path} is no audit log; name another file")
    if not is_torn:
        raise AuditError(
            f"what stands behind line {len(lines)} of {path} is of no audit log; name another file"
        )
    return lines, rest


def _checked(lines: Sequence[bytes], path: str | Path) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the digest of the last line, and all events."""
    previous = _FIRST
    events: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            text, mark, rest = line.decode().rpartition(_MARK)
            event = json.loads(text + "}")
            whole = bool(mark) and rest == _digest(text + "}") + '"}'
            follows = event["previous"] == previous and event["sequence"] == number
        except (ValueError, KeyError, TypeError):
            whole = follows = False
        if not (whole and follows):
            what = "was changed" if not whole else "does not follow from the line before"
            raise AuditError(
                f"line {number + 1} of the audit log {path} {what}; only the {number} lines before "
                f"it can be trusted"
            )
        previous = _digest(text + "}")
        events.append(event)
    return previous, events


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
