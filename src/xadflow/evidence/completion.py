"""Keeps log and ledger in step: the ledger line of a commit, written at once or after the crash that prevented it.

Both ways are the same code: a line is always made from what is on disk, and only for the commit that was intended.
"""

from __future__ import annotations

from pathlib import Path

from xadflow.digests import sha256_file
from xadflow.errors import StoreBroken
from xadflow.evidence.commits import LOG, Commit, checkpoint_name, entry_path, log_versions, read_commit, row_digests
from xadflow.evidence.ledger import Intent, Ledger, sync
from xadflow.evidence.tables import BY_NAME, rows_digest

RESTORE = "run `xadflow audit verify`; then restore var/tables and var/ledger together from a backup"


def settle(tables: Path, ledger: Ledger) -> None:
    """Complete what a killed writer left. Call it under the writer lock.

    Raises:
        StoreBroken: the ledger ends in half a line and no commit was under way, or see :func:`complete`.
    """
    intent = ledger.intent()
    if intent is not None:
        complete(tables, ledger, intent)
    if tail := ledger.tail():
        raise StoreBroken(
            "the ledger ends in half a line, and no commit was under way", seen=f"{len(tail)} bytes", next_step=RESTORE
        )


def complete(tables: Path, ledger: Ledger, intent: Intent) -> int | None:
    """Give an intended commit its ledger line; returns its version, or None if it was never made.

    Raises:
        StoreBroken: the rows on disk have another digest than was intended, or a foreign commit lies between.
    """
    if intent.table not in BY_NAME:
        raise StoreBroken("ledger/intent.json names an unknown table", seen=intent.table, next_step=RESTORE)
    folder = tables / intent.table
    try:
        commit = _find(folder, intent)
        if commit is not None and commit.version > ledger.last_version(intent.table):
            _enter(folder, ledger, intent, commit)
    except (OSError, ValueError) as err:  # pyarrow's ArrowInvalid is a ValueError
        raise StoreBroken(
            f"the last commit of {intent.table} cannot be entered into the ledger",
            seen=str(err)[:300],
            next_step=RESTORE,
        ) from err
    ledger.end()
    return None if commit is None else commit.version


def check_in_step(table: str, folder: Path, ledger: Ledger) -> None:
    """The log holds exactly the commits that have a ledger line. Raises StoreBroken."""
    versions, last = log_versions(folder), ledger.last_version(table)
    odd = sorted(set(versions) ^ set(range(last + 1)))
    if odd:
        where = "the log only: xadflow did not make it" if odd[0] > last else "the ledger only: it was removed"
        raise StoreBroken(
            f"commit {odd[0]} of {table} is in {where}",
            next_step=RESTORE,
            seen=f"{len(versions)} log entries, {last + 1} ledger lines",
        )


def _find(folder: Path, intent: Intent) -> Commit | None:
    for version in reversed(log_versions(folder)):
        if version < intent.version:
            break
        commit = read_commit(folder, version)
        if commit.mark == intent.mark:
            return commit
    return None


def _enter(folder: Path, ledger: Ledger, intent: Intent, commit: Commit) -> None:
    found = rows_digest([digest for _, digest in row_digests(folder, commit)])
    due = ledger.last_version(intent.table) + 1
    if found != intent.rows_digest or commit.version != due:
        raise StoreBroken(
            f"commit {commit.version} of {intent.table} is not the one that was intended",
            seen=f"rows digest {found[:12]}, version {due} is due",
            next_step=RESTORE,
        )
    names = [file.path for file in commit.files]
    if (folder / checkpoint_name(commit.version)).exists():
        names.append(checkpoint_name(commit.version))
    for path in [entry_path(folder, commit.version), *(folder / name for name in names)]:
        sync(path)
    for path in {folder, folder / LOG, *((folder / name).parent for name in names)}:
        sync(path)
    ledger.append(
        table=intent.table,
        version=commit.version,
        rows_digest=found,
        log_entry=commit.sha256,
        files={name: sha256_file(folder / name) for name in names},
    )
