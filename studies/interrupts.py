"""Ctrl-C that is never missed while a study runs."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from .progress import ProgressCallback, ProgressEvent

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextmanager
def interruptible(progress: ProgressCallback) -> Iterator[ProgressCallback]:
    """Make Ctrl-C end what runs inside, even where Python drops the exception.

    Ctrl-C raises KeyboardInterrupt wherever the program is. In a finalizer or in a callback from
    another language nothing can be raised: Python prints the exception and goes on. Here Ctrl-C is
    remembered as well, and raised once more by the next event. Every further Ctrl-C raises, too.

    Threads other than the main one get no signals; there, and where Ctrl-C means something else
    already or is ignored, nothing is changed.

    Args:
        progress: Told of every event.

    Yields:
        What to tell instead: it passes events on, or raises KeyboardInterrupt.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield progress
        return
    interrupted = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def tell(event: ProgressEvent) -> None:
        if interrupted:
            raise KeyboardInterrupt
        progress(event)

    show_dropped = sys.unraisablehook

    def show_others(dropped: "UnraisableHookArgs") -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):  # which is not lost here
            show_dropped(dropped)

    sys.unraisablehook = show_others
    signal.signal(signal.SIGINT, remember)
    try:
        yield tell
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = show_dropped
