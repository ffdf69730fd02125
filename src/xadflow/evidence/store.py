"""The evidence tables: the only place that writes Delta Lake, and the one reader of it that everything else uses.

A commit, under a lock that all writers on this machine share:

1. what a killed writer left is completed (its commit is in the log, its ledger line is not), if it was announced by a
   seal of this account, and anchored;
2. the shard's own transaction and the keys of its rows are looked up: what is there already is not written again;
3. the intent is written down; then the rows are appended through the table object that was checked, together with the
   transaction `chain` (always the next version), so that of two writers from the same state only one can win;
4. the rows are read back from disk, digested again and hashed, and one ledger line is fsynced;
5. the ledger's head is copied to the anchor outside, and the intent forgotten. So one line at most is not anchored, and
   an intent tells whose it is.

The lock is `flock` (see writer_lock.py). Where it does not reach, e.g. across machines on most network file systems,
the transactions still keep every row single, but repair could take the unfinished file of the other machine and a
ledger line could be missed: let one machine write to a store.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError

from xadflow.digests import canonical_digest
from xadflow.errors import StoreBroken, StoreConflict, WrongUse
from xadflow.evidence.commits import CHAIN, LOG, MARK, ROWS_DIGEST, log_strangers, log_versions
from xadflow.evidence.completion import RESTORE, check_announced, check_in_step, complete, settle
from xadflow.evidence.ledger import Intent, Ledger, LedgerHead
from xadflow.evidence.reading import TableReader
from xadflow.evidence.row_keys import checked_rows, digests_of
from xadflow.evidence.seals import Seals
from xadflow.evidence.tables import BY_NAME, ROWS_PER_GROUP, field_names, rows_digest
from xadflow.evidence.writer_lock import LOCK, writer_lock

logger = logging.getLogger(__name__)

ATTEMPTS = 12  # with the pauses below about 6 s of being beaten
LOCK_WAIT_S = 600.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_CONFIGURATION = {
    "delta.appendOnly": "true",
    # Every log entry is evidence; by default a checkpoint deletes those older than 30 days.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_WRITER = WriterProperties(compression="ZSTD", max_row_group_size=ROWS_PER_GROUP)
# deltalake 1.6.6 panics on the first kind, and reads the second as another path.
_UNADDRESSABLE = re.compile(r"[\[\]^|\\\x00-\x1f]|%[0-9A-Fa-f]{2}")
_CHECK_DISK = "check free space and rights of var/tables, then run again"


@dataclass(frozen=True)
class Published:
    """What a publish did: a table version that holds the rows, and how many rows it added (0: all were there)."""

    version: int
    rows: int

    @property
    def added(self) -> bool:
        """Whether this call added any row."""
        return self.rows > 0


def shard_app(
    table: str, dataset: str, model: str, version: int, explainers_digest: str, image_ids: Sequence[str]
) -> str:
    """Name of exactly this work, as Delta's transaction application: contract (docs/explanation/architecture.md)."""
    return f"{table}/{dataset}/{model}/{version}/{explainers_digest}/{canonical_digest(sorted(image_ids))}"


