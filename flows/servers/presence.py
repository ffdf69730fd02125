"""var/server.json: which `make server` of a state folder is up, or was killed and left servers behind.

The file is locked while the process that wrote it or any of its servers lives, because they inherit the lock. Two of
them on one state folder would mean two Prefect servers on one SQLite file, and every schedule fired twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from xadflow.errors import WrongUse


class Presence:
    """The open, locked file."""

    def __init__(self, stream: TextIO, addresses: Mapping[str, str]) -> None:
        self._stream = stream
        self._content: dict[str, Any] = {"pid": os.getpid(), **addresses, "services": {}}
        self._write()

    @property
    def descriptor(self) -> int:
        """File descriptor that keeps the lock; servers inherit it."""
        return self._stream.fileno()

    def add(self, service: str, group: int) -> None:
        """Remember a server's process group."""
        self._content["services"][service] = group
        self._write()

    def _write(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        json.dump(self._content, self._stream)
        self._stream.flush()


@contextmanager
def presence(state: Path, addresses: Mapping[str, str]) -> Iterator[Presence]:
    """Hold var/server.json; it is empty again at the end.

    Raises:
        WrongUse: another `make server` of this state folder is up, or was killed and left servers running.
    """
    state.mkdir(parents=True, exist_ok=True)
    path = state / "server.json"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise _refusal(stream.read()) from None
        try:
            yield Presence(stream, addresses)
        finally:
            stream.truncate(0)


def _refusal(text: str) -> WrongUse:
    found = json.loads(text) if text else {"pid": None, "services": {}}
    groups = {name: group for name, group in found["services"].items() if _lives(group)}
    if found["pid"] and _lives(found["pid"]):
        return WrongUse(
            "`make server` of this project is up already",
            seen=f"{found['prefect']} and {found['mlflow']}",
            next_step=f"use it, or stop it by `kill {found['pid']}`",
        )
    if groups:
        ends = " ".join(f"-{group}" for group in groups.values())
        return WrongUse(
            "a `make server` of this project was killed and its servers still run",
            seen=groups,
            next_step=f"end them by `kill -- {ends}`, then start again",
        )
    return WrongUse(
        "another `make server` of this project is just starting or stopping",
        seen=text,
        next_step="wait a moment and try again",
    )


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
