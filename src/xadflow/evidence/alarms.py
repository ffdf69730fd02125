"""Alarms: commits that went into the ledger, or to an anchor, though nothing proves that this account made them.

`alarms.jsonl` beside the ledger holds one JSON object a line, fsynced before what it is about is done:

    {"line": first ledger line, "lines": how many, "table": ..., "version": ..., "rows_digest": ..., "why": ..., "time":
     UTC}      or      {"vouched": how many lines of this file a person has vouched for, "time": UTC}

An alarm is open until a person vouches for it; till then every night reports it, `doctor` and `audit verify` name it.
The file lies in the folder that it warns about: whoever can write there can remove it, and not the message that the
night's webhook has sent.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from xadflow.datasets.writing import writing

VOUCH = "xadflow audit accept --yes"
_LONGEST = 500


@dataclass(frozen=True)
class Alarm:
    """What nobody announced: `lines` lines of the ledger from `line` on, the first of them a commit of `table`."""

    line: int
    lines: int
    table: str
    version: int
    rows_digest: str
    why: str
    time: str = ""

    def __str__(self) -> str:
        verb = f"and {self.lines - 1} more were" if self.lines > 1 else "was"
        said = f"line {self.line} of the ledger, commit {self.version} of {self.table}, {verb} {self.why}"
        return "".join(one if one.isprintable() else "?" for one in said)[:_LONGEST]


def open_alarms(ledger: Path) -> tuple[str, ...]:
    """What is open in a folder of a ledger, a sentence each, with what to do: for the night's page and the webhook."""
    return tuple(
        f"ALARM: {one}. See `xadflow audit verify`; if it is yours, run `{VOUCH}`." for one in Alarms(ledger).open()
    )


class Alarms:
    """The alarms of one ledger. Writing needs the writer lock of the store; reading does not."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "alarms.jsonl"

    def open(self) -> list[Alarm]:
        """Alarms that nobody has vouched for, the oldest first; a line that cannot be read is one too."""
        found, vouched = self._read()
        return found[vouched:]

    def sound(self, alarm: Alarm) -> None:
        """Put an alarm on record, once: after a kill the next run does the same again. Raises CannotWrite."""
        if not any({**asdict(one), "time": ""} == {**asdict(alarm), "time": ""} for one in self.open()):
            self._append({**asdict(alarm), "time": _now()})

    def vouch(self) -> int:
        """A person vouches for all that are open; returns how many. Raises CannotWrite."""
        found, vouched = self._read()
        if len(found) > vouched:
            self._append({"vouched": len(found), "time": _now()})
        return len(found) - vouched

    def _read(self) -> tuple[list[Alarm], int]:
        found: list[Alarm] = []
        vouched = 0
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return [], 0
        except OSError as err:
            return [_damaged(1, err.strerror or "it cannot be read")], 0
        for number, raw in enumerate(filter(None, content.split(b"\n")), start=1):
            try:
                values = json.loads(raw)
                if "vouched" in values:
                    vouched = min(int(values["vouched"]), len(found))
                    continue
                alarm = Alarm(**values)
                if [type(value) for value in asdict(alarm).values()] != [int, int, str, int, str, str, str]:
                    raise ValueError("wrong types")
                found.append(alarm)
            except (ValueError, TypeError, RecursionError, OverflowError) as err:
                found.append(_damaged(number, str(err)[:100]))
        return found, vouched

    def _append(self, values: dict[str, object]) -> None:
        with writing("an alarm about the ledger"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(handle).st_size
                cut_off = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # by a power cut
                os.write(handle, b"\n" * cut_off + json.dumps(values, sort_keys=True).encode() + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)


def _damaged(number: int, why: str) -> Alarm:
    return Alarm(0, 1, "no table", 0, "", f"to be read in line {number} of alarms.jsonl, which is damaged: {why}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