class EvidenceStore(TableReader):
    """The tables `scores` and `explanations` with their ledger; safe to share between threads and processes.

    Args:
        tables: folder of the Delta tables.
        ledger: folder of the ledger.
        anchor: called with the ledger's head after each commit, to copy it outside; the same head again must do no
            harm. Its errors go to the caller; the rows are in the table by then, and the next publish or prepare
            anchors again.
        anchored: gives the head that each anchor outside holds, None for one that holds none. A ledger that does not
            contain them is refused, so that a rewritten ledger is never anchored over the true one; so is one that goes
            on beyond them by lines that nobody announced.
        seals: what seals the intents of commits; by default nothing, and nobody can tell who made a commit that was
            cut off.

    Raises:
        WrongUse: the folder's name has characters that Delta Lake cannot address.
    """

    def __init__(
        self,
        tables: Path,
        ledger: Path,
        anchor: Callable[[LedgerHead], None] | None = None,
        anchored: Callable[[], Sequence[LedgerHead | None]] | None = None,
        seals: Seals | None = None,
    ) -> None:
        if odd := _UNADDRESSABLE.search(str(tables.resolve())):
            raise WrongUse(
                f"Delta Lake cannot address a folder with {odd.group()!r} in its path",
                seen=str(tables.resolve()),
                next_step="move the project, or set XADFLOW_HOME",
            )
        super().__init__(tables)
        self.ledger = Ledger(ledger)
        self._anchor, self._anchored = anchor, anchored
        self._seals = seals or Seals()
        self._last_anchored: LedgerHead | None = None
        self._anchor_checked = False
        self._held: dict[str, tuple[DeltaTable, int]] = {}

    @contextmanager
    def exclusive(self, *, reading: bool = False) -> Iterator[None]:
        """Be the only user of the store on this machine, across threads and processes; see writer_lock.

        Raises:
            StoreConflict: another process held the lock for LOCK_WAIT_S.
        """
        with self._threads, writer_lock(self.tables / LOCK, LOCK_WAIT_S, reading=reading):
            yield

    def prepare(self) -> None:
        """Make the tables ready for a run: complete, create, repair, anchor. Safe beside live writers of this machine.

        Completes the ledger line of a commit that a killed writer made, creates missing tables, and removes files that
        the log does not name (killed and beaten writers leave them, and a plain Parquet reader would count them).

        Raises:
            StoreBroken: log, ledger and anchor contradict each other, e.g. a commit that xadflow did not make. Nothing
                is removed then: the files may be evidence.
            StoreConflict: another process held the lock for too long.
        """
        with self.exclusive():
            self._settle(check=True)
            for name in BY_NAME:
                if not log_versions(self.folder(name)) and self.ledger.last_version(name) < 0:
                    self._create(name)
                check_in_step(name, self.folder(name), self.ledger)
            for name in BY_NAME:
                self._repair(name)
            self._copy_head()

    def accept(self) -> int:
        """As :meth:`prepare`, but a person vouches for what no seal announces: it is completed and anchored, and no
        alarm is left open; returns how many were.

        Raises:
            StoreBroken: log, ledger and anchor contradict each other.
            StoreConflict: another process held the lock for too long.
        """
        with self._threads:
            ours, self._seals = self._seals, Seals()
            try:
                self.prepare()
            finally:
                self._seals = ours
            with self.exclusive():
                return self.ledger.alarms.vouch()

    def publish(self, table_name: str, rows: pa.Table, *, app: str) -> Published:
        """Append rows once: the same `app` is never done twice, and rows whose key is in the table are left out.

        Args:
            rows: with the columns of `xadflow.evidence.tables.BY_NAME[table_name]`, in any order; missing or null row
                digests are filled in, given ones are checked.
            app: names exactly this work, see :func:`shard_app`.

        Raises:
            BadInput: wrong columns, nulls where none may be, a key twice, a wrong row digest.
            StoreConflict: other writers kept winning, or held the lock for too long.
            StoreBroken: the table cannot be written, or log, ledger and anchor contradict each other.
        """
        rows = checked_rows(table_name, rows)
        with self.exclusive():
            self._settle(check=not self._anchor_checked)
            for attempt in range(ATTEMPTS):
                table = self._latest(table_name)
                check_in_step(table_name, self.folder(table_name), self.ledger)
                added = self._not_there_yet(table_name, table, rows, app)
                version = self._commit(table_name, table, added, app) if added.num_rows else table.version()
                if version is not None:
                    self._copy_head()
                    self.ledger.end()
                    return Published(version, added.num_rows)
                time.sleep(min(_SHORTEST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0))
        raise StoreConflict(
            f"another writer kept winning the commit to {table_name}",
            seen=f"{ATTEMPTS} attempts",
            next_step="run again; let only one machine write to a store",
        )

    def _latest(self, name: str) -> DeltaTable:
        """The table at the end of its log; an open one goes on with the new entries, opening reads up to a hundred.

        After a checkpoint it is opened anew: it would keep what came before as single entries, and every write grow
        slower.
        """
        pointer = self.folder(name) / LOG / "_last_checkpoint"
        checkpoint = pointer.stat().st_mtime_ns if pointer.exists() else 0
        table, of = self._held.pop(name, (None, checkpoint))
        if table is not None and of == checkpoint:
            try:
                table.update_incremental()
            except (DeltaError, OSError) as err:
                logger.info("%s: opened anew: %s", name, err)
                table = None
        if (
            table is None or of != checkpoint or table.version() != self.ledger.last_version(name)
        ):  # or replaced on disk
            table = self._open(name)
        self._held[name] = table, checkpoint
        return table

    def _not_there_yet(self, name: str, table: DeltaTable, rows: pa.Table, app: str) -> pa.Table:
        if table.transaction_version(app) is not None:
            return rows.slice(0, 0)
        return self._index(name, table).missing(rows)

    def _commit(self, name: str, table: DeltaTable, rows: pa.Table, app: str) -> int | None:
        """One attempt; the version, or None when another writer won."""
        intent = self._announce(Intent(name, table.version() + 1, app, rows_digest(digests_of(rows))))
        failure: Exception | None = None
        try:
            write_deltalake(
                table,
                rows,
                mode="append",
                schema_mode=_schema_mode(table, rows.schema),
                writer_properties=_WRITER,
                post_commithook_properties=_HOOKS,
                commit_properties=_properties(intent),
            )
        except CommitFailedError as err:
            logger.info("%s: beaten to a commit: %s", name, err)
        except (DeltaError, OSError) as err:
            failure = err
        # Also after a failure: one that came after the commit, e.g. in a checkpoint, does not undo it.
        version = complete(self.tables, self.ledger, intent)
        if version is None and failure is not None:
            raise StoreBroken(
                f"the table {name} cannot be written", seen=str(failure)[:300], next_step=_CHECK_DISK
            ) from failure
        return version

    def _create(self, name: str) -> None:
        intent = self._announce(Intent(name, 0, f"{name}/create", rows_digest([])))
        try:
            self.folder(name).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                self.folder(name),
                BY_NAME[name],
                mode="error",
                name=name,
                partition_by=["run_date"],
                configuration=_CONFIGURATION,
                commit_properties=_properties(intent),
                post_commithook_properties=_HOOKS,
            )
        except (DeltaError, OSError) as err:
            raise StoreBroken(
                f"the table {name} cannot be created", seen=str(err)[:300], next_step=_CHECK_DISK
            ) from err
        complete(self.tables, self.ledger, intent)
        self.ledger.end()

    def _announce(self, intent: Intent) -> Intent:
        """Write down, sealed, what is about to be committed."""
        intent = replace(intent, after=self.ledger.last_digest())
        intent = replace(intent, seal=self._seals.seal(intent.content))
        self.ledger.begin(intent)
        return intent

    def _settle(self, check: bool) -> None:
        """Complete and anchor what was under way; `check` the anchors, also when others have written since."""
        left = settle(self.tables, self.ledger, self._seals)
        if check or left or self.ledger.head() != self._last_anchored:
            self._check_anchor(left)
        if left:
            self._copy_head()
            self.ledger.end()

    def _check_anchor(self, intent: Intent | None = None) -> None:
        if not self._anchored:
            self._anchor_checked = True
            return
        heads = set(self._anchored())
        for head in heads:
            if head is not None and head not in [line.head for line in self.ledger.lines()[head.seq - 1 : head.seq]]:
                raise StoreBroken(
                    "the ledger does not contain the head that the anchor outside holds",
                    seen=f"line {head.seq}, {head.digest[:12]}",
                    next_step=RESTORE,
                )
        known = max((head.seq for head in heads if head), default=0)
        check_announced(self.ledger, known, intent, self._seals)
        # Anchors that differ are brought up to the head: one of them may be new.
        self._last_anchored, self._anchor_checked = heads.pop() if len(heads) == 1 else None, True

    def _copy_head(self) -> None:
        head = self.ledger.head()
        if self._anchor and head is not None and head != self._last_anchored:
            self._anchor(head)
            self._last_anchored = head

    def _repair(self, name: str) -> None:
        """Remove files that neither log nor ledger names; under the lock no writer can be still making them."""
        folder = self.folder(name)
        known = {path for line in self.ledger.lines() if line.table == name for path in line.files}
        staged, _ = log_strangers(folder)
        litter = [folder / path for path in self.orphans(name) - known] + [folder / LOG / path for path in staged]
        for path in litter:
            path.unlink(missing_ok=True)
        if litter:
            logger.warning("%s: removed %d files of killed or beaten writers", name, len(litter))


def _schema_mode(table: DeltaTable, rows: pa.Schema) -> Literal["merge"] | None:
    """How to append: a table made before a column of the rows was there gets the column in the same commit.

    Its files stay as they are and read as null there. Not always "merge", which takes 70 % more time a commit.
    """
    held = field_names(pa.schema(table.schema().to_arrow()))
    return None if held >= field_names(rows) else "merge"


def _properties(intent: Intent) -> CommitProperties:
    # No retry inside Delta: it would put our commit on top of one that we never looked at.
    return CommitProperties(
        custom_metadata={ROWS_DIGEST: intent.rows_digest, MARK: intent.mark},
        max_commit_retries=0,
        app_transactions=[Transaction(intent.app, 1), Transaction(CHAIN, intent.version)],
    )
