from __future__ import annotations

import errno
import multiprocessing
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from evidence_rows import MODEL, VERSION, app_of, content, explanations, image_id, publish_shard, scores, store_in

import xadflow.evidence.store
import xadflow.evidence.writer_lock
from xadflow.errors import BadInput, StoreBroken, StoreConflict
from xadflow.evidence.ledger import LedgerHead
from xadflow.evidence.verify import verify


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    return store


def test_a_second_publish_of_the_same_shard_adds_no_row(store):
    first = store.publish("scores", scores(range(6)), app=app_of("scores", range(6)))
    again = store.publish("scores", scores(range(6), run_id="run-2"), app=app_of("scores", range(6)))
    assert (first.version, first.added, again.added) == (1, True, False)
    assert store.read("scores").num_rows == 6
    assert len(store.ledger.lines()) == 3  # two creations, one commit


def test_work_of_one_name_is_done_once_even_with_other_rows(store):
    store.publish("scores", scores([1]), app="the same work")
    assert not store.publish("scores", scores([1, 3]), app="the same work").added
    assert store.scored_ids(MODEL, VERSION) == {image_id(1)}


def test_an_overlapping_shard_adds_only_the_rows_that_are_missing(store):
    store.publish("scores", scores(range(6)), app=app_of("scores", range(6)))
    published = store.publish("scores", scores(range(4, 9)), app=app_of("scores", range(4, 9)))
    assert published.rows == 3
    assert store.scored_ids(MODEL, VERSION) == {image_id(number) for number in range(9)}
    assert verify_problems(store, explained=False) == []


def test_shards_in_reverse_order_give_the_same_table(tmp_path):
    shards = [range(4), range(4, 8), range(8, 12)]
    stores = [store_in(tmp_path / name) for name in ("forward", "reverse")]
    for store, order in zip(stores, (shards, shards[::-1]), strict=True):
        store.prepare()
        for shard in order:
            publish_shard(store, shard)
    assert content(stores[0]) == content(stores[1])
    assert len(content(stores[0])["scores"]) == 12


def test_a_new_explainer_fills_exactly_its_own_rows(store):
    publish_shard(store, range(4))
    store.publish("explanations", explanations([0, 2], explainer="new"), app=app_of("explanations", [0, 2]))
    assert store.explained(MODEL, VERSION) == {
        (image_id(number), name, "v1") for number in (0, 2) for name in ("sparse", "new")
    }
    assert store.scored(MODEL, VERSION) == {image_id(number): number % 2 == 0 for number in range(4)}
    assert store.explained(MODEL, VERSION + 1) == set()


def _race(folder: Path, name: str, start) -> None:
    store = store_in(folder)
    start.wait(60)
    store.prepare()
    for first in range(0, 20, 4):
        publish_shard(store, range(first, first + 4), run_id=name)


