"""Small, full and read-only disks by mounting, where that is allowed (root on Linux)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """A mounted folder."""

    folder: Path

    def grow(self, size: int) -> None:
        """More room."""
        _run("mount", "-o", f"remount,size={size}", str(self.folder))

    @staticmethod
    @contextmanager
    def sized(folder: Path, size: int) -> Iterator[Mount]:
        """A disk of `size` bytes in place of a folder, with what is in the folder; all that changes there
        ends with it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            shutil.copytree(folder, aside, dirs_exist_ok=True)
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
            try:
                shutil.copytree(aside, folder, dirs_exist_ok=True)
                yield Mount(folder)
            finally:
                _run("umount", str(folder))

    @staticmethod
    @contextmanager
    def read_only(folder: Path) -> Iterator[Mount]:
        """A folder that nobody may write to, not even root."""
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(folder), str(folder))
        try:
            _run("mount", "-o", "remount,bind,ro", str(folder))
            yield Mount(folder)
        finally:
            _run("umount", str(folder))


@cache
def may_mount() -> bool:
    """Whether this user may mount here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Mount.sized(Path(folder), 1 << 20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
