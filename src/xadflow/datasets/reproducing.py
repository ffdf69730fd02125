"""`dvc repro` as a child process, with each of its stages as a piece of work that a person sees."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from xadflow import stopping
from xadflow.errors import BadSettings, CannotWrite, StageFailed, WorkFailed, no_room
from xadflow.progress import take_lock, track, waiting
from xadflow.settings import load_settings
from xadflow.settings.plain_yaml import plain_values

_STAGE = re.compile(r"Running stage '(?P<stage>\w+)@(?P<dataset>[^']+)'")
# A line of xadflow.progress
_PROGRESS = re.compile(r" \.\.\. (failed after )?[\d.]+ s( so far(, (?P<done>\d+) of (?P<total>\d+).*)?)?$")
_LONGEST = 2000
NOTE = "note: "
"""How a line begins that a stage has to say to a person though all went well."""
_ADVERTISED = ("Having any troubles?", "dvc.org/support")
_BUSY = ("is busy", "Unable to acquire lock")
_HALF = ("is corrupted", "structure is corrupted", "ScannerError", "ParserError", "validation failed")
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
logger = logging.getLogger(__name__)


def reproduce(project: Path, target: str) -> None:
    """Bring a stage and those before it up to date, by `dvc repro TARGET`; after another one of this project, if one
    is at work.

    What a stage notes is logged as a warning.

    Raises:
        BadSettings: before any work. DVC itself runs whatever stands in params.yaml as a name.
        StageFailed: with the last lines it printed; transient when a signal ended the child or another DVC stays busy.
        CannotWrite: the disk is full, or a folder is read-only.
    """
    check_params(project)
    for pause in (*PAUSES_S, None):
        try:
            with turn(project):
                _reproduce(project, target)
            return
        except StageFailed as err:
            if pause is None or not _is_busy(str(err.seen)):
                raise
        with waiting("another DVC of this project, started by hand"):
            stopping.pause(pause)


@contextmanager
def turn(project: Path) -> Iterator[None]:
    """One `dvc repro`, or change of dvc.lock, of ours at a time; without a place for the lock, whoever comes."""
    path = project / ".dvc" / "tmp" / "our-turn.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError:  # DVC itself says what it cannot write
        yield
        return
    with lock:
        take_lock(lock, "another `dvc repro` of this project")
        yield


def _reproduce(project: Path, target: str) -> None:
    command = [sys.executable, "-m", "dvc", "repro", target]
    said: list[str] = []
    with (
        subprocess.Popen(
            command,
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # it is ended with the stage that it runs
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
            raise _failed(target, status, "".join(said).strip())


def check_params(project: Path) -> None:
    """Refuse a params.yaml that DVC would misread: wrong settings, or without a block that dvc.yaml names.

    Raises BadSettings, naming the block.
    """
    load_settings(project / "params.yaml")
    raw = plain_values((project / "params.yaml").read_text(encoding="utf-8"))
    stages = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    for named in sorted({one for stage in stages for one in stage.get("params", ()) if "$" not in one}):
        block = raw
        for key in named.split("."):
            block = block.get(key) if isinstance(block, dict) else None
        if block is None:
            raise BadSettings(
                f"{named} is missing in params.yaml, and dvc.yaml hands it to its stages",
                seen=f"blocks {', '.join(sorted(map(str, raw)))}",
                next_step="add it; `git diff params.yaml` shows what went",
            )


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:  # we were interrupted
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)


def _is_busy(said: str) -> bool:
    """Whether another DVC was in the way: at work, or met while it wrote dvc.lock."""
    return any(words in said for words in _BUSY) or ("dvc.lock" in said and any(one in said for one in _HALF))


def _failed(target: str, status: int, said: str) -> WorkFailed:
    """What a person hears: the disk, where it was that; DVC's words otherwise, without its advertisement."""
    if (full := no_room(said)) is not None:
        return CannotWrite(f"the DVC stage {target} failed: {full.wrong}", seen=full.seen, next_step=full.next_step)
    killed = status < 0
    kept = "\n".join(line for line in said.splitlines() if not any(words in line for words in _ADVERTISED)).strip()
    return StageFailed(
        f"the DVC stage {target} {f'was ended by signal {-status}' if killed else 'failed'}",
        seen=kept[-_LONGEST:],
        next_step=f"run `dvc repro {target}` to see it whole",
        transient=killed or _is_busy(said),
    )
