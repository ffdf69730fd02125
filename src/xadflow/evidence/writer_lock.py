"""One writer at a time on one machine: a lock file that the kernel releases when its holder dies.

`flock` needs no clean-up after a SIGKILL. It does not reach across machines on a network file system that does not pass
it on, and it binds only those who ask for it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xadflow.errors import StoreBroken, StoreConflict
from xadflow.progress import waiting

LOCK = ".writer.lock"  # in the folder of the tables
_POLL_S = 0.02


@contextmanager
def writer_lock(path: Path, wait_s: float, *, reading: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, waiting at most `wait_s` seconds; not re-entrant.

    With `reading`, a lock that cannot be had (read-only medium, no table yet, no locks there) is done without.

    Raises:
        StoreConflict: another process held it for all that time.
        StoreBroken: the lock file cannot be made, or its file system knows no locks.
    """
    handle = _open(path, reading)
    if handle is None:
        yield
        return
    try:
        if not _taken(handle, reading):
            with waiting("another process, which has the lock of the tables"):
                _wait(handle, reading, wait_s)
        yield
    finally:
        os.close(handle)


def _open(path: Path, reading: bool) -> int | None:
    try:
        if reading:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as err:
        if reading:
            return None
        raise StoreBroken(
            "the folder of the tables cannot be written",
            seen=err.strerror,
            next_step="check free space and rights of var/tables",
        ) from err


def _wait(handle: int, reading: bool, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not _taken(handle, reading):
        if time.monotonic() > deadline:
            raise StoreConflict(
                "another process holds the lock of the tables",
                seen=f"{wait_s:.0f} s of waiting",
                next_step="let it finish or end it, then run again",
            )
        time.sleep(_POLL_S)


def _taken(handle: int, reading: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if not reading:
            raise StoreBroken(
                "the folder of the tables cannot be locked",
                seen=err.strerror,
                next_step="move the state to a local disk by XADFLOW_HOME",
            ) from err
    return True
