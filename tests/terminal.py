"""Commands of xadflow in this process, which has the heavy imports behind it: a process of its own costs 4 to 18 s."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from xadflow.cli.main import main


@contextlib.contextmanager
def inside(project: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """This process as if it were a terminal in the project: its environment and working folder; both are put back."""
    before, folder = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(project)
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def called(words: list[str], project: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What `xadflow WORDS` answers in a terminal like that."""
    out, err = io.StringIO(), io.StringIO()
    with inside(project, environment), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(["xadflow", *words], status, out.getvalue(), err.getvalue())
