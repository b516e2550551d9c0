import signal
import sys
import threading

import pytest

from bitfront.studies.interrupts import interruptible
from bitfront.studies.progress import ProgressEvent

EVENT = ProgressEvent(phase="search")


class Dropping:
    """Raises what Ctrl-C raises where Python can only drop it."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def ignore(event):
    pass


def test_events_pass():
    events = []
    with interruptible(events.append) as tell:
        tell(EVENT)
    assert events == [EVENT]


def test_ctrl_c_raises_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible(ignore):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


def test_what_a_finalizer_drops_is_raised_by_the_next_event_and_not_printed(capsys):
    with interruptible(ignore) as tell:
        tell(EVENT)
        Dropping()
        with pytest.raises(KeyboardInterrupt):
            tell(EVENT)
    assert capsys.readouterr().err == ""


def test_a_second_ctrl_c_raises_as_the_first():
    with interruptible(ignore):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_other_exceptions_of_finalizers_are_shown(monkeypatch):
    class Faulty:
        def __del__(self):
            raise OSError("lost")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_type))
    with interruptible(ignore):
        Faulty()
        Dropping()
    assert shown == [OSError]


def test_all_is_as_before_afterwards():
    hook = sys.unraisablehook
    with pytest.raises(ValueError, match="wrong"), interruptible(ignore):
        raise ValueError("wrong")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("chosen", [signal.SIG_IGN, lambda number, frame: None])
def test_what_somebody_else_chose_stays(chosen):
    before = signal.signal(signal.SIGINT, chosen)
    try:
        with interruptible(ignore) as tell:
            assert tell is ignore
            assert signal.getsignal(signal.SIGINT) is chosen
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes():
    told = []

    def enter():
        with interruptible(ignore) as tell:
            told.append(tell)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert told == [ignore]
