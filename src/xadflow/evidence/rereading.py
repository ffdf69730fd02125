"""Commits read again from disk: the bytes of their files, the digests of their rows. In several processes when it is
much.

Nothing here writes or needs a Delta library, so that a worker process starts quickly.
"""

from __future__ import annotations

import operator
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from xadflow.digests import sha256_file
from xadflow.evidence.commits import Commit, row_digests
from xadflow.evidence.ledger import LedgerLine
from xadflow.evidence.tables import BY_NAME, rows_digest

MOST_WORKERS = 8
_WORTH_WORKERS = 200, 256 << 20  # commits or bytes: about ten seconds of work; a worker needs one or two to start


@dataclass(frozen=True)
class Reading:
    """One commit to read again: its table's folder, its ledger line and its log entry."""

    folder: Path
    line: LedgerLine
    commit: Commit


@dataclass(frozen=True)
class Reread:
    """What reading one commit again gave: how many rows were recomputed, and what differs."""

    rows: int
    problems: tuple[str, ...]


def reread_all(readings: Sequence[Reading], workers: int | None = None) -> Iterator[Reread]:
    """Each commit in turn; `workers` processes (None: one a core when it is much, 1: none beside this one)."""
    if workers is None:
        much = (len(readings), sum(file.size for one in readings for file in one.commit.files))
        workers = min(MOST_WORKERS, os.cpu_count() or 1) if any(map(operator.ge, much, _WORTH_WORKERS)) else 1
    done = 0
    if workers > 1 and len(readings) > 1:
        try:
            for found in _in_processes(readings, workers):
                yield found
                done += 1
        except BrokenProcessPool:  # killed for its memory, or a main module that cannot be imported: go on alone
            pass
    yield from map(reread, readings[done:])


def reread(reading: Reading) -> Reread:
    """One commit: no file is decoded unless its bytes are those that the ledger names."""
    problems = _bytes_that_differ(reading)
    if problems:
        return Reread(0, tuple(problems))
    rows, problems = _rows_that_differ(reading)
    return Reread(rows, tuple(problems))


def _in_processes(readings: Sequence[Reading], workers: int) -> Iterator[Reread]:
    # Spawned, not forked: Arrow and Delta Lake have threads, and a forked child could wait for their locks for ever.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    try:
        yield from pool.map(reread, readings, chunksize=max(1, min(16, len(readings) // (4 * workers))))
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _bytes_that_differ(reading: Reading) -> list[str]:
    problems: list[str] = []
    for relative, digest in reading.line.files.items():
        path = reading.folder / relative
        if path.is_symlink() or not path.is_file():
            problems.append(f"{relative} is gone")
            continue
        try:
            if sha256_file(path) != digest:
                problems.append(f"{relative} is not the file that was written")
        except OSError as err:
            problems.append(f"{relative} cannot be read: {err.strerror}")
    return problems


def _rows_that_differ(reading: Reading) -> tuple[int, list[str]]:
    line, digests, problems = reading.line, [], []
    digested = "row_digest" in BY_NAME[line.table].names
    try:
        for row, digest in row_digests(reading.folder, reading.commit):
            digests.append(digest)
            if digested and row.get("row_digest") != digest:
                problems.append(
                    f"the row of image {str(row['image_id'])[:12]} has another row_digest than its content gives"
                )
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as err:
        problems.append(f"its rows cannot be read: {err}"[:300])
        return len(digests), problems
    if rows_digest(digests) != line.rows_digest:
        problems.append(f"its rows do not have the rows digest of ledger line {line.seq}")
    return len(digests), problems
