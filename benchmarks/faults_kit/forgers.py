"""Faults by somebody who may write to the state folder and has neither signing key nor secret of the account."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.faults_kit import children
from benchmarks.faults_kit.bench import Bench
from benchmarks.faults_kit.outcome import Fault, Outcome, after_night, ending, error_line
from benchmarks.faults_kit.outcomes import Evidence, left

FORGERS = "somebody else writes to var/"


def forged_rows(bench: Bench, reference: Evidence) -> list[Fault]:
    """A row is appended by a valid commit, and named by an intent as a killed run leaves it, or by a ledger line too.

    The next night must refuse it with one line and take nothing in. Then tables and ledger come back from a backup.
    """

    def forge(with_line: bool) -> Outcome:
        what = f"forged {'ledger line' if with_line else 'intent'}, then restored"
        state = bench.state(what, of="trained")
        backup = state.with_name(f"{state.name}-backup")
        bench.must(state, bench.night)
        _put(state, backup)
        children.ask(append_a_row, state, with_line, log=state.parent / "forge.log")
        before = left(state)
        ended = bench.run(state, bench.night)
        after, taken_in = left(state), bench.evidence(state).anchored and with_line
        verified = bench.run(state, ("audit", "verify"))
        seen = f"{after}; audit verify: {ending(verified)}, {error_line(verified.said, bench)}"
        _put(backup, state)
        outcome = after_night(bench, reference, FORGERS, what, state, ended, seen)
        refused = ended.status == 1 and verified.status == 1 and after == before and not taken_in
        return outcome if refused else replace(outcome, same=False, left=f"{seen}; it was not refused")

    return [Fault(partial(forge, with_line)) for with_line in (False, True)]


def append_a_row(state: Path, with_line: bool) -> None:
    """A row of `scores` that nobody scored, with every mark that xadflow makes and a seal that holds for nothing."""
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

    from xadflow.digests import sha256_file
    from xadflow.evidence.commits import CHAIN, MARK, ROWS_DIGEST, entry_path, read_commit
    from xadflow.evidence.ledger import Intent
    from xadflow.evidence.row_keys import checked_rows, digests_of
    from xadflow.evidence.store import EvidenceStore
    from xadflow.evidence.tables import SCORES, rows_digest

    store = EvidenceStore(state / "tables", state / "ledger")
    folder, row = store.folder("scores"), store.read("scores").to_pylist()[0]
    rows = checked_rows("scores", pa.Table.from_pylist([{**row, "image_id": "f" * 64, "score": 0.0}], schema=SCORES))
    table = DeltaTable(folder)
    intent = Intent("scores", table.version() + 1, "scores/forged", rows_digest(digests_of(rows)))
    intent = replace(intent, after=store.ledger.last_digest(), seal=f"hmac:{'0' * 64}")
    properties = CommitProperties(
        custom_metadata={ROWS_DIGEST: intent.rows_digest, MARK: intent.mark},
        app_transactions=[Transaction(intent.app, 1), Transaction(CHAIN, intent.version)],
    )
    write_deltalake(table, rows, mode="append", commit_properties=properties)
    store.ledger.begin(intent)
    if with_line:
        commit = read_commit(folder, intent.version)
        store.ledger.append(
            table="scores",
            version=commit.version,
            rows_digest=intent.rows_digest,
            log_entry=sha256_file(entry_path(folder, commit.version)),
            files={file.path: sha256_file(folder / file.path) for file in commit.files},
        )


def _put(source: Path, target: Path) -> None:
    """Tables and ledger of one state folder in the place of another's."""
    for name in ("tables", "ledger"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(source / name, target / name)
