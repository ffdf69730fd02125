"""Progress of long work, as a person sees it.

On a terminal: bars on one board. Elsewhere (a pipe, a file, CI) one line on standard error for each piece of work when
it ends, with its seconds, and a line now and then for what lasts longer:

    data set elpv: images ... 14 s
    train fcdd on elpv, seed 0 ... 15 s so far, 310 of 900 loss 0.41
    train fcdd on elpv, seed 0 ... 41 s

Where nobody watches (a worker, a DVC stage) the same goes to the log; a wait as a warning, which is printed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from xadflow import stopping

logger = logging.getLogger(__name__)

Update = Callable[[int, int, Mapping[str, float]], None]
Say = Callable[[str], None]

SECONDS_BETWEEN_LINES = 15.0  # of one piece of work that goes on
SHORT_S, SHORT_WAIT_S = 1.0, 5.0  # work and waits that end before are not worth a line
_LOOK_S = 0.5
_ASK_S = 0.25  # between two questions for a lock


@dataclass(eq=False)
class _Piece:
    """One piece of work under way."""

    what: str
    is_wait: bool = False
    started: float = field(default_factory=time.monotonic)
    said: float | None = None  # when there was a line last
    done: int = 0
    total: int = 0
    figures: str = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def update(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        self.done, self.total, self.figures = done, total, _text(figures)

    def is_due(self) -> bool:
        """Whether it is time for a line between its start and its end."""
        if self.said is None:
            return self.seconds >= (SHORT_WAIT_S if self.is_wait else SECONDS_BETWEEN_LINES)
        return time.monotonic() - self.said >= SECONDS_BETWEEN_LINES * (2 if self.is_wait else 1)

    def so_far(self) -> str:
        self.said = time.monotonic()
        step = f", {self.done} of {self.total} {self.figures}".rstrip() if self.total else ""
        return f"{self.what} ... {seconds_text(self.seconds)} so far{step}"

    def ended(self, failed: bool) -> str:
        return f"{self.what} ... {'failed after ' if failed else ''}{seconds_text(self.seconds)}"


class PartTimes:
    """Seconds of each part of a command, by the clock and of the processors; what runs side by side in a part counts
    once.

    Of children only those that have ended and were waited for are counted: not a server that lives as long as the
    command.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._since: dict[str, tuple[float, float]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block to a part."""
        with self._lock:
            self._open[name] = self._open.get(name, 0) + 1
            if self._open[name] == 1:
                self._since[name] = (time.monotonic(), _processor_s())
                self.seconds.setdefault(name, (0.0, 0.0))
        try:
            yield
        finally:
            with self._lock:
                self._open[name] -= 1
                if self._open[name] == 0:
                    clock, processor = self._since[name]
                    so_far = self.seconds[name]
                    self.seconds[name] = (so_far[0] + time.monotonic() - clock, so_far[1] + _processor_s() - processor)


@dataclass(eq=False)
class _Board:
    """What is under way in this process, and where it is shown: `bars` on a terminal, lines anywhere else."""

    times: PartTimes
    bars: Progress | None = None
    pieces: list[_Piece] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def say(self, line: str) -> None:
        if self.bars is None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def look(self) -> None:
        """Until the board ends, a line now and then for each piece that lasts."""
        while not self.ended.wait(_LOOK_S):
            for piece in list(self.pieces):
                if piece.is_due():
                    self.say(piece.so_far())


_board: _Board | None = None


@contextmanager
def progress_board(times: PartTimes | None = None) -> Iterator[None]:
    """While it lasts, every `track` in this process (any thread) is shown on standard error, and counted in `times`."""
    global _board
    if _board is not None:
        yield
        return
    console = Console(stderr=True)
    board = _Board(times or PartTimes())
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        board.bars = Progress(*columns, console=console)
        board.bars.start()
    else:
        threading.Thread(target=board.look, name="progress lines", daemon=True).start()
    _board = board
    try:
        yield
    finally:
        _board = None
        board.ended.set()
        if board.bars is not None:
            board.bars.stop()


@contextmanager
def track(what: str, part: str = "") -> Iterator[Update]:
    """Report one piece of work: yields `update(done, total, figures)`, cheap enough to call once a step.

    `part` of the command that its seconds count to; "" for none. A piece that begins, or goes on to its next step, when
    the process has been asked to stop raises Stopped.
    """
    stopping.check()
    board = _board
    shown = (
        _logged(what)
        if board is None
        else _barred(board.bars, what)
        if board.bars is not None
        else _lined(board, _Piece(what))
    )
    if board is None or not part:
        with shown as update:
            yield _stopping_at_a_step(update)
        return
    with board.times.part(part), shown as update:
        yield _stopping_at_a_step(update)


def _stopping_at_a_step(update: Update) -> Update:
    def shown(done: int, total: int, figures: Mapping[str, float]) -> None:
        update(done, total, figures)
        stopping.check()

    return shown


@contextmanager
def waiting(for_what: str) -> Iterator[Say]:
    """Say what the work waits for, if it takes more than a moment; yields `say(for_what)`, for when more is known."""
    piece = _Piece(f"waiting for {for_what}", is_wait=True)
    board = _board

    def name(known: str) -> None:
        piece.what = f"waiting for {known}"

    if board is None:
        with _watched(piece):
            yield name
    elif board.bars is not None:
        bars, task = board.bars, board.bars.add_task(piece.what, total=None, figures="")
        try:
            yield lambda known: bars.update(task, description=f"waiting for {known}")
        finally:
            bars.remove_task(task)
    else:
        with _lined(board, piece):
            yield name


@contextmanager
def _watched(piece: _Piece) -> Iterator[None]:
    """A line now and then in the log, as a warning, which a worker and a bare command print: else it seems to hang."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            if piece.is_due():
                logger.warning(piece.so_far())

    threading.Thread(target=look, name="a wait", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def take_lock(stream: IO[str], from_whom: str) -> None:
    """Lock a file, after whoever has it; says for whom it waits. The kernel gives a dead holder's lock back.

    Raises Stopped when this process is asked to stop meanwhile, OSError where files cannot be locked.
    """
    if _is_locked(stream):
        return
    with waiting(from_whom):
        while not _is_locked(stream):
            stopping.pause(_ASK_S)


def _is_locked(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _barred(bars: Progress, what: str) -> Iterator[Update]:
    task = bars.add_task(what, total=None, figures="")
    is_counted = False

    def draw(done: int, total: int, figures: Mapping[str, float]) -> None:
        nonlocal is_counted
        is_counted = True
        bars.update(task, completed=done, total=total, figures=_text(figures))

    try:
        yield draw
        if not is_counted:  # a bar without an end would go on pulsing
            bars.update(task, completed=1, total=1)
    except BaseException:
        bars.update(task, total=None if is_counted else 1, figures="failed")  # None leaves it as it is
        raise
    finally:
        bars.stop_task(task)


@contextmanager
def _lined(board: _Board, piece: _Piece) -> Iterator[Update]:
    board.pieces.append(piece)
    failed = True
    try:
        yield piece.update
        failed = False
    finally:
        board.pieces.remove(piece)
        if piece.said is not None or (not piece.is_wait and piece.seconds >= SHORT_S):
            board.say(piece.ended(failed))


@contextmanager
def _logged(what: str) -> Iterator[Update]:
    piece = _Piece(what)

    def line(done: int, total: int, figures: Mapping[str, float]) -> None:
        piece.update(done, total, figures)
        if piece.is_due():
            logger.info(piece.so_far())

    yield line
    logger.info(piece.ended(failed=False))


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `41 s`."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def moment_text(moment: datetime) -> str:
    """A point in time as every command prints it: by this machine's clock, with its offset: 2026-12-01 05:12:00 +0100.

    What programs read (--json, tables, file names) is UTC, in ISO 8601.
    """
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z}"


def _text(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _processor_s() -> float:
    """Of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
