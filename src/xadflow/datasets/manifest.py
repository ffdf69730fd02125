"""The manifest: which images, by hash, split and label. One Parquet file a data set, byte-identical on every machine.

A **data set** is one product and one split under one name. `image_id` is the sha256 of the file's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xadflow.errors import BadManifest


class Split(StrEnum):
    """What an image is for; docs/explanation/architecture.md."""

    TRAIN = "train"
    VAL = "val"
    GATE = "gate"
    TEST = "test"
    KNOWN = "known"
    INBOX = "inbox"


SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("category", pa.string(), nullable=False),
        pa.field("defect", pa.string()),
        pa.field("mask_path", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
    ]
)

# Scenes have a map of class ids beside each image. Only they have the column, so other manifests keep their bytes.
SCENES_SCHEMA = SCHEMA.append(pa.field("labels_path", pa.string()))

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ManifestRow:
    """One image. `path`, `mask_path` and `labels_path` are relative to the data set's folder, with forward slashes.

    `label` is 0 normal, 1 anomalous, None unknown. `labels_path`: of a scene, an 8-bit PNG of class ids.
    """

    image_id: str
    path: str
    split: str
    label: int | None
    category: str
    defect: str | None
    mask_path: str | None
    width: int
    height: int
    source: str
    licence: str
    labels_path: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The rows of one data set and the folder that their paths are relative to."""

    folder: Path
    table: pa.Table

    def rows(self, *splits: str, label: int | None = None) -> list[ManifestRow]:
        """Rows of the given splits (all without any), with the given label if one is named, ordered by image_id."""
        table = self.table
        if splits:
            table = table.filter(pc.is_in(table["split"], pa.array([str(split) for split in splits])))
        if label is not None:
            table = table.filter(pc.equal(table["label"], label))
        return [ManifestRow(**row) for row in table.sort_by("image_id").to_pylist()]

    def path_of(self, row: ManifestRow) -> Path:
        """Absolute path of an image. Raises BadManifest when it would leave the data set's folder."""
        return inside(self.folder, row.path)

    def mask_of(self, row: ManifestRow) -> Path | None:
        """Absolute path of an image's mask, or None."""
        return inside(self.folder, row.mask_path) if row.mask_path else None

    def labels_of(self, row: ManifestRow) -> Path | None:
        """Absolute path of a scene's map of class ids, or None."""
        return inside(self.folder, row.labels_path) if row.labels_path else None


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused when it escapes the folder (also through links)."""
    root = folder.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise BadManifest(
            "a manifest path leaves its data set's folder",
            seen=relative,
            next_step="rebuild the manifest by `dvc repro --force manifest@<dataset>`",
        )
    return path


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write rows ordered by (split, path); equal rows give equal bytes."""
    ordered = sorted((vars(row) for row in rows), key=lambda row: (row["split"], row["path"]))
    scenes = any(row["labels_path"] for row in ordered)
    _write(path, pa.Table.from_pylist(ordered, schema=SCENES_SCHEMA if scenes else SCHEMA))


def write_quarantine(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write refused files with their reasons, ordered by path; equal rows give equal bytes."""
    ordered = sorted(rows, key=lambda row: (str(row["path"]), str(row["reason"])))
    _write(path, pa.Table.from_pylist(ordered, schema=QUARANTINE_SCHEMA))


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)  # a reader sees the old file or the new one, never half of one


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.parquet`. Raises BadManifest when it is missing or has other columns."""
    path = folder / "manifest.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as err:
        why = getattr(err, "strerror", None) or str(err).replace(str(path), path.name).splitlines()[0]
        raise BadManifest(
            "the manifest cannot be read",
            seen=f"{folder.name}: {why}"[:200],
            next_step=f"run `dvc repro manifest@{folder.name}`",
        ) from err
    if table.schema.names not in (SCHEMA.names, SCENES_SCHEMA.names):
        raise BadManifest(
            "the manifest has other columns than its schema",
            seen=table.schema.names,
            next_step=f"run `dvc repro --force manifest@{folder.name}`",
        ) from None
    return Manifest(folder, table.cast(SCHEMA if table.schema.names == SCHEMA.names else SCENES_SCHEMA))
