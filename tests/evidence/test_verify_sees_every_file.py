"""What a plain reader of the folders would read is named whatever it is called, and no content of any file of the
evidence ends an audit in anything but its findings.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from evidence_rows import publish_shard, store_in

from xadflow.errors import StoreBroken
from xadflow.evidence.anchor_file import AnchorFile
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four rows and its anchor file, to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    file = AnchorFile(folder / "heads.jsonl")
    store = store_in(folder, anchor=file.append)
    store.prepare()
    publish_shard(store, range(2))
    return folder


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> EvidenceStore:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return store_in(tmp_path)


def found(store: EvidenceStore, **options: object) -> list[str]:
    file = store.tables.parent / "heads.jsonl"
    told = [str(one) for one in verify(store, None, anchor_file=file, workers=1, **options).problems]
    for one in told:
        one.encode("utf-8")  # as a terminal and a log need it
        assert one.isprintable()
    return told


def rows(store: EvidenceStore) -> bytes:
    (file,) = store.folder("scores").glob("run_date=*/*.parquet")
    return file.read_bytes()


NAMES = {
    "without an ending": "run_date=2026-11-21/part-0",
    "with another ending": "run_date=2026-11-21/part-0.PARQUET",
    "short": "run_date=2026-11-21/part-0.parq",
    "beside the days": "data",
    "of a day of its own": "run_date=2031-01-01/x.pq",
    "hidden": "run_date=2026-11-21/.part-0",
    "deep": "a/b/c/d",
    "with a line break": "run_date=2026-11-21/a\nscores: all is well",
    "with colours": "run_date=2026-11-21/\x1b[2Kb",
    "that is no UTF-8": os.fsdecode(b"run_date=2026-11-21/\xff\xfe"),
    "in the log, in other digits": "_delta_log/" + "\u0660" * 19 + "\u0661.json",
    "in the log, another kind": "_delta_log/x.crc",
}


@pytest.mark.parametrize("how", NAMES)
def test_a_file_of_any_name_is_named(store: EvidenceStore, how: str) -> None:
    assert found(store) == []
    path = store.folder("scores") / NAMES[how]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows(store))
    named = [one for one in found(store) if "but no ledger line names it" in one]
    assert len(named) == 1, found(store)


@pytest.mark.parametrize("name", ["scores.parquet", "more/part-0", ".hidden", "Scores"])
def test_what_lies_beside_the_tables_is_named(store: EvidenceStore, name: str) -> None:
    path = store.tables / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(rows(store))
    assert found(store) == [f"tables: {name.partition('/')[0]} is in the folder of the tables, and is none"]


def test_links_and_pipes_are_named(store: EvidenceStore, tmp_path: Path) -> None:
    day = next(store.folder("scores").glob("run_date=*"))
    (day / "link").symlink_to(next(day.glob("*.parquet")))
    (day / "day").symlink_to(day)
    os.mkfifo(day / "pipe")
    assert sum("no ledger line names it" in one for one in found(store)) == 3


def test_a_repair_removes_what_a_killed_writer_leaves_and_nothing_else(store: EvidenceStore) -> None:
    day = next(store.folder("scores").glob("run_date=*"))
    for name in ("part-0", "notes.txt", "part-1.parquet"):
        (day / name).write_bytes(b"")
    store.prepare()
    assert {path.name for path in day.iterdir()} >= {"part-0", "notes.txt"}
    assert not (day / "part-1.parquet").exists()


BYTES = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00\x80",
    "UTF-16": '{"seq": 1}'.encode("utf-16"),
    "zeros": b"\x00" * 64 + b"\n",
    "half a surrogate": b'{"table": "\\ud800", "seq": 1}\n',
    "a number of 5,000 digits": b'{"seq": ' + b"9" * 5000 + b"}\n",
    "infinity": b'{"version": Infinity, "seq": Infinity, "add": {"size": Infinity}}\n',
    "brackets": b"[" * 100_000 + b"\n",
    "a list": b"[1, 2]\n",
    "a path with a zero": b'{"add": {"path": "a\\u0000b", "size": 1, "partitionValues": {"run_date": "2026-11-21"}}}\n',
    "a size without end": b'{"add": {"path": "a", "size": Infinity, "partitionValues": {"run_date": "2026-11-21"}}}\n',
}
PLACES = {
    "ledger": "ledger/ledger.jsonl",
    "intent": "ledger/intent.json",
    "anchor file": "heads.jsonl",
    "log entry": "tables/scores/_delta_log/00000000000000000001.json",
    "a later log entry": "tables/scores/_delta_log/00000000000000000002.json",
    "checkpoint pointer": "tables/scores/_delta_log/_last_checkpoint",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("content", BYTES)
def test_no_content_ends_an_audit(store: EvidenceStore, place: str, content: str) -> None:
    path = store.tables.parent / PLACES[place]
    path.write_bytes(BYTES[content])
    assert found(store), "nothing was found"


@pytest.mark.parametrize("place", ["ledger", "anchor file", "log entry"])
@pytest.mark.parametrize("how", ["added", "in front"])
def test_nor_does_what_is_added_to_a_file(store: EvidenceStore, place: str, how: str) -> None:
    path = store.tables.parent / PLACES[place]
    before = path.read_bytes()
    for content in BYTES.values():
        path.write_bytes(before + content if how == "added" else content + before)
        assert bool(found(store)) is (path.read_bytes() != before)


def test_texts_that_are_no_utf_8_in_a_file_that_is_not_read_are_a_finding(store: EvidenceStore) -> None:
    """The quick audit reads keys of old files and not their bytes: same size, other texts."""
    (file,) = store.folder("scores").glob("run_date=*/*.parquet")
    names = pq.read_table(file, partitioning=None)["model_name"].to_pylist()
    content = file.read_bytes()
    changed = content.replace(names[0].encode(), b"\xff" * len(names[0]))
    assert changed != content
    file.write_bytes(changed)
    assert found(store, since_anchor=True)
    assert found(store)


def test_a_ledger_that_is_a_folder_is_said_in_a_line(store: EvidenceStore) -> None:
    store.ledger.path.unlink()
    store.ledger.path.mkdir()
    with pytest.raises(StoreBroken, match="the ledger cannot be read"):
        found(store)


def test_a_plain_reader_takes_a_file_without_an_ending(store: EvidenceStore) -> None:
    """The reason for all this."""
    day = next(store.folder("scores").glob("run_date=*"))
    before = ds.dataset(day, format="parquet").count_rows()
    (day / "extra").write_bytes(rows(store))
    assert ds.dataset(day, format="parquet").count_rows() == 2 * before
