"""What a running study tells, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from bitfront.studies.progress import (
    LineProgress,
    LiveProgress,
    ProgressEvent,
    describe,
    duration,
    progress_for,
)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def lines(shown: Console) -> list[str]:
    return shown.file.getvalue().splitlines()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_follow_from_steps_and_seconds():
    event = ProgressEvent(phase="search", done=20, total=80, elapsed_s=10)
    assert event.rate == 2.0
    assert event.left_s == 30.0


@pytest.mark.parametrize(
    "event",
    [
        ProgressEvent(phase="search", total=80, elapsed_s=10),
        ProgressEvent(phase="search", done=3, total=80),
        ProgressEvent(phase="search"),
    ],
)
def test_without_steps_or_seconds_nothing_is_foretold(event):
    assert event.rate is None
    assert event.left_s is None


def test_an_unknown_total_has_a_rate_and_no_end():
    event = ProgressEvent(phase="prepare", done=5, elapsed_s=10)
    assert event.left_s is None
    assert describe(event) == "5, 2.0 s each"


def test_the_phrase_has_all_that_is_known():
    event = ProgressEvent(
        phase="search",
        done=30,
        total=90,
        trial="random, seed 1",
        best=0.9583,
        hypervolume=0.71234,
        elapsed_s=10,
    )
    assert describe(event) == (
        "30/90, 3.0/s, best 95.83% within budget, hypervolume 0.7123, 20 s left, random, seed 1"
    )


def test_durations_are_in_words():
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 90_000)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min",
    ]  # fmt: skip


def test_without_a_terminal_lines_come_at_most_every_few_seconds():
    shown, clock = console(terminal=False), Clock()
    with LineProgress(shown, every_s=10, clock=clock) as progress:
        progress(ProgressEvent(phase="prepare"))
        for done in range(1, 6):
            clock.now += 4
            progress(ProgressEvent(phase="search", done=done, total=5))
            progress(ProgressEvent(phase="search", done=done, total=5))
        progress(ProgressEvent(phase="track"))
    assert lines(shown) == [
        "preparing",
        "searching: 1/5",
        "searching: 4/5",
        "searching: 5/5",
        "writing the results",
    ]


def test_notes_are_always_printed_and_are_no_markup():
    shown = console(terminal=False)
    with LineProgress(shown) as progress:
        progress(ProgressEvent(phase="search", done=1, total=9))
        progress(ProgressEvent(phase="search", done=2, total=9, note="[red]x[/red] failed"))
    assert lines(shown) == ["searching: 1/9", "[red]x[/red] failed"]


def test_a_terminal_shows_every_phase_and_keeps_notes():
    shown = console(terminal=True)
    with LiveProgress(shown) as progress:
        progress(ProgressEvent(phase="prepare"))
        progress(ProgressEvent(phase="search", done=3, total=9, elapsed_s=1, trial="[b]a[/b]"))
        progress(ProgressEvent(phase="search", done=9, total=9, elapsed_s=3, note="one failed"))
    text = shown.file.getvalue()
    assert "one failed" in text
    assert "preparing" in text
    assert "9/9, 3.0/s" in text


def test_the_display_suits_the_console():
    assert isinstance(progress_for(console(terminal=True)), LiveProgress)
    assert isinstance(progress_for(console(terminal=False)), LineProgress)
