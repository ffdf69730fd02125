"""Files and folders that only the account which runs xadflow may enter."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def keep_private(folder: Path) -> None:
    """Make a folder one that only its owner enters: evidence, models, logs, and caches that are unpickled.

    One that is somebody else's, that cannot be written, or that is shared by its nature, like /tmp, stays as it is:
    `xadflow doctor` says so.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
        if mode & 0o077 and not mode & stat.S_ISVTX:
            folder.chmod(0o700)


def others_may(path: Path) -> str | None:
    """What makes a path not this account's alone, e.g. `mode 0755` or `owner 1001`; None when it is."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        return f"owner {found.st_uid}"
    mode = stat.S_IMODE(found.st_mode)
    return f"mode {mode:04o}" if mode & 0o077 else None


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    partial = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def draw_once(path: Path, text: str) -> None:
    """Write such a file where there is none; where another process was faster, its own stays."""
    drawn = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    write_private(drawn, text)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(drawn, path)
    finally:
        drawn.unlink()
