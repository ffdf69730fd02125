from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

import pytest
from evidence_rows import publish_shard, store_in

import xadflow.evidence.rereading as rereading
from xadflow.evidence.verify import verify


@pytest.fixture
def damaged(tmp_path):
    """A store whose third commit of scores and fourth of explanations have a flipped byte."""
    store = store_in(tmp_path)
    store.prepare()
    for first in range(0, 20, 4):
        publish_shard(store, range(first, first + 4))
    for line in store.ledger.lines():
        if (line.table, line.version) in (("scores", 3), ("explanations", 4)):
            (name,) = line.files
            path = store.folder(line.table) / name
            content = bytearray(path.read_bytes())
            content[60] ^= 1
            path.write_bytes(bytes(content))
    return store


def found(store, **options):
    seen: list[tuple[int, int]] = []
    result = verify(store, store.ledger.head(), progress=lambda done, total: seen.append((done, total)), **options)
    return [str(problem) for problem in result.problems], result.rows, seen


def test_two_processes_find_what_one_finds_in_the_same_order(damaged):
    alone = found(damaged, workers=1)
    assert len(alone[0]) == 2
    assert alone[1] == 5 * 4 - 4 + 5 * 2 - 2
    assert found(damaged, workers=2) == alone


def test_a_worker_that_dies_is_done_without(damaged, monkeypatch):
    alone = found(damaged, workers=1)

    def dying(readings, workers):
        yield rereading.reread(readings[0])
        raise BrokenProcessPool("a worker was killed")

    monkeypatch.setattr(rereading, "_in_processes", dying)
    assert found(damaged, workers=2) == alone


def test_little_work_starts_no_process_and_much_does(damaged, monkeypatch):
    def never(*_):
        raise AssertionError("a process for so little")

    monkeypatch.setattr(rereading, "_in_processes", never)
    assert found(damaged)[1] > 0
    monkeypatch.setattr(rereading, "_WORTH_WORKERS", (5, 1 << 40))
    monkeypatch.setattr(rereading.os, "cpu_count", lambda: 2)
    with pytest.raises(AssertionError, match="a process"):
        found(damaged)
