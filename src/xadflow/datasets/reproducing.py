"""`dvc repro` as a child process, with each of its stages as a piece of work that a person sees."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from xadflow.errors import StageFailed
from xadflow.progress import track

_STAGE = re.compile(r"Running stage '(?P<stage>\w+)@(?P<dataset>[^']+)'")
# A line of xadflow.progress
_PROGRESS = re.compile(r" \.\.\. (failed after )?[\d.]+ s( so far(, (?P<done>\d+) of (?P<total>\d+).*)?)?$")
_LONGEST = 2000
NOTE = "note: "
"""How a line begins that a stage has to say to a person though all went well."""
logger = logging.getLogger(__name__)


def reproduce(project: Path, target: str) -> None:
    """Bring a stage and those before it up to date, by `dvc repro TARGET`.

    What a stage notes is logged as a warning. Raises StageFailed with the last lines it printed; transient when another
    DVC is busy or a signal ended the child.
    """
    command = [sys.executable, "-m", "dvc", "repro", target]
    said: list[str] = []
    with (
        subprocess.Popen(
            command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as child,
        ExitStack() as ending,
    ):
        ending.callback(_end, child)
        shown = ending.enter_context(ExitStack())
        update = shown.enter_context(track(f"data set {target.partition('@')[2]}: what changed", "data"))
        for line in child.stdout or ():
            if found := _STAGE.search(line):
                shown.close()
                said.clear()
                update = shown.enter_context(track(f"data set {found['dataset']}: {found['stage']}", "data"))
            elif found := _PROGRESS.search(line):
                if found["total"]:
                    update(int(found["done"]), int(found["total"]), {})
            elif line.startswith(NOTE):
                logger.warning("%s", line.removeprefix(NOTE).strip())
            elif not line.startswith("> "):
                said.append(line)
        if status := child.wait():
            raise _failed(target, status, "".join(said).strip()[-_LONGEST:])


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:  # we were interrupted
        child.terminate()


def _failed(target: str, status: int, said: str) -> StageFailed:
    killed = status < 0
    return StageFailed(
        f"the DVC stage {target} {f'was ended by signal {-status}' if killed else 'failed'}",
        seen=said,
        next_step=f"run `dvc repro {target}` to see it whole",
        transient=killed or "is busy" in said or "Unable to acquire lock" in said,
    )
