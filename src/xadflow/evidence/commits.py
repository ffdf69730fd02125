"""The commits of one evidence table as files: log entries, data files, and the rows in them. No Delta library.

Reads what Delta Lake's protocol puts on disk: `_delta_log/<version, 20 digits>.json`, one action a line, and Parquet
files under `run_date=YYYY-MM-DD/` whose rows lack the partition column.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from xadflow.digests import sha256_bytes
from xadflow.evidence.tables import row_digest

LOG = "_delta_log"
CHAIN = "chain"
ROWS_DIGEST = "xadflow.rows_digest"
MARK = "xadflow.mark"

_ENTRY = re.compile(r"[0-9]{20}\.json")  # not \d: other scripts have digits too
# What a killed writer leaves of a file it was still writing: object_store's staging names.
_STAGED = re.compile(r".*#\d+")
_ROWS_AT_ONCE = 32  # about 4 MB of pictures


@dataclass(frozen=True)
class AddedFile:
    """A data file that a commit added: path relative to the table, size in bytes, the date of its partition."""

    path: str
    size: int
    run_date: date


@dataclass(frozen=True)
class Commit:
    """One log entry; `mark` is that of its intent, `foreign` are kinds of actions that an append never holds."""

    version: int
    sha256: str
    files: tuple[AddedFile, ...]
    transactions: Mapping[str, int]
    rows_digest: str | None
    mark: str | None
    foreign: tuple[str, ...]


def entry_path(folder: Path, version: int) -> Path:
    """Where the log entry of a version is."""
    return folder / LOG / f"{version:020d}.json"


def checkpoint_name(version: int) -> str:
    """Path, relative to the table, of the checkpoint that a commit may have made."""
    return f"{LOG}/{version:020d}.checkpoint.parquet"


def log_versions(folder: Path) -> list[int]:
    """Versions that have a log entry, ascending; empty when there is no table."""
    log = folder / LOG
    if not log.is_dir():
        return []
    return sorted(
        int(name[:20]) for name in os.listdir(log) if _ENTRY.fullmatch(name)
    )  # a Path each costs five times that


def read_commit(folder: Path, version: int) -> Commit:
    """Read one log entry. Raises OSError when it is not there, ValueError when it makes no sense."""
    raw = entry_path(folder, version).read_bytes()
    files: list[AddedFile] = []
    transactions: dict[str, int] = {}
    rows_digest: str | None = None
    mark: str | None = None
    foreign: list[str] = []
    try:
        for text in filter(None, raw.split(b"\n")):
            ((kind, action),) = json.loads(text).items()
            if kind == "add":
                day = date.fromisoformat(action["partitionValues"]["run_date"])
                files.append(AddedFile(unquote(action["path"]), int(action["size"]), day))
            elif kind == "txn":
                transactions[str(action["appId"])] = int(action["version"])
            elif kind == "commitInfo":
                rows_digest, mark = action.get(ROWS_DIGEST), action.get(MARK)
            elif kind not in ("protocol", "metaData"):
                foreign.append(str(kind))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as err:
        raise ValueError(f"log entry {version} makes no sense: {err}"[:200]) from err
    return Commit(version, sha256_bytes(raw), tuple(files), transactions, rows_digest, mark, tuple(foreign))


def data_files(folder: Path) -> set[str]:
    """Every Parquet file, whole or half-written, under a table's folder outside its log; paths relative to it.

    A link to a folder counts as one file: a reader that globs would walk through it.
    """
    return {path for path in all_files(folder) if ".parquet" in path.rpartition("/")[2] or _links(folder / path)}


def all_files(folder: Path) -> set[str]:
    """Everything under a table's folder outside its log that is no folder, whatever its name: pyarrow and pandas read a
    folder's files without a look at their endings. A link to a folder counts as one, and a folder that cannot be read.
    """
    found: set[str] = set()

    def unread(err: OSError) -> None:
        if Path(err.filename) != folder:
            found.add(Path(err.filename).relative_to(folder).as_posix())

    for parent, folders, names in os.walk(folder, onerror=unread):
        here = Path(parent)
        if here == folder:
            folders[:] = [name for name in folders if name != LOG]
        linked = [name for name in folders if (here / name).is_symlink()]
        found.update((here / name).relative_to(folder).as_posix() for name in [*linked, *names])
    return found


def _links(path: Path) -> bool:
    return path.is_symlink() and path.is_dir()


def log_strangers(folder: Path) -> tuple[set[str], set[str]]:
    """Names in the log folder that are no entry: (half-written files of killed writers, everything else)."""
    log = folder / LOG
    names = {path.name for path in log.iterdir()} if log.is_dir() else set()
    staged = {name for name in names if _STAGED.fullmatch(name)}
    return staged, {name for name in names - staged if not _ENTRY.fullmatch(name)}


def rows_of(folder: Path, file: AddedFile) -> Iterator[dict[str, Any]]:
    """The rows of one data file as plain dicts, a few pictures in memory at a time.

    Raises OSError or pyarrow.ArrowException on a file that is missing or no Parquet.
    """
    with pq.ParquetFile(folder / file.path) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {**row, "run_date": file.run_date}


def row_digests(folder: Path, commit: Commit) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row of a commit with its digest, computed from the row's content alone."""
    for file in commit.files:
        for row in rows_of(folder, file):
            yield row, row_digest(row)
