"""The anchor file: every head of the ledger on a line of its own, in a file that others guard, e.g. on a write-once
share.

One JSON object a line, fsynced, keys in this order:

    {"seq": number of the ledger's last line, "digest": its digest, "time": UTC, "cut": null, "signature": base64 or
    null}

The signature is Ed25519 over the line as it would be without it. Lines are only ever appended, so it works where a
written byte cannot be changed any more: what a power cut leaves of a line stays, a newline ends it, and the next line
tells its sha256 under `cut`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from xadflow.digests import sha256_bytes
from xadflow.errors import BadSettings, StoreBroken
from xadflow.evidence.ledger import LedgerHead, sync
from xadflow.evidence.signing import PublicKey, SigningKey

logger = logging.getLogger(__name__)

_END_BYTES = 65_536  # of the file's end, where its last lines are looked for; a line has about 220 to 360
_NEW_FILE = "name a new file in evidence.anchor_file whenever evidence.signing_key is set, changed or taken away"


@dataclass(frozen=True)
class AnchorLine:
    """One head with the time it was copied."""

    seq: int
    digest: str
    time: str
    cut: str | None = None
    signature: str | None = None

    @property
    def head(self) -> LedgerHead:
        """The ledger's head that the line holds."""
        return LedgerHead(self.seq, self.digest)

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return b"xadflow ledger head\n" + replace(self, signature=None).encode()

    def encode(self) -> bytes:
        """Canonical bytes, without the newline."""
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @staticmethod
    def decode(raw: bytes) -> AnchorLine:
        """The line of these bytes. Raises ValueError unless they are exactly what :meth:`encode` writes."""
        try:
            line = AnchorLine(**json.loads(raw))
            texts = [line.digest, line.time, *(text for text in (line.cut, line.signature) if text is not None)]
            if type(line.seq) is not int or any(type(text) is not str for text in texts) or line.encode() != raw:
                raise ValueError("not the canonical form of an anchor line")
        except (TypeError, RecursionError) as err:
            raise ValueError(f"not an anchor line: {err}"[:200]) from err
        return line


class AnchorFile:
    """Writer of one anchor file; the writer lock of its store keeps others away. One file belongs to one store.

    `key` signs every line; without one lines are not signed.
    """

    def __init__(self, path: Path, key: SigningKey | None = None) -> None:
        self._path, self._key = path, key

    def head(self) -> LedgerHead | None:
        """The last head that the file holds, None before the first.

        Raises:
            StoreBroken: the file cannot be read, or none of its last lines can.
            BadSettings: its last line was not signed by `key`: a mix of lines could never be verified.
        """
        try:
            content = self._end()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise _unreachable("read", err) from err
        if b"\n" not in content:
            return None
        for raw in reversed(content.split(b"\n")[:-1]):
            try:
                line = AnchorLine.decode(raw)
            except ValueError:  # cut off, or damaged: `audit verify` tells which
                continue
            if not _signed_alike(line, self._key.public if self._key else None):
                raise BadSettings(
                    "the anchor file's last line was not signed as evidence.signing_key says",
                    seen=f"line of ledger head {line.seq}",
                    next_step=_NEW_FILE,
                )
            return line.head
        raise StoreBroken(
            "the anchor file holds no whole line at its end",
            seen=f"{len(content)} bytes",
            next_step="run `xadflow audit verify`; then restore it, or name a new one in evidence.anchor_file",
        )

    def append(self, head: LedgerHead) -> None:
        """Append one head and fsync it; nothing is written when it is the last one already.

        Raises:
            StoreBroken: the file cannot be written.
        """
        if self.head() == head:
            return
        try:
            new = not self._path.exists()
            if new and head.seq > 2:  # the first two lines create the tables
                logger.warning("the anchor file is not there: a new one begins with ledger line %d", head.seq)
            cut = b"" if new else self._end().rpartition(b"\n")[2]
            line = AnchorLine(
                head.seq,
                head.digest,
                datetime.now(UTC).isoformat(timespec="seconds"),
                sha256_bytes(cut) if cut else None,
            )
            if self._key:
                line = replace(line, signature=self._key.sign(line.signed))
            self._append((b"\n" if cut else b"") + line.encode() + b"\n")
            if new:
                sync(self._path.parent)
        except OSError as err:
            raise _unreachable("written", err) from err

    def _append(self, content: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def _end(self) -> bytes:
        with self._path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _END_BYTES))
            return stream.read()