def test_two_processes_at_once_add_each_row_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    runs = [spawn.Process(target=_race, args=(tmp_path, name, start)) for name in ("a", "b")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    store = store_in(tmp_path)
    assert len(content(store)["scores"]) == 20
    assert len(content(store)["explanations"]) == 10
    assert verify(store, store.ledger.head()).problems == ()


def _without_lock(monkeypatch):
    monkeypatch.setattr(xadflow.evidence.store, "writer_lock", lambda *_, **__: nullcontext())


def _beaten(monkeypatch, times: int, rival):
    """Let `rival(n)` commit between the check and the write of the next `times` writes."""
    real, turns = xadflow.evidence.store.write_deltalake, iter(range(times))

    def write(table, rows, **options):
        turn = next(turns, None)
        if turn is not None:
            with monkeypatch.context() as undo:
                undo.setattr(xadflow.evidence.store, "write_deltalake", real)
                rival(turn)
        real(table, rows, **options)

    monkeypatch.setattr(xadflow.evidence.store, "write_deltalake", write)


def test_a_writer_that_is_beaten_where_no_lock_reaches_tries_again(store, tmp_path, monkeypatch):
    _without_lock(monkeypatch)
    rival = store_in(tmp_path)
    _beaten(monkeypatch, 1, lambda _: rival.publish("scores", scores([8]), app=app_of("scores", [8])))
    published = store.publish("scores", scores([7]), app=app_of("scores", [7]))
    assert (published.version, published.added) == (2, True)
    assert store.read("scores").num_rows == 2
    assert len(store.orphans("scores")) == 1, "the beaten attempt leaves its file"
    store.prepare()
    assert store.orphans("scores") == set()
    assert verify_problems(store, explained=False) == []


def test_the_same_shard_written_by_a_rival_in_between_is_not_doubled(store, tmp_path, monkeypatch):
    _without_lock(monkeypatch)
    rival = store_in(tmp_path)
    _beaten(monkeypatch, 1, lambda _: rival.publish("scores", scores([7]), app=app_of("scores", [7])))
    assert not store.publish("scores", scores([7]), app=app_of("scores", [7])).added
    assert store.read("scores").num_rows == 1


def test_a_writer_that_is_beaten_too_often_says_so(store, tmp_path, monkeypatch):
    _without_lock(monkeypatch)
    monkeypatch.setattr(xadflow.evidence.store, "ATTEMPTS", 2)
    rival = store_in(tmp_path)
    _beaten(monkeypatch, 2, lambda n: rival.publish("scores", scores([10 + n]), app=app_of("scores", [10 + n])))
    with pytest.raises(StoreConflict, match="2 attempts"):
        store.publish("scores", scores([7]), app=app_of("scores", [7]))


def test_a_lock_that_is_never_released_ends_in_a_conflict(store, tmp_path, monkeypatch):
    monkeypatch.setattr(xadflow.evidence.store, "LOCK_WAIT_S", 0.05)
    other = store_in(tmp_path)
    with store.exclusive(), pytest.raises(StoreConflict, match="lock"):
        other.publish("scores", scores([7]), app=app_of("scores", [7]))


def test_where_there_are_no_locks_writing_is_refused_and_verifying_works(store, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(xadflow.evidence.writer_lock.fcntl, "flock", no_locks)
    with pytest.raises(StoreBroken, match="cannot be locked.*XADFLOW_HOME"):
        store.publish("scores", scores([7]), app="a")
    assert verify(store, None).ok


def test_each_commit_is_anchored_and_a_failed_anchor_is_made_up_for(tmp_path):
    heads: list[LedgerHead] = []
    down = False

    def anchor(head: LedgerHead) -> None:
        if down:
            raise ConnectionError("MLflow is down")
        heads.append(head)

    store = store_in(tmp_path, anchor=anchor)
    store.prepare()
    store.publish("scores", scores([1]), app=app_of("scores", [1]))
    assert [head.seq for head in heads] == [2, 3]
    down = True
    with pytest.raises(ConnectionError):
        store.publish("scores", scores([3]), app=app_of("scores", [3]))
    down = False
    assert not store.publish("scores", scores([3]), app=app_of("scores", [3])).added
    assert heads[-1] == store.ledger.head()
    assert heads[-1].seq == 4


@pytest.mark.parametrize(
    ("table", "spoil", "what"),
    [
        ("scores", lambda rows: rows.drop_columns(["score"]), "other columns"),
        ("scores", lambda rows: rows.append_column("more", pa.array([1, 2])), "other columns"),
        ("scores", lambda rows: pa.concat_tables([rows, rows]), "same key twice"),
        ("scores", lambda rows: rows.set_column(9, "score", pa.array([1.0, None])), "null in score"),
        ("scores", lambda rows: rows.set_column(9, "score", pa.array(["high", "low"])), "other types"),
        ("explanations", lambda rows: rows.append_column("row_digest", pa.array(["0" * 64] * 2)), "row digest"),
    ],
)
def test_rows_that_break_the_contract_are_refused_before_anything_is_written(store, table, spoil, what):
    rows = scores([0, 2]) if table == "scores" else explanations([0, 2])
    with pytest.raises(BadInput, match=what):
        store.publish(table, spoil(rows), app="x")
    assert len(store.ledger.lines()) == 2
    assert store.orphans(table) == set()


def verify_problems(store, *, explained: bool) -> list[str]:
    """Problems apart from missing explanations, which these tests do not write unless `explained`."""
    problems = [str(problem) for problem in verify(store, None).problems]
    return [text for text in problems if explained or "has no explanation" not in text]
