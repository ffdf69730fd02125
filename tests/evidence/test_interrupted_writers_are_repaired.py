from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from evidence_rows import app_of, content, explanations, publish_shard, scores
from evidence_rows import store_in as any_store_in

import xadflow.evidence.store
from xadflow.errors import StoreBroken
from xadflow.evidence.ledger import Ledger, LedgerHead
from xadflow.evidence.seals import Seals
from xadflow.evidence.verify import verify

store_in = partial(any_store_in, seals=Seals(secret=b"of this account " * 4))  # without it each completion is an alarm


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


@contextmanager
def killed_at(monkeypatch, place, name, trap):
    """What happens inside ends at the trap."""
    with monkeypatch.context() as patch:
        patch.setattr(place, name, trap)
        with pytest.raises(Killed):
            yield


def _die(*_, **__):
    raise Killed


def _half_a_line(self, **commit):
    """As much of an append as a kill in the middle of it leaves."""
    whole = Ledger(self.folder.with_name("whole"))
    whole.folder.mkdir()
    whole.path.write_bytes(self.path.read_bytes())
    before = len(whole.path.read_bytes())
    REAL_APPEND(whole, **commit)
    with self.path.open("ab") as stream:
        stream.write(whole.path.read_bytes()[before : before + 100])
    raise Killed


def _write_then_die(table, rows, **options):
    write_deltalake(table, rows, **options)
    raise Killed


def _leave_a_file(table, rows, **options):
    """A data file is written, its commit is not; a second one is half-written."""
    folder = Path(table.table_uri.removeprefix("file://")) / "run_date=2026-11-21"
    folder.mkdir(exist_ok=True)
    pq.write_table(rows.drop_columns(["run_date"]), folder / "part-00000-lost.parquet")
    (folder / "part-00000-torn.zstd.parquet#1").write_bytes(b"PAR1")
    (folder.parent / "_delta_log" / f"{9:020d}.json#1").write_bytes(b"{")
    raise Killed


