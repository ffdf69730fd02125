from __future__ import annotations

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable
from evidence_rows import app_of, explanation_row, image_id, publish_shard, score_row, scores, store_in

from xadflow.evidence.commits import entry_path
from xadflow.evidence.tables import ADDED_LATER, BY_NAME, EXPLANATIONS, row_digest
from xadflow.evidence.verify import verify

WORD = {"name": "xad.made-up.judge", "version": 2, "score": 0.4, "threshold": 0.5, "is_normal": True}
DONOR = "d" * 64


def schema_of_then() -> pa.Schema:
    """The explanations before counterfactuals had judges and donors."""
    place = EXPLANATIONS.get_field_index("counterfactuals")
    struct = EXPLANATIONS.field(place).type.value_type
    fields = [
        struct.field(number) for number in range(struct.num_fields) if struct.field(number).name not in ADDED_LATER
    ]
    return EXPLANATIONS.set(place, pa.field("counterfactuals", pa.list_(pa.struct(fields))))


def new_rows(numbers, *, day: int) -> pa.Table:
    rows = [{**explanation_row(number, day=day), "row_digest": None} for number in numbers]
    for row in rows:
        row["counterfactuals"][0] |= {"judges": [WORD], "donor_id": DONOR}
    return pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in EXPLANATIONS]))


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A store as it was left by the release before, opened by this one."""
    with monkeypatch.context() as then:
        then.setitem(BY_NAME, "explanations", schema_of_then())
        store = store_in(tmp_path)
        store.prepare()
        publish_shard(store, range(4), day=20)
        assert "judges" not in str(DeltaTable(store.folder("explanations")).schema())
        digests = {row["image_id"]: row["row_digest"] for row in store.read("explanations").to_pylist()}
    return store_in(tmp_path), digests


@pytest.fixture
def mixed(old):
    store, digests = old
    store.prepare()
    store.publish("explanations", new_rows([4, 6], day=21), app=app_of("explanations", range(4, 8)))
    store.publish("scores", scores(range(4, 8), day=21), app=app_of("scores", range(4, 8)))
    return store, digests


def test_an_old_table_is_read_with_nulls_before_anything_new_is_there(old):
    store, digests = old
    rows = store.read("explanations")
    assert rows.schema.equals(EXPLANATIONS)
    for row in rows.to_pylist():
        assert all(one["judges"] is None and one["donor_id"] is None for one in row["counterfactuals"])
        assert row_digest(row) == row["row_digest"] == digests[row["image_id"]]
    assert verify(store, None).ok


def test_new_rows_join_old_ones_in_one_commit_and_both_keep_their_digests(mixed):
    store, digests = mixed
    assert [line.version for line in store.ledger.lines() if line.table == "explanations"] == [0, 1, 2]
    rows = {row["image_id"]: row for row in store.read("explanations").to_pylist()}
    assert set(rows) == {image_id(number) for number in (0, 2, 4, 6)}
    for key, row in rows.items():
        assert row_digest(row) == row["row_digest"]
        assert digests.get(key, row["row_digest"]) == row["row_digest"]
    first, second = rows[image_id(4)]["counterfactuals"]
    assert (first["judges"], first["donor_id"]) == ([WORD], DONOR)
    assert (second["judges"], second["donor_id"]) == (None, None)
    assert rows[image_id(2)]["counterfactuals"][0]["judges"] is None


def test_the_audit_passes_on_old_and_new_rows_and_finds_a_word_that_was_changed(mixed):
    store, _ = mixed
    result = verify(store, None)
    assert result.ok, [str(one) for one in result.problems]
    assert result.rows == 12
    row = store.read("explanations", where=pc.field("image_id") == image_id(4)).to_pylist()[0]
    row["counterfactuals"][0]["judges"][0]["is_normal"] = False
    assert row_digest(row) != row["row_digest"]


def test_work_done_in_the_old_table_is_not_done_again(mixed):
    store, _ = mixed
    again = new_rows([0, 2, 8], day=22)
    published = store.publish("explanations", again, app=app_of("explanations", [0, 2, 8]))
    assert published.rows == 1
    assert (
        store.publish("scores", pa.Table.from_pylist([score_row(8, day=22)], schema=BY_NAME["scores"]), app="one").rows
        == 1
    )
    assert verify(store, None).ok


def test_the_columns_are_added_once(mixed):
    store, _ = mixed
    store.publish("explanations", new_rows([8], day=22), app=app_of("explanations", [8]))
    folder = store.folder("explanations")
    about = [version for version in range(4) if b'"metaData"' in entry_path(folder, version).read_bytes()]
    assert about == [0, 2]
    assert DeltaTable(folder).metadata().configuration["delta.appendOnly"] == "true"


def test_a_writer_that_held_the_old_table_open_goes_on_after_another_added_the_columns(old):
    store, _ = old
    other = store_in(store.tables.parent)
    other.publish("explanations", new_rows([4], day=21), app=app_of("explanations", [4]))
    store.publish("explanations", new_rows([6], day=21), app=app_of("explanations", [6]))
    other.publish("explanations", new_rows([8], day=21), app=app_of("explanations", [8]))
    assert store.read("explanations").num_rows == 5
    assert verify(store, None).ok


def test_a_plain_reader_of_the_folder_reads_both(mixed):
    store, _ = mixed
    folder = store.folder("explanations")
    paths = [str(path) for path in sorted(folder.glob("run_date=*/*.parquet"))]
    words = {image_id(number): ["xad.made-up.judge"] if number >= 4 else None for number in (0, 2, 4, 6)}

    both = f"read_parquet('{folder}/run_date=*/*.parquet', union_by_name=true)"
    found = duckdb.sql(
        f"select image_id, counterfactuals[1].judges, counterfactuals[1].donor_id from {both}"
    ).fetchall()
    rows = {key: (judges and [judge["name"] for judge in judges], donor) for key, judges, donor in found}
    assert rows == {key: (names, names and DONOR) for key, names in words.items()}

    dataset = DeltaTable(folder).to_pyarrow_dataset()  # noqa: F841 DuckDB finds it by name
    through_log = duckdb.sql("select image_id, counterfactuals[1].judges from dataset").fetchall()
    assert {key: judges and [judge["name"] for judge in judges] for key, judges in through_log} == words

    for order in (paths, paths[::-1]):
        plain = ds.dataset(order, schema=EXPLANATIONS.remove(EXPLANATIONS.get_field_index("run_date"))).to_table()
        first = {row["image_id"]: row["counterfactuals"][0]["judges"] for row in plain.to_pylist()}
        assert {key: judges and [judge["name"] for judge in judges] for key, judges in first.items()} == words
        assert len(pd.read_parquet(order)) == 4
