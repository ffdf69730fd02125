"""The ledger: one hash-chained, fsynced line for each commit of the evidence tables. Pure file code.

`ledger.jsonl` holds canonical JSON, one object a line, numbered from 1:

    {"files": {relative path: sha256}, "log_entry": sha256, "previous": digest of the line before, "rows_digest": ...,
     "seq": n, "table": ..., "version": ...}

A line's digest is the sha256 of its bytes without the newline; the first line's `previous` is 64 zeros. Nothing in a
line depends on time or machine, so a line that a crash swallowed can be written again, byte for byte, from the commit.

`intent.json` names the one commit that is under way. It is what tells a crashed commit of ours, which may be completed,
from a commit that somebody else made, which must not be: it carries a seal of its writer (seals.py), and the digest of
the ledger line that it follows, so that an old one holds for no other commit.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from xadflow.datasets.writing import writing
from xadflow.digests import sha256_bytes
from xadflow.errors import StoreBroken
from xadflow.evidence.alarms import Alarms

FIRST_PREVIOUS = "0" * 64
_RESTORE = "run `xadflow audit verify`; then restore var/ledger and var/tables together from a backup"


@dataclass(frozen=True)
class LedgerHead:
    """Number and digest of the last line: what the anchor outside remembers."""

    seq: int
    digest: str


@dataclass(frozen=True)
class LedgerLine:
    """One commit: its data files (and checkpoint, if it made one) and its log entry, by sha256."""

    seq: int
    table: str
    version: int
    rows_digest: str
    files: Mapping[str, str]
    log_entry: str
    previous: str

    def encode(self) -> bytes:
        """Canonical bytes, without the newline."""
        return _canonical({**vars(self), "files": dict(self.files)})

    @property
    def head(self) -> LedgerHead:
        """The head of a ledger that ends with this line."""
        return LedgerHead(self.seq, sha256_bytes(self.encode()))

    @staticmethod
    def decode(raw: bytes) -> LedgerLine:
        """The line of these bytes. Raises ValueError unless they are exactly what :meth:`encode` writes."""
        try:
            values = json.loads(raw)
            line = LedgerLine(**values)
            texts = [line.table, line.rows_digest, line.log_entry, line.previous, *line.files.values()]
            typed = type(line.seq) is int and type(line.version) is int and all(type(text) is str for text in texts)
            if not typed or line.encode() != raw:
                raise ValueError("not the canonical form of a ledger line")
        except (TypeError, AttributeError, RecursionError) as err:
            raise ValueError(f"not a ledger line: {err}"[:200]) from err
        return line


@dataclass(frozen=True)
class Intent:
    """A commit that is about to be made: `version` is the lowest table version it can get, `mark` is its alone, `after`
    is the digest of the ledger's last line, and `seal` is its writer's over the rest.
    """

    table: str
    version: int
    app: str
    rows_digest: str
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    after: str = ""
    seal: str = ""

    @property
    def content(self) -> bytes:
        """What the seal is over."""
        return _canonical(asdict(replace(self, seal="")))


class Ledger:
    """The ledger in one folder. Writing needs the writer lock of the store; reading does not.

    One object remembers how far it has read, so that an append costs the same however long the ledger is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ledger.jsonl"
        self.alarms = Alarms(folder)
        self._offset = 0
        self._last: LedgerLine | None = None
        self._versions: dict[str, int] = {}

    def examine(self) -> tuple[list[LedgerLine], list[str]]:
        """Every line that can be read, and what is wrong: bad lines, broken chain, half a line at the end.

        Lines that break the chain are returned too, so that their commits can still be looked at.
        """
        raw, lines, problems, previous = self._bytes(), [], [], FIRST_PREVIOUS
        *complete, tail = raw.split(b"\n")
        for number, content in enumerate(complete, start=1):
            try:
                line = LedgerLine.decode(content)
            except ValueError as err:
                problems.append(f"ledger line {number} is damaged: {err}"[:200])
            else:
                lines.append(line)
                if line.seq != number:
                    problems.append(f"ledger line {number} says it is line {line.seq}: lines were removed or moved")
                if line.previous != previous:
                    problems.append(f"ledger line {number} does not follow the line before it: the chain is broken")
            previous = sha256_bytes(content)
        if tail:
            problems.append(f"the ledger ends in half a line ({len(tail)} bytes after line {len(complete)})")
        return lines, problems

    def verify(self) -> list[str]:
        """What is wrong with the chain of lines itself; empty when it is whole."""
        return self.examine()[1]

    def lines(self) -> list[LedgerLine]:
        """All lines. Raises StoreBroken when the chain is not whole."""
        lines, problems = self.examine()
        if problems:
            raise StoreBroken("the ledger is not whole", seen=problems[0], next_step=_RESTORE)
        return lines

    def head(self) -> LedgerHead | None:
        """Number and digest of the last complete line, or None before the first."""
        self._read_on()
        return self._last.head if self._last else None

    def last_digest(self) -> str:
        """Digest of the last complete line, which the next one names; 64 zeros before the first."""
        head = self.head()
        return head.digest if head else FIRST_PREVIOUS

    def last_version(self, table: str) -> int:
        """Highest version of a table that has a line; -1 before the first."""
        self._read_on()
        return self._versions.get(table, -1)

    def tail(self) -> bytes:
        """Bytes after the last complete line: empty, unless an append was cut off."""
        self._read_on()
        return self._bytes(self._offset)

    def append(
        self, *, table: str, version: int, rows_digest: str, files: Mapping[str, str], log_entry: str
    ) -> LedgerHead:
        """Append the line of one commit and fsync it; returns the new head.

        A cut-off line at the end is replaced only when it is a beginning of this very line: then it is provably the
        same append, interrupted.

        Raises:
            StoreBroken: the ledger ends in anything else, or does not follow from what was read before.
            CannotWrite: no room, or read-only; the next run completes the line.
        """
        self._read_on()
        line = LedgerLine(
            seq=self._last.seq + 1 if self._last else 1,
            table=table,
            version=version,
            rows_digest=rows_digest,
            files=dict(sorted(files.items())),
            log_entry=log_entry,
            previous=self.last_digest(),
        )
        content = line.encode() + b"\n"
        tail = self.tail()
        if not content.startswith(tail):
            raise StoreBroken(
                "the ledger ends in half a line that is not the one due",
                seen=f"{len(tail)} bytes after line {line.seq - 1}",
                next_step=_RESTORE,
            )
        with writing("a line of the ledger"):
            self._write(content, len(tail))
        if line.seq == 1:
            sync(self.folder)
        self._take(line, len(content))
        return line.head

    def _write(self, content: bytes, cut_off: int) -> None:
        """Append the bytes of a line in place of the `cut_off` bytes of it that are there already, and fsync."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stream = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if cut_off:
                os.ftruncate(stream, self._offset)
            view = memoryview(content)
            while view:
                view = view[os.write(stream, view) :]
            os.fsync(stream)
        finally:
            os.close(stream)

    def begin(self, intent: Intent) -> None:
        """Remember, durably, the commit that is about to be made. Raises CannotWrite."""
        with writing("the intent of a commit"):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self._intent_path.with_suffix(".partial")
            partial.write_bytes(_canonical(asdict(intent)))
            sync(partial)
            partial.replace(self._intent_path)
            sync(self.folder)

    def intent(self) -> Intent | None:
        """The commit under way, or the one that a killed writer left; None when there is none. Raises StoreBroken."""
        try:
            values = json.loads(self._intent_path.read_bytes())
            intent = Intent(**values)
            if [type(getattr(intent, each.name)) for each in fields(Intent)] != [str, int, *[str] * 5]:
                raise ValueError("wrong types")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as err:
            raise StoreBroken("ledger/intent.json is damaged", seen=str(err)[:200], next_step=_RESTORE) from err
        return intent

    def end(self) -> None:
        """Forget the intent: its commit has its line and is anchored, or was never made."""
        self._intent_path.unlink(missing_ok=True)

    @property
    def _intent_path(self) -> Path:
        return self.folder / "intent.json"

    def _bytes(self, offset: int = 0) -> bytes:
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                return stream.read()
        except FileNotFoundError:
            return b""
        except OSError as err:
            raise StoreBroken("the ledger cannot be read", seen=err.strerror, next_step=_RESTORE) from err

    def _read_on(self) -> None:
        """Take in the complete lines that were added since the last look."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._offset:
            return
        if size < self._offset:
            raise StoreBroken("the ledger became shorter while it was in use", seen=f"{size} bytes", next_step=_RESTORE)
        *complete, _ = self._bytes(self._offset).split(b"\n")
        for content in complete:
            seq = self._last.seq + 1 if self._last else 1
            previous = self._last.head.digest if self._last else FIRST_PREVIOUS
            try:
                line = LedgerLine.decode(content)
                if (line.seq, line.previous) != (seq, previous):
                    raise ValueError("it does not follow from the line before it")
            except ValueError as err:
                raise StoreBroken(f"ledger line {seq} is damaged", seen=str(err)[:200], next_step=_RESTORE) from err
            self._take(line, len(content) + 1)

    def _take(self, line: LedgerLine, length: int) -> None:
        self._offset += length
        self._last = line
        self._versions[line.table] = max(line.version, self._versions.get(line.table, -1))


def sync(path: Path) -> None:
    """Force a file's or a folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
