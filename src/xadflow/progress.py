"""Progress of long work: bars on a terminal, one log line now and then anywhere else (a worker, a DVC stage, CI)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

Update = Callable[[int, int, Mapping[str, float]], None]

_SECONDS_BETWEEN_LINES = 10.0
_board: Progress | None = None


@contextmanager
def progress_board() -> Iterator[None]:
    """While it lasts, every `track` in this process (any thread) draws on one board on standard error."""
    global _board
    console = Console(stderr=True)
    if _board is not None or not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))  # fmt: skip
    with Progress(*columns, console=console) as _board:
        try:
            yield
        finally:
            _board = None


@contextmanager
def track(what: str) -> Iterator[Update]:
    """Report one piece of work: yields `update(done, total, figures)`, cheap enough to call once a step."""
    board = _board
    if board is not None:
        task = board.add_task(what, total=None, figures="")

        def draw(done: int, total: int, figures: Mapping[str, float]) -> None:
            board.update(task, completed=done, total=total, figures=_text(figures))

        try:
            yield draw
        finally:
            board.update(task, visible=True)
            board.stop_task(task)
        return
    last = time.monotonic()

    def line(done: int, total: int, figures: Mapping[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = time.monotonic()
            logger.info("%s: %d of %d %s", what, done, total, _text(figures))

    yield line


def _text(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
