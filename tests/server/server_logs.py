"""Tracebacks in server logs, told apart by the exception that each one ends with."""

import re
from dataclasses import dataclass
from pathlib import Path

_START = re.compile(r"Traceback \(most recent call last\)")
_FRAME = re.compile(r"^\s|^[│╭╰]|^$")  # source lines, and the frame that Prefect's command line draws


@dataclass(frozen=True)
class LoggedTraceback:
    """One traceback: its log, line number and last line."""

    log: str
    line: int
    exception: str

    @property
    def is_locked_database(self) -> bool:
        return "sqlite3.OperationalError" in self.exception and "database is locked" in self.exception


def tracebacks(log: Path) -> list[LoggedTraceback]:
    """Every traceback of a log; of a chain, each one by itself."""
    lines = log.read_text(errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines):
        if _START.search(line):
            ends = (later for later in lines[number + 1 :] if not _FRAME.match(later))
            found.append(LoggedTraceback(log.name, number + 1, next(ends, "(cut off)")))
    return found
