"""Work in child processes that are forked from one warmed-up parent: its imports cost 15 s once, a fork milliseconds.

The parent is Python's fork server, a process that has imported and nothing else: no thread pool, no database, no Delta
table is open before the fork. Each child has its own environment and writes what it says to a log.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
ENOUGH_S = 600.0


@dataclass(frozen=True)
class Ended:
    """How a child ended: status 0 is success, -9 killed by SIGKILL; `said` is its output; `seconds` of wall time."""

    status: int
    said: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -9


@dataclass
class Child:
    """One running child."""

    process: BaseProcess
    log: Path
    started: float

    def wait(self, seconds: float = ENOUGH_S) -> Ended:
        """Wait for its end; a child that takes longer is killed and has status -9 too, with a line that says so."""
        self.process.join(seconds)
        late = self.process.is_alive()
        if late:
            self.process.kill()
            self.process.join()
        said = self.log.read_text(errors="replace") + (f"\nnot ended after {seconds:.0f} s" if late else "")
        status = self.process.exitcode
        return Ended(-1 if status is None else status, said, time.monotonic() - self.started)


def warm(*modules: str, environment: Mapping[str, str]) -> None:
    """Start the parent of all children, which imports these modules in this environment and keeps it."""
    _FORKS.set_forkserver_preload([*modules])
    before = dict(os.environ)
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, sys.path)
    )  # Python 3.11 hands its path on after the imports
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def barrier(parties: int) -> Any:
    """A barrier that children can be given."""
    return _FORKS.Barrier(parties)


def start(
    work: Callable[..., int | None], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
) -> Child:
    """Run `work(*arguments)` in a child; what it returns is its exit status, None means 0."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    process = _FORKS.Process(target=_body, args=(work, arguments, log, dict(environment or {})))
    process.start()
    return Child(process, log, time.monotonic())


def ask(work: Callable[..., Any], *arguments: Any, log: Path) -> Any:
    """What `work(*arguments)` returns in a child. Raises RuntimeError with what it said when it failed."""
    receiver, sender = _FORKS.Pipe(duplex=False)
    child = start(_answer, sender, work, arguments, log=log)
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError as err:
        raise RuntimeError(child.wait().said) from err
    child.wait()
    return answer


def _answer(sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(work(*arguments))


def _body(work: Callable[..., int | None], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    with log.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    os.environ.update(environment)
    sys.exit(work(*arguments) or 0)
