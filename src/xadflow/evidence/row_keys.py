"""Which rows an evidence table holds: the keys that must be single, and a shard's rows checked against the schema."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from xadflow.errors import BadInput, StoreBroken
from xadflow.evidence.tables import BY_NAME, row_digest

KEYS = {
    "scores": ("model_name", "model_version", "image_id"),
    "explanations": ("model_name", "model_version", "image_id", "explainer", "explainer_version"),
}
Key = tuple[str, ...]  # what follows model_name and model_version
_MEND = "build the rows by the schemas of xadflow.evidence.tables"


class KeyIndex:
    """Keys of all rows of one table by (model_name, model_version), each with its is_anomaly; about 150 bytes a row.

    Also the thresholds that these rows were decided by: a version has one, so another one is of another model. Data
    files never change, so only files not seen before are read.
    """

    def __init__(self, table: str, folder: Path) -> None:
        self._table, self._folder = table, folder
        self._seen: set[str] = set()
        self._keys: dict[tuple[str, int], dict[Key, bool]] = {}
        self._thresholds: dict[tuple[str, int], set[float]] = {}

    def update(self, live: set[str]) -> None:
        """Follow the table to the files its log names now. Raises StoreBroken when one cannot be read."""
        if self._seen - live:  # append-only: only a replaced table gets here
            self._seen, self._keys, self._thresholds = set(), {}, {}
        new = sorted(live - self._seen)
        if not new:
            return
        schema = pa.schema(
            [BY_NAME[self._table].field(name) for name in (*KEYS[self._table], "threshold", "is_anomaly")]
        )
        paths = [str(self._folder / path) for path in new]
        try:
            rows = ds.dataset(paths, schema=schema, format="parquet").to_table().to_pydict()
        except (OSError, pa.ArrowException) as err:
            raise StoreBroken(
                f"a data file of {self._table} cannot be read",
                seen=str(err)[:300],
                next_step="run `xadflow audit verify`",
            ) from err
        for model, version, *key, threshold, flagged in zip(*rows.values(), strict=True):
            self._keys.setdefault((model, version), {})[tuple(key)] = flagged
            self._thresholds.setdefault((model, version), set()).add(threshold)
        self._seen |= set(new)

    def of(self, model_name: str, version: int) -> dict[Key, bool]:
        """Keys of one model version; do not change it."""
        return self._keys.get((model_name, version), {})

    def thresholds(self, model_name: str, version: int) -> set[float]:
        """Thresholds of the rows of one model version."""
        return self._thresholds.get((model_name, version), set())

    def versions(self, model_name: str) -> set[int]:
        """Versions of a model that have rows."""
        return {version for name, version in self._keys if name == model_name}

    def missing(self, rows: pa.Table) -> pa.Table:
        """The rows whose key is not in the table."""
        keys = zip(*rows.select(KEYS[self._table]).to_pydict().values(), strict=True)
        wanted = [tuple(key) not in self.of(model, version) for model, version, *key in keys]
        return rows if all(wanted) else rows.filter(pa.array(wanted, pa.bool_()))


def checked_rows(table: str, rows: pa.Table) -> pa.Table:
    """Rows in the schema of a table; missing or null row digests are filled in, given ones are checked.

    Raises:
        BadInput: other columns or types, null where none may be, a key twice, a row digest that does not fit.
    """
    schema = BY_NAME[table]
    digested = "row_digest" in schema.names
    if digested and "row_digest" not in rows.column_names:
        rows = rows.append_column("row_digest", pa.nulls(rows.num_rows, pa.string()))
    if sorted(rows.column_names) != sorted(schema.names):
        odd = sorted(set(rows.column_names) ^ set(schema.names))
        raise BadInput(f"rows for {table} with other columns than its schema", seen=odd, next_step=_MEND)
    try:
        rows = rows.select(schema.names).cast(pa.schema([field.with_nullable(True) for field in schema]))
    except (pa.ArrowException, ValueError) as err:
        raise BadInput(
            f"rows for {table} with other types than its schema", seen=str(err)[:200], next_step=_MEND
        ) from err
    if digested:
        rows = _digested(table, rows)
    for field in schema:
        if not field.nullable and (nulls := rows[field.name].null_count):
            raise BadInput(f"null in {field.name} of {table}", seen=f"{nulls} rows", next_step=_MEND)
    keys = list(zip(*rows.select(KEYS[table]).to_pydict().values(), strict=True))
    if len(set(keys)) != len(keys):
        raise BadInput(f"the same key twice in one shard of {table}", seen=KEYS[table], next_step=_MEND)
    return rows.cast(schema)


def digests_of(rows: pa.Table) -> list[str]:
    """Row digests of rows that :func:`checked_rows` gave: their column, or computed where the table has none."""
    if "row_digest" in rows.column_names:
        stored: list[str] = rows["row_digest"].to_pylist()
        return stored
    return [row_digest(row) for row in rows.to_pylist()]


def _digested(table: str, rows: pa.Table) -> pa.Table:
    plain = rows.to_pylist()
    digests = [row_digest(row) for row in plain]
    for row, digest in zip(plain, digests, strict=True):
        if row["row_digest"] not in (None, digest):
            raise BadInput(
                f"the row digest of image {str(row['image_id'])[:12]} does not fit its row of {table}",
                seen=row["row_digest"],
                next_step="leave row_digest null",
            )
    return rows.set_column(rows.column_names.index("row_digest"), "row_digest", pa.array(digests, pa.string()))