@dataclass(frozen=True)
class AnchorFileFindings:
    """What an audit of an anchor file gave: its last head, how many heads it holds, and what is wrong."""

    head: LedgerHead | None
    lines: int
    signed: int
    problems: tuple[str, ...]


def examine(path: Path, ledger: Sequence[LedgerHead], public_key: PublicKey | None) -> AnchorFileFindings:
    """Compare every line of an anchor file with the ledger's heads, and its signature with the key, if one is given."""
    try:
        content = path.read_bytes()
    except OSError as err:
        return AnchorFileFindings(
            None,
            0,
            0,
            (
                f"it cannot be read: {err.strerror}. If it was ever there, it was removed; "
                "if not, the next `xadflow explain` that writes makes it",
            ),
        )
    *raws, rest = content.split(b"\n")
    lines: dict[int, AnchorLine] = {}
    damaged: dict[int, str] = {}
    for number, raw in enumerate(raws, start=1):
        try:
            lines[number] = AnchorLine.decode(raw)
        except ValueError as err:
            damaged[number] = f"line {number} is damaged: {err}"[:200]
    for number, line in lines.items():
        if line.cut is not None and (number == 1 or sha256_bytes(raws[number - 2]) != line.cut):
            damaged[number] = f"line {number} does not follow the piece of a line that it tells of"
        elif line.cut is not None:
            damaged.pop(number - 1, None)  # a piece that lacks only its newline reads like a line
    problems = list(damaged.values())
    if not content:
        problems.append("it is empty")
    elif rest:
        problems.append(
            f"it ends in half a line ({len(rest)} bytes after line {len(raws)}): a writer was killed there, "
            "or it was cut; the next `xadflow explain` that writes goes on"
        )
    problems += [*_order(lines), *_strangers(lines, {head.seq: head for head in ledger})]
    if public_key:
        problems += _signatures(lines, public_key)
    last = list(lines.values())[-1].head if lines else None
    return AnchorFileFindings(
        last, len(lines), sum(line.signature is not None for line in lines.values()), tuple(problems)
    )


def _order(lines: dict[int, AnchorLine]) -> Iterator[str]:
    highest = 0
    for number, line in lines.items():
        if line.seq < highest:
            yield f"line {number} goes back from ledger line {highest} to {line.seq}"
        highest = max(highest, line.seq)


def _strangers(lines: dict[int, AnchorLine], ledger: dict[int, LedgerHead]) -> Iterator[str]:
    """The first head that the ledger does not have; all that follow it differ too, by the chain."""
    strange = [(number, line) for number, line in lines.items() if ledger.get(line.seq) != line.head]
    if strange:
        number, line = strange[0]
        what = "is gone from the ledger" if line.seq not in ledger else "is not the one in the ledger"
        more = f"; so it is with {len(strange) - 1} more lines" if len(strange) > 1 else ""
        yield f"line {number} holds ledger line {line.seq} as of {line.time}, which {what}{more}"


def _signatures(lines: dict[int, AnchorLine], key: PublicKey) -> Iterator[str]:
    bare = [number for number, line in lines.items() if line.signature is None]
    wrong = [
        number for number, line in lines.items() if line.signature and not key.verifies(line.signed, line.signature)
    ]
    for numbers, what in ((bare, "no signature"), (wrong, "a signature that the public key does not verify")):
        if numbers:
            more = f", and so have {len(numbers) - 1} more" if len(numbers) > 1 else ""
            yield f"line {numbers[0]} has {what}{more}"


def _signed_alike(line: AnchorLine, key: PublicKey | None) -> bool:
    if key is None:
        return line.signature is None
    return line.signature is not None and key.verifies(line.signed, line.signature)


def _unreachable(done: str, err: OSError) -> StoreBroken:
    return StoreBroken(
        f"the anchor file cannot be {done}",
        seen=err.strerror,
        transient=True,
        next_step="see that evidence.anchor_file of params.yaml is mounted and can be appended to",
    )
