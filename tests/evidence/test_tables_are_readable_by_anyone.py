from __future__ import annotations

import io

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from evidence_rows import MODEL, app_of, explanations, image_id, publish_shard, scores, store_in
from PIL import Image

from xadflow.errors import StoreBroken, WrongUse
from xadflow.evidence.tables import BY_NAME
from xadflow.images import decode_png


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = store_in(tmp_path_factory.mktemp("store"))
    store.prepare()
    publish_shard(store, range(4), day=20)
    publish_shard(store, range(4, 8), day=21)
    return store


def test_what_was_written_comes_back_in_the_contracts_types(store):
    for name, schema in BY_NAME.items():
        assert store.read(name).schema.equals(schema)
    row = store.read("explanations", where=pc.field("image_id") == image_id(2)).to_pylist()[0]
    wanted = explanations([2], day=20).to_pylist()[0]
    assert np.isnan(row["metrics"][1].pop("value"))
    assert np.isnan(wanted["metrics"][1].pop("value"))
    assert {**row, "row_digest": None} == {**wanted, "row_digest": None}
    pixels = np.asarray(Image.open(io.BytesIO(row["counterfactuals"][1]["image"]["bytes"])))
    assert (decode_png(row["counterfactuals"][1]["image"]["bytes"])[0] == pixels).all()


def test_columns_and_rows_can_be_chosen(store):
    late = store.read(
        "scores", ["image_id", "score"], where=pc.field("run_date") == pc.scalar("2026-11-21").cast("date32")
    )
    assert late.column_names == ["image_id", "score"]
    assert set(late["image_id"].to_pylist()) == {image_id(number) for number in range(4, 8)}


@pytest.mark.parametrize("table", ["scores", "explanations"])
def test_a_plain_parquet_read_of_the_folder_equals_the_log(store, table):
    paths = sorted(store.folder(table).glob("run_date=*/*.parquet"))
    plain = ds.dataset([str(path) for path in paths], partitioning="hive").to_table(columns=["image_id", "score"])
    through_log = store.read(table, ["image_id", "score"])
    assert plain.sort_by("image_id").equals(through_log.sort_by("image_id"))
    assert store.orphans(table) == set()
    assert {path.relative_to(store.folder(table)).as_posix() for path in paths} == store.log_files(table)


def test_duckdb_and_pandas_read_the_folder_and_the_log(store):
    folder = store.folder("scores")
    by_path = duckdb.sql(f"select count(*), min(run_date)::varchar from '{folder}/run_date=*/*.parquet'").fetchall()
    assert by_path == [(8, "2026-11-20")]
    dataset = DeltaTable(folder).to_pyarrow_dataset()  # noqa: F841 DuckDB finds it by name
    assert duckdb.sql(f"select count(*) from dataset where model_name = '{MODEL}'").fetchall() == [(8,)]
    assert len(pd.read_parquet(DeltaTable(folder).file_uris(), columns=["image_id"])) == 8


def test_row_groups_hold_at_most_100_rows_in_zstd(tmp_path):
    store = store_in(tmp_path)
    store.prepare()
    store.publish("scores", scores(range(1, 501, 2)), app=app_of("scores", range(250)))
    (path,) = store.folder("scores").glob("run_date=*/*.parquet")
    about = pq.ParquetFile(path).metadata
    assert [about.row_group(group).num_rows for group in range(about.num_row_groups)] == [100, 100, 50]
    assert about.row_group(0).column(0).compression == "ZSTD"


def test_the_tables_are_append_only_and_keep_their_log(store):
    table = DeltaTable(store.folder("scores"))
    settings = table.metadata().configuration
    assert settings["delta.appendOnly"] == "true"
    assert settings["delta.enableExpiredLogCleanup"] == "false"
    assert table.metadata().partition_columns == ["run_date"]


@pytest.mark.parametrize("name", ["a[1]", "a%20b", "a|b"])
def test_a_folder_that_delta_cannot_address_is_refused_at_once(tmp_path, name):
    with pytest.raises(WrongUse, match="XADFLOW_HOME"):
        store_in(tmp_path / name)


def test_a_table_that_is_not_there_yet_is_an_error_with_a_next_step(tmp_path):
    store = store_in(tmp_path)
    assert store.scored("any", 1) == {}
    assert store.explained("any", 1) == set()
    with pytest.raises(StoreBroken, match="no table scores yet.*xadflow explain"):
        store.read("scores")
