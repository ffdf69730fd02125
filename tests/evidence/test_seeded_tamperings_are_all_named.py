"""240 small tamperings, each on a fresh copy of one store, each with its own seed: every one is found and named.

The head that MLflow holds is intact. 200 are of the six kinds that a quality manager asks about, 40 hit the ledger and
the checkpoints of the log.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import CommitProperties, Transaction, write_deltalake
from evidence_rows import explanations, publish_shard, scores, store_in

import xadflow.evidence.store
from xadflow.evidence.row_keys import checked_rows, digests_of
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import rows_digest
from xadflow.evidence.verify import verify

TABLES = ["scores", "explanations"]
LAST = 4  # commits 1 to 4 of each table hold rows, commit 0 made it; there is a checkpoint at commit 2
Named = list[str]  # what the audit must name, each of them


def data_file(store: EvidenceStore, table: str, version: int) -> Path:
    (line,) = [line for line in store.ledger.lines() if (line.table, line.version) == (table, version)]
    (relative,) = [path for path in line.files if not path.startswith("_delta_log/")]
    return store.folder(table) / relative


def entry(store: EvidenceStore, table: str, version: int) -> Path:
    return store.folder(table) / "_delta_log" / f"{version:020d}.json"


def checkpoint(store: EvidenceStore, table: str) -> Path:
    return store.folder(table) / "_delta_log" / f"{2:020d}.checkpoint.parquet"


def flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(content))


def exchange(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip_in_a_data_file(store: EvidenceStore, dice: random.Random) -> Named:
    table, version = dice.choice(TABLES), dice.randint(1, LAST)
    path = data_file(store, table, version)
    flip(path, dice)
    return [f"{table} commit {version}: {path.relative_to(store.folder(table))} is not the file that was written"]


def flip_in_a_log_entry(store: EvidenceStore, dice: random.Random) -> Named:
    table, version = dice.choice(TABLES), dice.randint(0, LAST)
    flip(entry(store, table, version), dice)
    return [f"{table} commit {version}: log entry {version:020d}.json"]


def remove_a_file(store: EvidenceStore, dice: random.Random) -> Named:
    table, version = dice.choice(TABLES), dice.randint(1, LAST)
    kind = dice.choice(["data", "data", "entry", "checkpoint"])
    if kind == "entry":
        version = dice.randrange(0, LAST)
        entry(store, table, version).unlink()
        return [f"{table} commit {version}: the commit was removed"]
    path = data_file(store, table, version) if kind == "data" else checkpoint(store, table)
    path.unlink()
    version = version if kind == "data" else 2
    return [f"{table} commit {version}: {path.relative_to(store.folder(table))} is gone"]


def remove_commits_from_the_end(store: EvidenceStore, dice: random.Random) -> Named:
    """The entry alone; with its data file; with its ledger line too; or several entries."""
    table = dice.choice(TABLES)
    how = dice.choice(["entry", "with data", "with ledger line", "several"])
    if how == "several":
        gone = range(dice.randint(1, LAST - 1), LAST + 1)
        for version in gone:
            entry(store, table, version).unlink()
        return [f"{table} commit {version}: the commit was removed" for version in gone]
    if how == "with ledger line":
        table = "scores"  # each shard publishes them last
    if how != "entry":
        data_file(store, table, LAST).unlink()
    entry(store, table, LAST).unlink()
    if how == "with ledger line":
        lines = store.ledger.path.read_bytes().splitlines(keepends=True)
        store.ledger.path.write_bytes(b"".join(lines[:-1]))
        return [f"ledger: line {len(lines)}, which the anchor holds, is gone"]
    return [f"{table} commit {LAST}: the commit was removed"]


def swap_two_commits(store: EvidenceStore, dice: random.Random) -> Named:
    """Their log entries, their data files, or their ledger lines."""
    table = dice.choice(TABLES)
    how = dice.choice(["entries", "data", "ledger lines"])
    if how == "entries":
        one, two = dice.sample(range(LAST + 1), 2)
        exchange(entry(store, table, one), entry(store, table, two))
        return [
            f"{table} commit {here}: log entry {here:020d}.json holds commit {there}: commits were swapped"
            for here, there in ((one, two), (two, one))
        ]
    one, two = dice.sample(range(1, LAST + 1), 2)
    if how == "data":
        paths = [data_file(store, table, version) for version in (one, two)]
        exchange(*paths)
        return [
            f"{table} commit {version}: {path.relative_to(store.folder(table))} is not the file that was written"
            for version, path in zip((one, two), paths, strict=True)
        ]
    lines = store.ledger.path.read_bytes().splitlines(keepends=True)
    here, there = (
        [line.seq for line in store.ledger.lines() if (line.table, line.version) == (table, version)][0] - 1
        for version in (one, two)
    )
    lines[here], lines[there] = lines[there], lines[here]
    store.ledger.path.write_bytes(b"".join(lines))
    return [f"ledger line {place + 1} says it is line {other + 1}" for place, other in ((here, there), (there, here))]


def insert_a_row(store: EvidenceStore, dice: random.Random) -> Named:
    """By a valid Delta append: a plain one, or one that imitates our transactions and our rows digest."""
    table, number = dice.choice(TABLES), 2 * dice.randint(0, 100)  # some are in the table already
    rows = (scores if table == "scores" else explanations)([number], day=dice.randint(20, 22))
    rows = checked_rows(table, rows)
    properties = None
    if dice.random() < 0.5:
        properties = CommitProperties(
            custom_metadata={"xadflow.rows_digest": rows_digest(digests_of(rows)), "xadflow.mark": "0" * 32},
            app_transactions=[Transaction("scores/made-up", 1), Transaction("chain", LAST + 1)],
        )
    write_deltalake(store.folder(table), rows, mode="append", commit_properties=properties)
    return [
        f"{table} commit {LAST + 1}: the log holds a commit that has no ledger line",
        f"{table}: a reader sees run_date=",
    ]


def flip_in_the_ledger(store: EvidenceStore, dice: random.Random) -> Named:
    flip(store.ledger.path, dice)
    return ["ledger: "]


def flip_in_a_checkpoint(store: EvidenceStore, dice: random.Random) -> Named:
    table = dice.choice(TABLES)
    flip(checkpoint(store, table), dice)
    return [f"{table} commit 2: _delta_log/{2:020d}.checkpoint.parquet is not the file that was written"]


ASKED_FOR: dict[Callable[[EvidenceStore, random.Random], Named], int] = {
    flip_in_a_data_file: 45,
    flip_in_a_log_entry: 45,
    remove_a_file: 30,
    remove_commits_from_the_end: 25,
    swap_two_commits: 30,
    insert_a_row: 25,
}
BESIDES = {flip_in_the_ledger: 20, flip_in_a_checkpoint: 20}
PLAN = [tamper for kinds in (ASKED_FOR, BESIDES) for tamper, times in kinds.items() for _ in range(times)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder with four shards published and a checkpoint in each log, and the head that an anchor outside holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(xadflow.evidence.store._CONFIGURATION, "delta.checkpointInterval", "3")
        store = store_in(tmp_path_factory.mktemp("clean"))
        store.prepare()
        for first in range(0, 4 * LAST, 4):
            publish_shard(store, range(first, first + 4))
    for table in TABLES:
        assert checkpoint(store, table).exists()
    assert verify(store, store.ledger.head()).problems == ()
    return store.tables.parent, store.ledger.head()


def test_at_least_200_tamperings_cover_each_kind_many_times() -> None:
    counts = Counter(tamper.__name__ for tamper in PLAN)
    asked_for = [counts[kind.__name__] for kind in ASKED_FOR]
    assert sum(asked_for) >= 200
    assert min(asked_for) >= 25
    assert min(counts.values()) >= 20


@pytest.mark.parametrize("seed", range(len(PLAN)), ids=lambda seed: f"{seed}-{PLAN[seed].__name__}")
def test_a_seeded_tampering_is_named(clean, tmp_path, seed):
    shutil.copytree(clean[0], tmp_path / "copy")
    named = PLAN[seed](store_in(tmp_path / "copy"), random.Random(seed))
    found = [str(problem) for problem in verify(store_in(tmp_path / "copy"), clean[1]).problems]
    for name in named:
        assert any(name in what for what in found), "\n".join(["the audit does not name", name, "but only", *found])
