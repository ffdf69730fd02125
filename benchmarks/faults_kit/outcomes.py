"""What a fault left behind, looked at from outside: rows through the log, rows as a plain Parquet reader counts them,
audit.

Nothing here knows which fault it was. An undisturbed run and a disturbed one are compared by content.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from xadflow.errors import XadflowError
from xadflow.evidence.ledger import LedgerHead
from xadflow.evidence.row_keys import KEYS
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import BY_NAME, row_digest
from xadflow.evidence.verify import verify
from xadflow.models.registry import Registry
from xadflow.models.tags import GATE, WEIGHTS_SHA256

Content = dict[str, dict[tuple[Any, ...], tuple[float, str]]]


@dataclass(frozen=True)
class Evidence:
    """The evidence of one state folder.

    `content` maps row keys to (score, row digest), table by table. `rows` are the rows through the log, `plain` those
    of every Parquet file below run_date=*/, `twice` the keys that more than one of those has. `audit` is empty when
    `audit verify` passes, else its first problem; `anchored` says that MLflow holds the ledger's last line.
    """

    content: Content
    rows: dict[str, int]
    plain: dict[str, int]
    twice: int
    audit: str
    anchored: bool


def evidence(state: Path, mlflow_uri: str | None = None) -> Evidence:
    """Look at the tables, the ledger and its anchor below a state folder."""
    tables = {name: _by_log(state / "tables" / name) for name in BY_NAME}
    plain = {name: _plainly(state / "tables" / name, KEYS[name]) for name in BY_NAME}
    registry = Registry(mlflow_uri or f"sqlite:///{state / 'mlflow.db'}", state / "mlartifacts")
    found = registry.anchored_head()
    head = LedgerHead(**found) if found else None
    store = EvidenceStore(state / "tables", state / "ledger")
    try:
        result = verify(store, head)
        audit = str(result.problems[0]) if result.problems else ""
        anchored = head is not None and head == result.head
    except XadflowError as err:
        audit, anchored = str(err), False
    return Evidence(
        content={name: _content(name, table) for name, table in tables.items()},
        rows={name: table.num_rows for name, table in tables.items()},
        plain={name: len(keys) for name, keys in plain.items()},
        twice=sum(count > 1 for keys in plain.values() for count in Counter(keys).values()),
        audit=audit,
        anchored=anchored,
    )


@dataclass(frozen=True)
class Left:
    """What a kill left, by files alone: table by table log entries, ledger lines, data files that no log entry names.

    `intent` says that a commit was under way, `torn` that the ledger ends in half a line.
    """

    entries: dict[str, int]
    lines: dict[str, int]
    orphans: dict[str, int]
    intent: bool
    torn: bool

    def __str__(self) -> str:
        found = [f"{name}: {self.entries[name]} log entries, {self.lines[name]} ledger lines" for name in BY_NAME]
        found += [f"{count} unnamed files in {name}" for name, count in self.orphans.items() if count]
        found += ["an open intent"] * self.intent + ["half a ledger line"] * self.torn
        return "; ".join(found)


def left(state: Path) -> Left:
    """Look at a state folder before anything has repaired it."""
    ledger = state / "ledger" / "ledger.jsonl"
    *whole, tail = (ledger.read_bytes() if ledger.exists() else b"").split(b"\n")
    tables = [json.loads(line)["table"] for line in whole]
    folders = {name: state / "tables" / name for name in BY_NAME}
    return Left(
        entries={name: len(list(folder.glob("_delta_log/*[0-9].json"))) for name, folder in folders.items()},
        lines={name: tables.count(name) for name in BY_NAME},
        orphans={name: len(_data_files(folder)) - len(_named_files(folder)) for name, folder in folders.items()},
        intent=(state / "ledger" / "intent.json").exists(),
        torn=bool(tail),
    )


def _data_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("run_date=*/*") if ".parquet" in path.name]


def _named_files(folder: Path) -> list[str]:
    return DeltaTable(folder).file_uris() if list(folder.glob("_delta_log/*[0-9].json")) else []


def _by_log(folder: Path) -> pa.Table:
    if not (folder / "_delta_log").is_dir():
        return BY_NAME[folder.name].empty_table()
    return DeltaTable(folder).to_pyarrow_table().cast(BY_NAME[folder.name])


def _content(name: str, table: pa.Table) -> dict[tuple[Any, ...], tuple[float, str]]:
    rows = table.to_pylist()
    return {tuple(row[key] for key in KEYS[name]): (row["score"], row_digest(row)) for row in rows}


def _plainly(folder: Path, keys: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Keys of all rows of all files, as somebody reads them who knows nothing of the log."""
    files = [str(path) for path in sorted(folder.glob("run_date=*/*.parquet"))]
    if not files:
        return []
    table = ds.dataset(files, format="parquet", partitioning="hive").to_table(columns=[*keys])
    return list(zip(*table.to_pydict().values(), strict=True))


@dataclass(frozen=True)
class Registered:
    """What MLflow holds of one data set's detector. `versions`: number, weights, verdict and figures of each, times
    left out.

    `unfinished` counts runs that never ended: what a killed logging leaves.
    """

    versions: tuple[tuple[int, str, str, tuple[tuple[str, float], ...]], ...]
    aliases: dict[str, int]
    unfinished: int


def registered(state: Path, dataset: str) -> Registered:
    """Look at the embedded registry of a state folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{state / 'mlflow.db'}", f"sqlite:///{state / 'mlflow.db'}")
    name = f"xad.{dataset}.fcdd"
    found = client.search_model_versions(f"name = '{name}'")
    models = client.search_registered_models(f"name = '{name}'")
    experiment = client.get_experiment_by_name(f"xad.{dataset}")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return Registered(
        versions=tuple(
            sorted(
                (
                    int(one.version),
                    one.tags[WEIGHTS_SHA256],
                    one.tags.get(GATE, ""),
                    _figures(client.get_run(one.run_id).data.metrics),
                )
                for one in found
            )
        ),
        aliases={alias: int(number) for alias, number in (models[0].aliases if models else {}).items()},
        unfinished=sum(run.info.status != "FINISHED" for run in runs),
    )


def _figures(metrics: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, value) for name, value in metrics.items() if not name.endswith(("_s", "seconds"))))
