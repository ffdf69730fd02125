"""Who uses a data set: each run keeps a locked file for as long as it lives, which the kernel unlocks when it dies."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from xadflow.progress import moment_text
from xadflow.settings import Home

_LONGEST = 120


@contextmanager
def using(home: Home, names: Iterable[str]) -> Iterator[None]:
    """While the block lasts these data sets are in use: `xadflow data remove` refuses to take them away.

    Where the state cannot be written nothing is noted: whoever has to write there says so.
    """
    with ExitStack() as held:
        for name in dict.fromkeys(names):
            try:
                _note(held, _folder(home, name))
            except OSError:
                break
        yield


def users_of(home: Home, name: str) -> list[str]:
    """Each living run and DVC that uses a data set, in words; what dead runs left is taken away."""
    found = list(_dvc_at_work(home.project, name))
    for path in sorted(_folder(home, name).glob("*.json")):
        try:
            with path.open(encoding="utf-8") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                except BlockingIOError:
                    found.append(_said(stream.read()))
        except FileNotFoundError:  # ended meanwhile
            continue
    return found


def _dvc_at_work(project: Path, name: str) -> Iterator[str]:
    """Each living DVC, started by hand, that reads or writes something of a data set, as its own lock file tells."""
    try:
        found = json.loads((project / ".dvc" / "tmp" / "rwlock").read_bytes())
        entries = [*found.get("write", {}).items()]
        entries += [(path, one) for path, several in found.get("read", {}).items() for one in several]
        told = {(one["pid"], str(one["cmd"])) for path, one in entries if _is_of(project, name, Path(path))}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return  # none is at work, or DVC has another way of telling
    for pid, command in sorted(told):
        if isinstance(pid, int) and pid > 0 and _lives(pid):
            yield f"{command} (process {pid}; `kill {pid}` stops it)"


def _is_of(project: Path, name: str, path: Path) -> bool:
    data = project / "data"
    return path.is_relative_to(data / name) or path == data / ".origin" / f"{name}.json"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _note(held: ExitStack, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid4()}.json"
    begun = path.with_suffix(".begun")
    stream = held.enter_context(begun.open("x", encoding="utf-8"))
    held.callback(path.unlink, missing_ok=True)
    fcntl.flock(stream, fcntl.LOCK_EX)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_LONGEST]
    since = datetime.now(UTC).isoformat()
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": since}, stream)
    stream.flush()
    begun.rename(path)  # who sees it sees it locked and whole


def _said(text: str) -> str:
    try:
        one = json.loads(text)
        since = moment_text(datetime.fromisoformat(one["since"]))
        return f"{one['command']} (process {one['pid']} on {one['host']}, since {since}; `kill {one['pid']}` stops it)"
    except (ValueError, KeyError, TypeError):
        return "a run that does not say which"


def _folder(home: Home, name: str) -> Path:
    return home.state / "in-use" / name
