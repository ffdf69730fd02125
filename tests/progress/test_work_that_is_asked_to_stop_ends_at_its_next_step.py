"""SIGINT, SIGTERM and SIGHUP reach every thread that works: at its next step, at the start of a piece, in a wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from xadflow import stopping
from xadflow.errors import Stopped
from xadflow.progress import progress_board, track

SLOW_S = 30.0  # how long a test waits for what comes at once


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    """Where nohup or a shell began the suite, SIGHUP or SIGINT is ignored; these tests are of one that hears them."""
    outside = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for number, handler in outside.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before
    for number, handler in outside.items():
        signal.signal(number, handler)
    stopping._request.forget()


def asked(number: int, work: Callable[[], object]) -> tuple[object, type[BaseException] | None]:
    """What ended a thread's work, and the main thread's wait for it, when this process gets a signal."""
    began, ended = threading.Event(), list[object]()

    def body() -> None:
        began.set()
        try:
            work()
        except Stopped as err:
            ended.append(err)

    thread = threading.Thread(target=body)
    woken: type[BaseException] | None = None
    with stopping.stoppable():
        thread.start()
        began.wait(SLOW_S)
        try:
            os.kill(os.getpid(), number)
            thread.join(SLOW_S)
        except KeyboardInterrupt as err:
            woken = type(err)
        thread.join(SLOW_S)
    return (ended or [None])[0], woken


def steps() -> None:
    with track("train") as update:
        for step in range(10**9):
            time.sleep(0.001)
            update(step, 10**9, {})


def pieces() -> None:
    while True:
        with track("a picture"):
            time.sleep(0.001)


def on_a_board() -> None:
    with progress_board():
        steps()


@pytest.mark.parametrize("number", stopping.SIGNALS)
@pytest.mark.parametrize(
    "work", [steps, pieces, on_a_board, lambda: stopping.pause(SLOW_S)], ids=["steps", "pieces", "board", "wait"]
)
def test_every_signal_ends_every_kind_of_work(number: signal.Signals, work: Callable[[], object]) -> None:
    started = time.monotonic()
    error, woken = asked(number, work)
    assert isinstance(error, Stopped)
    assert number.name in str(error)
    assert "Next: run the same command again" in str(error)
    assert woken is KeyboardInterrupt
    assert time.monotonic() - started < SLOW_S
    assert stopping.stop_status() == 128 + number


def test_a_handler_that_was_there_is_called_too() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with stopping.stoppable(), stopping.stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_next_block_begins_unasked() -> None:
    asked(signal.SIGTERM, steps)
    with stopping.stoppable():
        stopping.check()
        assert stopping.stop_status() is None


def test_in_another_thread_nothing_is_changed() -> None:
    seen: list[object] = []

    def body() -> None:
        with stopping.stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_step_without_end_is_ended_all_the_same() -> None:
    code = (
        "import os, signal, threading, time\n"
        "from xadflow import stopping\n"
        "stopping.GRACE_S = 0.2\n"
        "with stopping.stoppable():\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)\n"
        "    except KeyboardInterrupt: time.sleep(600)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.startswith("xadflow: stopped by SIGTERM in the middle of a step. Next: ")
