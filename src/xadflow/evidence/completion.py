"""Keeps log and ledger in step: the ledger line of a commit, written at once or after the crash that prevented it.

Both ways are the same code: a line is always made from what is on disk, and only for the commit that was intended.
After a crash that must have been announced: whoever can write to the folder can write an intent too, but not its seal.
"""

from __future__ import annotations

import logging
from pathlib import Path

from xadflow.digests import sha256_file
from xadflow.errors import StoreBroken
from xadflow.evidence.alarms import Alarm
from xadflow.evidence.commits import LOG, Commit, checkpoint_name, entry_path, log_versions, read_commit, row_digests
from xadflow.evidence.ledger import Intent, Ledger, LedgerLine, sync
from xadflow.evidence.seals import Seals
from xadflow.evidence.tables import BY_NAME, rows_digest

logger = logging.getLogger(__name__)

RESTORE = "run `xadflow audit verify`; then restore var/tables and var/ledger together from a backup"
ACCEPT = (
    "see `xadflow audit verify`; then `xadflow audit accept` if it is yours, or restore var/tables and var/ledger "
    "together from a backup"
)

_COMPLETED = (
    "completed for a run that was cut off, and nothing proves who made it: this account has no secret, and "
    "evidence.signing_key is not set"
)
_ANCHORED = "anchored, and nothing proves who made it: no anchor held it, and no intent of this account names it"


def settle(tables: Path, ledger: Ledger, seals: Seals) -> Intent | None:
    """Complete what a killed writer left, and say so; returns its intent if its commit has a line. Under the lock.

    The intent stays until the caller has anchored the line: till then it is what tells the line from a stranger's.

    Raises:
        StoreBroken: the ledger ends in half a line and no commit was under way; the commit was not announced by this
            account; or see :func:`complete`.
    """
    intent = ledger.intent()
    if intent is not None and complete(tables, ledger, intent, seals) is None:
        intent = None
    if tail := ledger.tail():
        raise StoreBroken(
            "the ledger ends in half a line, and no commit was under way", seen=f"{len(tail)} bytes", next_step=RESTORE
        )
    return intent


def check_announced(ledger: Ledger, known: int, intent: Intent | None, seals: Seals) -> None:
    """No line is anchored that nobody announced: whoever can write to the ledger's folder can add lines to it.

    Args:
        known: how many lines an anchor holds.
        intent: of the commit that was under way.

    Raises:
        StoreBroken: a line is not that of a sealed intent. Where nothing can be told, for want of a secret or of any
            anchored head, it is an alarm instead.
        CannotWrite: the alarm cannot be kept.
    """
    beyond = ledger.lines()[known:]
    strange = [line for line in beyond if not _announces(intent, line, seals)]
    if not strange:
        return
    first = strange[0]
    what = f"line {first.seq} of the ledger, commit {first.version} of {first.table},"
    if known and seals.can_tell:
        raise StoreBroken(
            f"{what} was not announced by this account, and no anchor holds it",
            seen=f"{len(strange)} such lines after line {known}",
            next_step=ACCEPT,
        )
    # An alarm about a line was sounded when it was completed, by a run that was killed before it could anchor it.
    said = {(one.line, one.rows_digest) for one in ledger.alarms.open()}
    if any((line.seq, line.rows_digest) not in said for line in strange):
        _alarm(ledger, Alarm(first.seq, len(strange), first.table, first.version, first.rows_digest, _ANCHORED))


def _alarm(ledger: Ledger, alarm: Alarm) -> None:
    ledger.alarms.sound(alarm)
    logger.warning("ALARM: %s", alarm)


def _announces(intent: Intent | None, line: LedgerLine, seals: Seals) -> bool:
    """Whether a line of the ledger is that of this intent, and the intent that of this account; or makes a table."""
    if line.version == 0 and line.rows_digest == rows_digest([]):
        return True
    return (
        intent is not None
        and (intent.table, intent.rows_digest, intent.after) == (line.table, line.rows_digest, line.previous)
        and line.version >= intent.version
        and seals.holds(intent.content, intent.seal)
    )


def complete(tables: Path, ledger: Ledger, intent: Intent, seals: Seals | None = None) -> int | None:
    """Give an intended commit its ledger line; returns its version, or None, with the intent forgotten, if it was never
    made.

    Args:
        seals: None for an intent that the caller itself has just written.

    Raises:
        StoreBroken: the rows on disk have another digest than was intended, a foreign commit lies between, or the
            intent carries no seal of this account.
    """
    if intent.table not in BY_NAME:
        raise StoreBroken("ledger/intent.json names an unknown table", seen=intent.table, next_step=RESTORE)
    folder = tables / intent.table
    try:
        commit = _find(folder, intent)
        if commit is not None and commit.version > ledger.last_version(intent.table):
            if seals is not None:
                _check_announced(ledger, intent, commit, seals)
            _enter(folder, ledger, intent, commit)
    except (OSError, ValueError) as err:  # pyarrow's ArrowInvalid is a ValueError
        raise StoreBroken(
            f"the last commit of {intent.table} cannot be entered into the ledger",
            seen=str(err)[:300],
            next_step=RESTORE,
        ) from err
    if commit is None:
        ledger.end()
        return None
    return commit.version


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


def _check_announced(ledger: Ledger, intent: Intent, commit: Commit, seals: Seals) -> None:
    """Say whose commit is completed; refuse one that this account, which seals what it writes, did not announce."""
    what = f"commit {commit.version} of {intent.table}"
    if seals.holds(intent.content, intent.seal) and intent.after == ledger.last_digest():
        logger.warning("%s was announced by this account and cut off; it is completed now", what)
    elif seals.can_tell:
        how = "its intent has no seal" if not intent.seal else "the seal of its intent is not this account's"
        if seals.holds(intent.content, intent.seal):
            how = "its intent was made for an earlier commit"
        raise StoreBroken(f"{what} was not announced by this account", seen=how, next_step=ACCEPT)
    elif commit.version or intent.rows_digest != rows_digest([]):  # a new table holds nothing to be proved
        line = (head.seq if (head := ledger.head()) else 0) + 1
        _alarm(ledger, Alarm(line, 1, intent.table, commit.version, intent.rows_digest, _COMPLETED))


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