REAL_APPEND = Ledger.append
POINTS = {
    "before the intent": (Ledger, "begin", _die),
    "between intent and write": (xadflow.evidence.store, "write_deltalake", _die),
    "while the data file is written": (xadflow.evidence.store, "write_deltalake", _leave_a_file),
    "between commit and ledger line": (xadflow.evidence.store, "write_deltalake", _write_then_die),
    "inside the ledger line": (Ledger, "append", _half_a_line),
    "between ledger line and its end": (Ledger, "end", _die),
    "before the anchor": (xadflow.evidence.store.EvidenceStore, "_copy_head", _die),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = store_in(tmp_path_factory.mktemp("undisturbed"))
    store.prepare()
    for first in (0, 4):
        publish_shard(store, range(first, first + 4))
    return content(store)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("table", ["explanations", "scores"])
def test_after_a_kill_the_next_run_leaves_the_tables_of_an_undisturbed_one(
    tmp_path, monkeypatch, undisturbed, point, table
):
    anchored: list[LedgerHead] = []
    options = {"anchor": anchored.append, "anchored": lambda: anchored[-1:]}
    store = store_in(tmp_path, **options)
    store.prepare()
    publish_shard(store, range(4))
    if table == "scores":
        rows = explanations([4, 6])
        store.publish("explanations", rows, app=app_of("explanations", range(4, 8)))
    with killed_at(monkeypatch, *POINTS[point]):
        if table == "scores":
            store.publish("scores", scores(range(4, 8)), app=app_of("scores", range(4, 8)))
        else:
            publish_shard(store, range(4, 8))

    after = store_in(tmp_path, **options)
    after.prepare()
    assert verify(after, anchored[-1]).problems == ()
    for first in (0, 4):
        publish_shard(after, range(first, first + 4), run_id="run-2")
    assert content(after) == undisturbed
    assert verify(after, anchored[-1]).problems == ()
    assert anchored[-1] == after.ledger.head()
    for one in ("explanations", "scores"):
        rows = ds.dataset(sorted(after.folder(one).glob("run_date=*/*.parquet")), partitioning="hive")
        assert rows.count_rows() == len(undisturbed[one])
        assert not list(after.folder(one).rglob("*#*"))


@pytest.mark.parametrize("trap", [_die, _write_then_die], ids=["before the commit", "after the commit"])
def test_a_kill_while_a_table_is_created_is_made_up_for(tmp_path, monkeypatch, trap):
    real = DeltaTable.create

    def create(*args, **options):
        if trap is not _die:
            real(*args, **options)
        raise Killed

    with killed_at(monkeypatch, xadflow.evidence.store.DeltaTable, "create", create):
        store_in(tmp_path).prepare()
    store = store_in(tmp_path)
    store.prepare()
    assert [(line.table, line.version) for line in store.ledger.lines()] == [("scores", 0), ("explanations", 0)]
    assert verify(store, store.ledger.head()).problems == ()


def test_another_live_writer_completes_the_line_before_its_own(tmp_path, monkeypatch):
    store, alive = store_in(tmp_path), store_in(tmp_path)
    store.prepare()
    with killed_at(monkeypatch, xadflow.evidence.store, "write_deltalake", _write_then_die):
        store.publish("scores", scores([1]), app=app_of("scores", [1]))
    alive.publish("scores", scores([3]), app=app_of("scores", [3]))
    assert [line.version for line in alive.ledger.lines() if line.table == "scores"] == [0, 1, 2]
    assert verify(alive, None).problems == ()


def test_an_error_after_the_commit_does_not_hide_the_commit(tmp_path, monkeypatch):
    def write(table, rows, **options):
        write_deltalake(table, rows, **options)
        raise xadflow.evidence.store.DeltaError("the checkpoint could not be written: no space left")

    store = store_in(tmp_path)
    store.prepare()
    monkeypatch.setattr(xadflow.evidence.store, "write_deltalake", write)
    assert store.publish("scores", scores([1]), app=app_of("scores", [1])).added
    assert verify(store, store.ledger.head()).problems == ()


def test_an_error_before_the_commit_says_what_to_do(tmp_path, monkeypatch):
    def write(*_, **__):
        raise OSError(28, "No space left on device")

    store = store_in(tmp_path)
    store.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(xadflow.evidence.store, "write_deltalake", write)
        with pytest.raises(StoreBroken, match="No space left.*Next: check free space"):
            store.publish("scores", scores([1]), app=app_of("scores", [1]))
    assert store.publish("scores", scores([1]), app=app_of("scores", [1])).added


def _killed_holding_the_lock(folder: Path, held) -> None:
    store = store_in(folder)
    with store.exclusive():
        held.set()
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    run = spawn.Process(target=_killed_holding_the_lock, args=(tmp_path, held))
    run.start()
    run.join(60)
    assert run.exitcode == -signal.SIGKILL
    assert store.publish("scores", scores([1]), app=app_of("scores", [1])).added


def _plain_append(store, table="scores", numbers=(99,)):
    write_deltalake(store.folder(table), scores(numbers), mode="append")


def test_a_commit_that_xadflow_did_not_make_is_never_taken_into_the_ledger(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    _plain_append(store)
    stray = store.folder("scores") / "run_date=2026-11-21" / "stray.parquet"
    stray.write_bytes(b"evidence, perhaps")
    for _ in range(2):
        with pytest.raises(StoreBroken, match="xadflow did not make it"):
            store_in(tmp_path).prepare()
        with pytest.raises(StoreBroken, match="xadflow did not make it"):
            store.publish("scores", scores([1]), app=app_of("scores", [1]))
    assert len(store.ledger.lines()) == 2
    assert stray.exists(), "nothing is removed where log and ledger contradict each other"


def test_a_foreign_commit_in_place_of_a_killed_one_is_not_mistaken_for_it(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    store.prepare()
    with killed_at(monkeypatch, xadflow.evidence.store, "write_deltalake", _die):
        store.publish("scores", scores([1]), app=app_of("scores", [1]))
    _plain_append(store)
    with pytest.raises(StoreBroken, match="xadflow did not make it"):
        store_in(tmp_path).prepare()


def test_rows_changed_between_commit_and_ledger_line_are_not_taken_in(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    store.prepare()
    with killed_at(monkeypatch, xadflow.evidence.store, "write_deltalake", _write_then_die):
        store.publish("scores", scores([1]), app=app_of("scores", [1]))
    (file,) = store.folder("scores").glob("run_date=*/*.parquet")
    pq.write_table(scores([2]).drop_columns(["run_date"]), file)
    with pytest.raises(StoreBroken, match="not the one that was intended"):
        store_in(tmp_path).prepare()


def test_a_removed_last_commit_stops_the_writer_instead_of_being_written_over(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    store.publish("scores", scores([1]), app=app_of("scores", [1]))
    (store.folder("scores") / "_delta_log" / f"{1:020d}.json").unlink()
    with pytest.raises(StoreBroken, match="commit 1 of scores is in the ledger only: it was removed"):
        store_in(tmp_path).publish("scores", scores([3]), app=app_of("scores", [3]))


def test_a_rewritten_ledger_is_not_anchored_over_the_true_one(tmp_path):
    heads: list[LedgerHead] = []
    store = store_in(tmp_path, anchor=heads.append)
    store.prepare()
    false = LedgerHead(heads[-1].seq, "0" * 64)
    suspicious = store_in(tmp_path, anchor=heads.append, anchored=lambda: [false])
    before = len(heads)
    with pytest.raises(StoreBroken, match="does not contain the head"):
        suspicious.prepare()
    with pytest.raises(StoreBroken, match="does not contain the head"):
        suspicious.publish("scores", scores([1]), app=app_of("scores", [1]))
    assert len(heads) == before
