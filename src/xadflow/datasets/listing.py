"""`xadflow data list`: each data set of the project, where it comes from and what of it is on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from xadflow.datasets.stages import read_quarantine, reasons
from xadflow.errors import BadManifest
from xadflow.settings import Home, Settings

KINDS = {0: "normal", 1: "anomalous", None: "unlabelled"}


@dataclass(frozen=True)
class DatasetSummary:
    """One data set. `counts` are images by split and kind, `built` is when its manifest was written here, None: never.

    `origin` is its folder, or the source that makes it; `fault` says what cannot be read.
    """

    name: str
    source: str
    origin: str
    is_there: bool
    counts: Mapping[str, Mapping[str, int]]
    masks: int
    quarantine: Mapping[str, int]
    built: datetime | None
    fault: str = ""


def list_datasets(home: Home, settings: Settings) -> list[DatasetSummary]:
    """All data sets, in the order of the catalogue."""
    return [_summary(home, settings, name) for name in settings.catalogue]


def _summary(home: Home, settings: Settings, name: str) -> DatasetSummary:
    its = settings.dataset(name)
    path = its.options.get("path") if its.source == "folder" else None
    origin = its.source if path is None else str(path)
    is_there = path is None or (home.project / origin).expanduser().is_dir()
    manifest = home.dataset(name) / "manifest.parquet"
    try:
        table = pq.read_table(manifest, columns=["split", "label", "mask_path"])
        built = datetime.fromtimestamp(manifest.stat().st_mtime, UTC)
        refused = reasons(read_quarantine(home, name))
    except FileNotFoundError:
        return DatasetSummary(name, its.source, origin, is_there, {}, 0, {}, None)
    except (OSError, pa.ArrowInvalid, BadManifest) as err:
        fault = f"cannot be read: {type(err).__name__}"
        return DatasetSummary(name, its.source, origin, is_there, {}, 0, {}, None, fault)
    pairs = Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
    counts: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(pairs.items(), key=str):
        counts.setdefault(str(split), {})[KINDS.get(label, "unlabelled")] = count
    masks = table.num_rows - table["mask_path"].null_count
    return DatasetSummary(name, its.source, origin, is_there, counts, masks, refused, built)
