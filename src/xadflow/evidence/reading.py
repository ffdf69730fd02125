"""The tables as anyone may read them: through Delta Lake's log, never by the files that happen to lie there."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import fs

from xadflow.errors import StoreBroken
from xadflow.evidence.commits import LOG, data_files, log_versions
from xadflow.evidence.completion import RESTORE
from xadflow.evidence.row_keys import KeyIndex
from xadflow.evidence.tables import BY_NAME


class TableReader:
    """The reading half of :class:`xadflow.evidence.store.EvidenceStore`; `tables` is the folder of the Delta tables."""

    def __init__(self, tables: Path) -> None:
        self.tables = tables
        self._threads = threading.RLock()
        self._indexes = {name: KeyIndex(name, self.folder(name)) for name in BY_NAME}

    def read(
        self, table_name: str, columns: Sequence[str] | None = None, where: Any = None, most: int | None = None
    ) -> pa.Table:
        """Rows through the log, in no particular order.

        Args:
            columns: names; all by default.
            where: a `pyarrow.compute` expression over any column.
            most: read no further than so many rows.

        Raises:
            StoreBroken: there is no such table yet, or it cannot be read.
        """
        schema = BY_NAME[table_name]
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        table = self._open(table_name)
        try:
            dataset = table.to_pyarrow_dataset(filesystem=_local(self.folder(table_name)))
            scanner = dataset.scanner(columns=schema.names, filter=where)
            return (scanner.to_table() if most is None else scanner.head(most)).cast(schema)
        except (DeltaError, OSError, pa.ArrowException) as err:
            raise StoreBroken(f"the table {table_name} cannot be read", seen=str(err)[:300], next_step=RESTORE) from err

    def scored(self, model_name: str, version: int) -> dict[str, bool]:
        """image_id -> is_anomaly of every image that this model version has scored; empty before the first commit."""
        index = self._index("scores")
        return {image_id: flagged for (image_id,), flagged in index.of(model_name, version).items()}

    def scored_ids(self, model_name: str, version: int) -> set[str]:
        """image_id of every image that this model version has scored."""
        return set(self.scored(model_name, version))

    def explained(self, model_name: str, version: int) -> set[tuple[str, str, str]]:
        """(image_id, explainer, explainer_version) of every explanation of this model version."""
        return {(key[0], key[1], key[2]) for key in self._index("explanations").of(model_name, version)}

    def of_another(self, model_name: str, version: int, weights: str, threshold: float) -> str | None:
        """What says that rows under this version's number were made by another model, None when nothing does.

        Numbers start anew with a registry that was lost. Looked at are the thresholds of all rows, and the sha256 of
        the weight file in the lineage of one.
        """
        odd = {value for name in BY_NAME for value in self._index(name).thresholds(model_name, version)} - {threshold}
        if odd:
            return f"threshold {min(odd):g}, this version has {threshold:g}"
        if not self._index("explanations").of(model_name, version):
            return None
        where = (pc.field("model_name") == model_name) & (pc.field("model_version") == version)
        for row in self.read("explanations", ["lineage"], where, most=1).to_pylist():
            made = json.loads(row["lineage"]).get("weights", weights)
            if made != weights:
                return f"weights {str(made)[:12]}, this version has {weights[:12]}"
        return None

    def versions(self, model_name: str) -> set[int]:
        """Versions of a model that have rows."""
        return self._index("scores").versions(model_name) | self._index("explanations").versions(model_name)

    def judges(self, dataset: str) -> dict[tuple[str, int], set[str]]:
        """Judges that explanations of a data set name in their lineage: (name, version) -> sha256 of their weights.

        Reads one lineage of each run, model version and explainer: its rows share the judges. Raises StoreBroken.
        """
        found: dict[tuple[str, int], set[str]] = {}
        if not log_versions(self.folder("explanations")):
            return found
        keys = ["run_id", "model_name", "model_version", "explainer"]
        rows = self.read("explanations", [*keys, "lineage"], pc.field("dataset") == dataset)
        alike = rows.group_by(keys).aggregate([("lineage", "min")])
        for text in alike["lineage_min"].to_pylist():
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # a lineage that names none
                for one in json.loads(text).get("judges", []):
                    key = str(one["model_name"]), int(one["model_version"])
                    found.setdefault(key, set()).add(str(one["weights"]))
        return found

    def folder(self, table_name: str) -> Path:
        """Folder of one table."""
        return self.tables / table_name

    def log_files(self, table_name: str) -> set[str]:
        """Data files that the log names, relative to the table's folder. Raises StoreBroken."""
        table = self._open(table_name)
        try:
            return self._named(table)
        except (DeltaError, ValueError, OSError) as err:
            raise StoreBroken(f"the table {table_name} cannot be read", seen=str(err)[:300], next_step=RESTORE) from err

    def orphans(self, table_name: str) -> set[str]:
        """Data files in the table's folder that the log does not name. Raises StoreBroken."""
        return data_files(self.folder(table_name)) - self.log_files(table_name)

    def _open(self, name: str) -> DeltaTable:
        try:
            return DeltaTable(self.folder(name))
        except TableNotFoundError as err:
            raise StoreBroken(
                f"there is no table {name} yet",
                seen=f"no {name}/{LOG}",
                next_step="run `xadflow explain` or `xadflow demo` first",
            ) from err
        except BaseException as err:
            # A panic of the Rust side on a damaged log is no Exception, and its class cannot be imported.
            if isinstance(err, Exception) or type(err).__name__ == "PanicException":
                raise StoreBroken(f"the table {name} cannot be opened", seen=str(err)[:300], next_step=RESTORE) from err
            raise

    @staticmethod
    def _named(table: DeltaTable) -> set[str]:
        # Not file_uris(): it percent-encodes the folder's own name.
        return {unquote(path) for path in pa.table(table.get_add_actions())["path"].to_pylist()}

    def _index(self, name: str, table: DeltaTable | None = None) -> KeyIndex:
        with self._threads:
            if table is not None or log_versions(self.folder(name)):
                self._indexes[name].update(self._named(table or self._open(name)))
            return self._indexes[name]


def _local(folder: Path) -> fs.FileSystem:
    # deltalake's own file system is in Python: an Arrow thread that still lets go of a file when the interpreter ends
    # wants its lock, and the process aborts after all its work is done.
    return fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
