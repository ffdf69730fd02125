"""Stop work that a signal asks to stop: the request is noted once, and every piece of work ends at its next step.

Python runs a signal's handler in the main thread, which in a flow only waits; the work is done by other threads, and
those see the request when they report how far they are (:mod:`xadflow.progress`) or wait for something here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from xadflow.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 6.0  # for the step under way; then the process ends all the same: a kill loses nothing that was written
AGAIN = "run the same command again: it goes on where it was"


class _Request:
    """Who asked this process to stop, if anybody has."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.number: int | None = None
        self.depth = 0
        self.last_resort: threading.Timer | None = None

    def note(self, number: int) -> None:
        """Remember the first request, and see to it that the process ends, whatever its steps do."""
        if self.asked.is_set():
            return
        self.number = number
        self.last_resort = threading.Timer(GRACE_S, _end, [number])
        self.last_resort.daemon = True
        self.last_resort.start()
        self.asked.set()

    def forget(self) -> None:
        """As if nobody had asked."""
        if self.last_resort is not None:
            self.last_resort.cancel()
        self.number = None
        self.asked.clear()


_request = _Request()


def stop_status() -> int | None:
    """Exit status of a process that was asked to stop (130 for Ctrl-C, 143 for SIGTERM); None when it was not."""
    return None if _request.number is None else 128 + _request.number


def check() -> None:
    """Go on, or raise Stopped when this process was asked to stop."""
    if _request.asked.is_set():
        raise Stopped("the work was asked to stop", seen=_name(_request.number), next_step=AGAIN)


def pause(seconds: float) -> None:
    """Wait, but no longer than until this process is asked to stop; raises Stopped then."""
    _request.asked.wait(seconds)
    check()


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block lasts SIGINT, SIGTERM and SIGHUP ask all work to stop, and then do what they did before.

    A signal that would have ended the process raises KeyboardInterrupt in the main thread instead, so that servers and
    children of the process are ended with it. One that is ignored (nohup) stays so. Blocks can be nested, around what
    sets handlers of its own. In another thread than the main one the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    if not _request.depth:
        _request.forget()
    _request.depth += 1
    try:
        for number in SIGNALS:
            present = signal.getsignal(number)
            if present not in (signal.SIG_IGN, None):
                before[number] = present
                signal.signal(number, _handler(present))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _request.depth -= 1
        if not _request.depth and _request.last_resort is not None:
            _request.last_resort.cancel()  # the work has ended


def _handler(before: Any) -> Any:
    def asked(number: int, frame: FrameType | None) -> None:
        _request.note(number)
        if callable(before):
            before(number, frame)
        else:
            raise KeyboardInterrupt

    return asked


def _name(number: int | None) -> str:
    return "a signal" if number is None else signal.Signals(number).name


def _end(number: int) -> None:
    """End this process, although a step of its work goes on."""
    sys.stderr.write(f"xadflow: stopped by {_name(number)} in the middle of a step. Next: {AGAIN}\n")
    sys.stderr.flush()
    os._exit(128 + number)
