"""A user's commands in a small project of its own: what each answered, how long it took and what it held."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.small_project import project_environment

_MOST_READ, _MOST_KEPT = 4_000_000, 6000


def command(project: Path, *words: str) -> dict[str, Any]:
    """Status, seconds, CPU seconds, memory and text of one command with all its children.

    Memory in MB: `peak_mb` of the process that had most, `together_mb` of all at once (Pss of Linux, twice a second);
    `line` is what a person would read out. The project's own folder is PROJECT in the text, the one around it FOLDERS.
    """
    began = time.monotonic()
    tool = [sys.executable, "-m", "xadflow", *words]
    with subprocess.Popen(
        tool, cwd=project, env=project_environment(project), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        ended, most = threading.Event(), [0]
        watch = threading.Thread(target=_watch, args=(child.pid, ended, most), daemon=True)
        watch.start()
        assert child.stdout is not None
        text = child.stdout.read(_MOST_READ).decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watch.join()
    text = text.replace(str(project), "PROJECT").replace(str(project.parent), "FOLDERS")
    return {
        "command": " ".join(words[:2] if words[0] in ("data", "models", "audit") else words[:1]),
        "status": child.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "together_mb": most[0] // 1024,
        "line": line_of(text, child.returncode),
        "text": text[-_MOST_KEPT:],
    }


def explained_image(project: Path) -> str:
    """The id of an image that has an explanation; where none was anomalous, of one that has a score; else zeros."""
    from deltalake import DeltaTable

    for name in ("explanations", "scores"):
        table = project / "var" / "tables" / name
        if table.is_dir():
            found = DeltaTable(str(table)).to_pyarrow_table(columns=["image_id"]).column("image_id").to_pylist()
            if found:
                return str(sorted(found)[0])
    return "0" * 64


LINES = (
    r"^xadflow: .*",  # an error
    r"^\w[\w-]*: \d+ images, .*",  # data add
    r"^xad\.\S+ version \d+: .*",  # retrain
    r"^\s+anomalous\s+\d+",  # explain
    r"(?i)^\S+ .*(?:anomal|normal).*",  # score
    r"^\s+counterfactual 0: .*",  # audit show of an anomaly
    r"^\s+is_anomaly: .*",
)


def line_of(text: str, status: int) -> str:
    """The line of a command's answer that tells most."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    for pattern in LINES if status == 0 else LINES[:1]:
        for line in lines:
            if re.match(pattern, line):
                return re.sub(r"\s+", " ", line).strip()
    return lines[-1].strip() if lines else ""


def _watch(pid: int, ended: threading.Event, most: list[int]) -> None:
    while not ended.wait(0.5):
        most[0] = max(most[0], sum(map(_held_kb, family(pid))))


def family(pid: int) -> list[int]:
    """A process and all that came from it and is still its child's child."""
    every, at = [pid], 0
    while at < len(every):
        for task in Path(f"/proc/{every[at]}/task").glob("*/children"):
            try:
                every += [int(one) for one in task.read_text().split()]
            except OSError:  # it ended while it was looked at
                continue
        at += 1
    return every


def _held_kb(pid: int) -> int:
    """Memory of a process in kB; what it shares with others counts in part."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:"))
