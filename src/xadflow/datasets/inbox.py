"""New images of a night: through the same border as every other image, into a dated manifest with hash and quarantine.

`into` keeps what it has admitted: running again adds what is new and changes nothing else, also when the sender has
removed files meanwhile.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from xadflow.datasets.border import IMAGES, Progress, admit
from xadflow.datasets.manifest import Manifest, ManifestRow, Split, read_manifest, write_manifest, write_quarantine
from xadflow.datasets.sources.base import Candidate, Refused
from xadflow.datasets.sources.folder import walk_files
from xadflow.datasets.writing import writing
from xadflow.digests import sha256_file
from xadflow.errors import DataUnavailable
from xadflow.images import ImageLimits

QUARANTINE = "quarantine.parquet"


def admit_inbox(folder: Path, limits: ImageLimits, into: Path, progress: Progress | None = None) -> Manifest:
    """Copy every usable image below `folder` to `into`/images/ and write `into`/manifest.parquet, quarantine.parquet.

    Rows have split `inbox` and no label. Every other file gets a row of quarantine: nothing is skipped in silence.
    An image whose bytes are already there is not taken twice; a new one under a taken name gets its hash appended.

    Raises:
        DataUnavailable: `folder` is not there.
        CannotWrite: `into` cannot be written.
    """
    if not folder.is_dir():
        raise DataUnavailable(
            "the inbox folder is not there",
            seen=str(folder),
            next_step="create it and put new images into it, or name another by --inbox",
        )
    with writing(f"the new images of {folder.name}"), _alone(into):
        return _admitted(folder, limits, into, progress)


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """Wait until no other run admits into this folder: all use the same staging folder. A dead run holds no lock."""
    into.mkdir(parents=True, exist_ok=True)
    with (into / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _admitted(folder: Path, limits: ImageLimits, into: Path, progress: Progress | None) -> Manifest:
    present, refused_before = _present(into)
    incoming = into / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # of a run that was killed
    admission = admit(_candidates(folder), incoming, limits, progress)
    rows = {row.image_id: row for row in present}
    taken = {row.path for row in present}
    refused = {(row.path, row.reason, row.image_id): row for row in [*refused_before, *admission.refused]}
    for row in admission.rows:
        placed = _placed(row, taken)
        known = rows.get(row.image_id)
        if known is None:
            rows[row.image_id] = placed
            taken.add(placed.path)
            final = into / placed.path
            final.parent.mkdir(parents=True, exist_ok=True)
            (incoming / PurePosixPath(row.path).relative_to(IMAGES)).replace(final)
        elif known.path not in (row.path, placed.path):
            origin = str(PurePosixPath(row.path).relative_to(IMAGES))
            twice = Refused(origin, "duplicate", f"the same bytes as {known.path}", row.image_id)
            refused[origin, twice.reason, row.image_id] = twice
    write_quarantine(into / QUARANTINE, [vars(row) for row in refused.values()])
    write_manifest(into / "manifest.parquet", rows.values())
    shutil.rmtree(incoming, ignore_errors=True)
    return read_manifest(into)


def _present(into: Path) -> tuple[list[ManifestRow], list[Refused]]:
    """Rows and refusals of an earlier run of the same date, of images that are still whole."""
    if not (into / "manifest.parquet").is_file():
        return [], []
    manifest = read_manifest(into)
    rows = [row for row in manifest.rows() if _whole(manifest, row)]
    return rows, [Refused(**row) for row in pq.read_table(into / QUARANTINE).to_pylist()]


def _whole(manifest: Manifest, row: ManifestRow) -> bool:
    path = manifest.path_of(row)
    return path.is_file() and sha256_file(path) == row.image_id


def _candidates(folder: Path) -> Iterator[Candidate]:
    for relative in walk_files(folder):
        yield Candidate(
            origin=relative,
            target=relative,
            content=folder / relative,
            split=Split.INBOX,
            label=None,
            category="inbox",
            defect=None,
            source=f"inbox {folder.name}",
            licence="not stated",
            root=folder,
        )


def _placed(row: ManifestRow, taken: set[str]) -> ManifestRow:
    """The row under a path of its own: its name, or its name and hash where another image has that name."""
    if row.path not in taken:
        return row
    path = PurePosixPath(row.path)
    return replace(row, path=str(path.with_name(f"{path.stem}-{row.image_id[:12]}{path.suffix}")))
