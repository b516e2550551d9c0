"""What a running study tells, and the two ways of showing it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Phase = Literal["prepare", "train", "baselines", "search", "test", "track"]
"""What a study is doing: loading, training the network, measuring what all is compared with,
searching, re-measuring, logging."""

_WORDS: dict[Phase, str] = {
    "prepare": "preparing",
    "train": "training the network",
    "baselines": "measuring float32 and 8 bit",
    "search": "searching",
    "test": "measuring the fronts on the test split",
    "track": "writing the results",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """Where a running study stands.

    Attributes:
        phase: What it is doing.
        done: Steps of the phase that are done: evaluations, epochs while training.
        total: Steps of the phase; None while unknown.
        trial: The trial the last step belongs to, for example ``"percentile, seed 0"``.
        best: Best accuracy so far on the search split among the points within budget.
        hypervolume: Hypervolume of the common front so far.
        elapsed_s: Seconds since the phase began.
        note: A sentence to keep on the screen, for example that a trial failed; mostly empty.
    """

    phase: Phase
    done: int = 0
    total: int | None = None
    trial: str = ""
    best: float | None = None
    hypervolume: float | None = None
    elapsed_s: float = 0.0
    note: str = ""

    @property
    def rate(self) -> float | None:
        """Steps a second; None before the first step."""
        return self.done / self.elapsed_s if self.done and self.elapsed_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds left of the phase at this rate; None where it cannot be told."""
        if self.rate is None or self.total is None:
            return None
        return (self.total - self.done) / self.rate


ProgressCallback = Callable[[ProgressEvent], None]


class LiveProgress:
    """Redraws one line per phase in a terminal; a context manager to hand to the runner.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._latest: dict[Phase, ProgressEvent] = {}

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        if event.note:
            self._console.print(Text(event.note, style="yellow"))
        self._latest[event.phase] = event
        self._live.update(Group(*map(_draw, self._latest.values())))


class LineProgress:
    """Prints plain lines where there is no terminal: one a phase, then one every few seconds.

    Args:
        console: Where to print.
        every_s: Seconds between lines of one phase.
        clock: Source of monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._every_s = every_s
        self._clock = clock
        self._phase: Phase | None = None
        self._due_s = 0.0
        self._latest: tuple[Phase, int, int | None] | None = None

    def __enter__(self) -> "LineProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: ProgressEvent) -> None:
        """Print an event if it is new or the last line of its phase is old."""
        if event.note:
            self._print(event.note)
        finished = event.total is not None and event.done >= event.total > 0
        line = f"{_WORDS[event.phase]}: {describe(event)}".removesuffix(": ")
        due = event.phase != self._phase or self._clock() >= self._due_s or finished
        step = (event.phase, event.done, event.total)
        if due and step != self._latest:
            self._phase = event.phase
            self._due_s = self._clock() + self._every_s
            self._latest = step
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_for(console: Console) -> LiveProgress | LineProgress:
    """Return the live display for a terminal and plain lines for anything else."""
    return LiveProgress(console) if console.is_terminal else LineProgress(console)


def describe(event: ProgressEvent) -> str:
    """Return an event's numbers as a phrase: steps, rate, best, hypervolume, time left."""
    parts = []
    if event.total is not None:
        parts.append(f"{event.done}/{event.total}")
    elif event.done:
        parts.append(f"{event.done}")
    if event.rate is not None:
        parts.append(f"{event.rate:.1f}/s" if event.rate >= 1 else f"{1 / event.rate:.1f} s each")
    if event.best is not None:
        parts.append(f"best {event.best:.2%} within budget")
    if event.hypervolume is not None:
        parts.append(f"hypervolume {event.hypervolume:.4f}")
    if event.left_s:
        parts.append(f"{duration(event.left_s)} left")
    if event.trial:
        parts.append(event.trial)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds in words.

    Examples:
        >>> duration(8), duration(95), duration(7300)
        ('8 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _draw(event: ProgressEvent) -> Table:
    bar = ProgressBar(
        total=event.total or 100, completed=event.done, width=24, pulse=event.total is None
    )
    line = Table.grid(padding=(0, 1))
    line.add_row(bar, Text(_WORDS[event.phase], style="bold"), Text(describe(event)))
    return line
