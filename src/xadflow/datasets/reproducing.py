"""`dvc repro` as a child process, with each of its stages as a piece of work that a person sees."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import yaml

from xadflow.errors import BadSettings, StageFailed
from xadflow.progress import track
from xadflow.settings import load_settings
from xadflow.settings.plain_yaml import plain_values

_STAGE = re.compile(r"Running stage '(?P<stage>\w+)@(?P<dataset>[^']+)'")
# A line of xadflow.progress
_PROGRESS = re.compile(r" \.\.\. (failed after )?[\d.]+ s( so far(, (?P<done>\d+) of (?P<total>\d+).*)?)?$")
_LONGEST = 2000
NOTE = "note: "
"""How a line begins that a stage has to say to a person though all went well."""
logger = logging.getLogger(__name__)


def reproduce(project: Path, target: str) -> None:
    """Bring a stage and those before it up to date, by `dvc repro TARGET`.

    What a stage notes is logged as a warning.

    Raises:
        BadSettings: before any work. DVC itself runs whatever stands in params.yaml as a name.
        StageFailed: with the last lines it printed; transient when another DVC is busy or a signal ended the child.
    """
    check_params(project)
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
        child.terminate()


def _failed(target: str, status: int, said: str) -> StageFailed:
    killed = status < 0
    return StageFailed(
        f"the DVC stage {target} {f'was ended by signal {-status}' if killed else 'failed'}",
        seen=said,
        next_step=f"run `dvc repro {target}` to see it whole",
        transient=killed or "is busy" in said or "Unable to acquire lock" in said,
    )
