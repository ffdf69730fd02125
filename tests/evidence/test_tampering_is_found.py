from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from evidence_rows import app_of, explanations, image_id, publish_shard, scores, store_in

import xadflow.evidence.row_keys
import xadflow.evidence.store
from xadflow.digests import sha256_file
from xadflow.errors import StoreBroken
from xadflow.evidence.commits import log_versions
from xadflow.evidence.tables import row_digest, rows_digest
from xadflow.evidence.verify import verify

SHARDS = [range(first, first + 4) for first in range(0, 12, 4)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder with three shards published, and the head that an anchor outside would hold."""
    folder = tmp_path_factory.mktemp("clean")
    store = store_in(folder)
    store.prepare()
    for shard in SHARDS:
        publish_shard(store, shard)
    return folder, store.ledger.head()


@pytest.fixture
def evidence(clean, tmp_path):
    """A private copy: (store, anchored head)."""
    shutil.copytree(clean[0], tmp_path / "copy")
    return store_in(tmp_path / "copy"), clean[1]


def problems_of(evidence, **options) -> list[str]:
    store, head = evidence
    return [str(problem) for problem in verify(store, head, **options).problems]


def one_data_file(store, table: str, version: int) -> Path:
    (line,) = [line for line in store.ledger.lines() if (line.table, line.version) == (table, version)]
    (relative,) = line.files
    return store.folder(table) / relative


def entry(store, table: str, version: int) -> Path:
    return store.folder(table) / "_delta_log" / f"{version:020d}.json"


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))


def test_untouched_evidence_verifies(evidence):
    store, head = evidence
    seen: list[tuple[int, int]] = []
    result = verify(store, head, progress=lambda done, total: seen.append((done, total)))
    assert (result.problems, result.ok, result.unanchored, result.head) == ((), True, 0, head)
    assert result.rows == 12 + 6
    assert result.commits == 2 + 6
    assert seen == [(number, 8) for number in range(1, 9)]


def test_a_moved_store_verifies(clean, tmp_path):
    shutil.copytree(clean[0], tmp_path / "an other place, 50% of #1")
    store = store_in(tmp_path / "an other place, 50% of #1")
    assert problems_of((store, clean[1])) == []
    publish_shard(store, range(12, 16))
    assert store.read("scores").num_rows == 16
    assert problems_of((store, clean[1])) == []


@pytest.mark.parametrize("table", ["scores", "explanations"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.999])
def test_a_flipped_byte_in_a_data_file_is_named(evidence, table, share):
    path = one_data_file(evidence[0], table, 2)
    flip(path, int(path.stat().st_size * share))
    assert f"{table} commit 2: run_date=2026-11-21/{path.name} is not the file that was written" in problems_of(
        evidence
    )


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_flipped_byte_in_any_log_entry_is_named(evidence, version):
    path = entry(evidence[0], "scores", version)
    for place in (0, path.stat().st_size // 2, path.stat().st_size - 1):
        before = path.read_bytes()
        flip(path, place, 1)
        assert any(f"scores commit {version}: log entry {path.name}" in what for what in problems_of(evidence))
        path.write_bytes(before)


def test_a_removed_data_file_is_named(evidence):
    path = one_data_file(evidence[0], "explanations", 1)
    path.unlink()
    for options in ({}, {"since_anchor": True}):
        assert f"explanations commit 1: run_date=2026-11-21/{path.name} is gone" in problems_of(evidence, **options)


def test_a_data_file_replaced_by_a_link_is_named(evidence, tmp_path):
    path = one_data_file(evidence[0], "explanations", 1)
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    assert any("is gone" in what for what in problems_of(evidence))


def test_a_commit_removed_from_the_end_is_named(evidence):
    store, _ = evidence
    entry(store, "scores", 3).unlink()
    for options in ({}, {"since_anchor": True}):
        assert any("scores commit 3: the commit was removed" in what for what in problems_of(evidence, **options))


def test_a_commit_removed_with_its_file_and_its_ledger_line_is_seen_from_the_anchor(evidence):
    store, _ = evidence
    one_data_file(store, "scores", 3).unlink()
    entry(store, "scores", 3).unlink()
    lines = store.ledger.path.read_bytes().splitlines(keepends=True)
    store.ledger.path.write_bytes(b"".join(lines[:-1]))
    found = problems_of((store_in(store.tables.parent), evidence[1]))
    assert "ledger: line 8, which the anchor holds, is gone; 7 lines are left" in found
    assert problems_of((store_in(store.tables.parent), None)) == [], "only the anchor outside can know"


def test_two_commits_swapped_are_both_named(evidence):
    first, second = (entry(evidence[0], "explanations", version) for version in (1, 2))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    found = problems_of(evidence)
    assert f"explanations commit 1: log entry {first.name} holds commit 2: commits were swapped" in found
    assert f"explanations commit 2: log entry {second.name} holds commit 1: commits were swapped" in found


def test_a_row_inserted_by_a_valid_delta_append_is_named(evidence):
    store, _ = evidence
    write_deltalake(store.folder("scores"), scores([99]), mode="append")
    for options in ({}, {"since_anchor": True}):
        found = problems_of(evidence, **options)
        assert any("scores commit 4: the log holds a commit that has no ledger line" in what for what in found)
        assert any("scores: a reader sees run_date=" in what for what in found)


def test_a_foreign_append_with_a_forged_ledger_line_is_not_in_the_chain(evidence):
    store, _ = evidence
    write_deltalake(store.folder("scores"), scores([99]), mode="append")
    (path,) = store.log_files("scores") - {path for line in store.ledger.lines() for path in line.files}
    store.ledger.append(
        table="scores",
        version=4,
        rows_digest=rows_digest([row_digest(scores([99]).to_pylist()[0])]),
        files={path: sha256_file(store.folder("scores") / path)},
        log_entry=sha256_file(entry(store, "scores", 4)),
    )
    assert any("scores commit 4" in what and "is not in the chain" in what for what in problems_of(evidence))


def test_an_edited_ledger_line_is_named(evidence):
    path = evidence[0].ledger.path
    raw = path.read_bytes().splitlines(keepends=True)
    raw[3] = raw[3].replace(b'"version":1', b'"version":2')
    path.write_bytes(b"".join(raw))
    assert any("ledger line 5 does not follow" in what for what in problems_of(evidence))


def _forge(store, table: str, version: int, change) -> None:
    """Rewrite one data file and then the whole ledger around it, keeping the rows digests."""
    path = one_data_file(store, table, version)
    rows = pq.ParquetFile(path).read()
    pq.write_table(pa.Table.from_pylist([change(row) for row in rows.to_pylist()], schema=rows.schema), path)
    lines = store.ledger.lines()
    store.ledger.path.unlink()
    forger = store_in(store.tables.parent).ledger
    for line in lines:
        files = {name: sha256_file(store.folder(line.table) / name) for name in line.files}
        forger.append(
            table=line.table, version=line.version, rows_digest=line.rows_digest, files=files, log_entry=line.log_entry
        )


@pytest.mark.parametrize("table", ["scores", "explanations"])
def test_a_forged_row_in_a_ledger_written_anew_fits_neither_anchor_nor_digest(evidence, table):
    store, head = evidence
    _forge(store, table, 3, lambda row: {**row, "p_value": 0.9})
    found = problems_of((store_in(store.tables.parent), head))
    assert any(f"ledger: line {head.seq} is not the one that the anchor holds" in what for what in found)
    found = problems_of((store_in(store.tables.parent), None))
    assert any(f"{table} commit 3: its rows do not have the rows digest of ledger line" in what for what in found)
    names_row = any(f"the row of image {image_id(8)[:12]} has another row_digest" in what for what in found)
    assert names_row == (table == "explanations")


def test_a_file_that_no_commit_names_is_named(evidence):
    folder = evidence[0].folder("scores") / "run_date=2026-11-21"
    shutil.copy(next(folder.glob("*.parquet")), folder / "copy.parquet")
    found = problems_of(evidence, since_anchor=True)
    assert "scores: run_date=2026-11-21/copy.parquet is in the folder, but no ledger line names it" in found


def test_a_linked_partition_folder_is_named(evidence, tmp_path):
    (tmp_path / "outside").mkdir()
    (evidence[0].folder("scores") / "run_date=2026-11-22").symlink_to(tmp_path / "outside")
    assert any("run_date=2026-11-22 is in the folder" in what for what in problems_of(evidence))


def test_a_foreign_checkpoint_is_named(evidence):
    DeltaTable(evidence[0].folder("scores")).create_checkpoint()
    found = problems_of(evidence)
    assert any("checkpoint.parquet is in the log's folder, but no ledger line names it" in what for what in found)


def test_a_torn_ledger_line_without_a_killed_writer_is_named(evidence):
    path = evidence[0].ledger.path
    path.write_bytes(path.read_bytes()[:-10])
    found = problems_of(evidence)
    assert any("ends in half a line" in what for what in found)
    with pytest.raises(StoreBroken, match="no commit was under way"):
        store_in(evidence[0].tables.parent).prepare()


def test_a_lost_table_is_a_problem_and_a_store_never_used_an_error(evidence, tmp_path):
    shutil.rmtree(evidence[0].tables)
    assert any("scores commit 0: the commit was removed" in what for what in problems_of(evidence))
    with pytest.raises(StoreBroken, match="no evidence to verify yet.*Next: run `xadflow explain`"):
        verify(store_in(tmp_path / "new"), None)
    assert verify(store_in(tmp_path / "new"), evidence[1]).problems, "an anchor without any evidence"


def test_a_row_doubled_inside_one_valid_chain_is_named(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    store.prepare()
    store.publish("scores", scores([1, 3]), app="a")
    monkeypatch.setattr(xadflow.evidence.row_keys.KeyIndex, "missing", lambda self, rows: rows)
    store.publish("scores", scores([3, 5]), app="b")
    (what,) = problems_of((store, store.ledger.head()))
    assert what.startswith(f"scores: image {image_id(3)[:12]} of ")
    assert what.endswith("has 2 rows with the same key")


def test_an_anomalous_image_without_explanation_is_named(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    store.publish("explanations", explanations([2]), app=app_of("explanations", [2]))
    store.publish("scores", scores([2, 4, 5]), app=app_of("scores", [2, 4, 5]))
    (what,) = problems_of((store, None))
    assert f"image {image_id(4)[:12]} is anomalous" in what


def test_since_the_anchor_only_newer_files_are_read(evidence):
    store, head = evidence
    publish_shard(store, range(20, 24))
    old, new = one_data_file(store, "explanations", 1), one_data_file(store, "explanations", 4)
    result = verify(store, head, since_anchor=True)
    assert (result.problems, result.rows, result.unanchored) == ((), 6, 2)
    flip(old, 50)
    assert problems_of(evidence, since_anchor=True) == []
    flip(new, 50)
    assert len(problems_of(evidence, since_anchor=True)) == 1
    assert len(problems_of(evidence)) == 2


def test_checkpoints_belong_to_the_evidence(tmp_path, monkeypatch):
    monkeypatch.setitem(xadflow.evidence.store._CONFIGURATION, "delta.checkpointInterval", "4")
    store = store_in(tmp_path)
    store.prepare()
    for number in range(1, 6):
        store.publish("scores", scores([2 * number + 1]), app=str(number))
    (checkpoint,) = store.folder("scores").glob("_delta_log/*.checkpoint.parquet")
    evidence = (store, store.ledger.head())
    assert problems_of(evidence) == []
    assert len(log_versions(store.folder("scores"))) == 6
    whole = checkpoint.read_bytes()
    flip(checkpoint, checkpoint.stat().st_size // 3)
    assert any(f"{checkpoint.name} is not the file that was written" in what for what in problems_of(evidence))
    checkpoint.write_bytes(whole)
    adds = pq.read_table(checkpoint)
    hidden = next(iter(store.ledger.lines()[3].files))
    is_hidden = [row is not None and row["path"] == hidden for row in adds["add"].to_pylist()]
    pq.write_table(adds.filter(pa.array([not hide for hide in is_hidden])), checkpoint)
    assert sum(is_hidden) == 1
    found = problems_of(evidence, since_anchor=True)
    assert found == [f"scores commit 2: a reader does not see {hidden}, which the ledger names"]
    checkpoint.write_bytes(whole)
    pointer = checkpoint.with_name("_last_checkpoint")
    pointer.write_text(pointer.read_text().replace('"version":3', '"version":2'))
    assert any("_last_checkpoint" in what for what in problems_of(evidence))
