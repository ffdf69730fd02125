"""New images of a night: through the same border as every other image, into a dated manifest with hash and quarantine.

`into` keeps what it has admitted: running again adds what is new and changes nothing else, also when the sender has
removed files meanwhile.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from xadflow.datasets.border import IMAGES, Progress, admit, printable_name
from xadflow.datasets.manifest import Manifest, ManifestRow, Split, read_manifest, write_manifest, write_quarantine
from xadflow.datasets.sources.base import Candidate, Refused
from xadflow.datasets.sources.folder import walk_files
from xadflow.datasets.writing import writing
from xadflow.digests import sha256_file
from xadflow.errors import DataUnavailable
from xadflow.images import ImageLimits
from xadflow.images.reading import IMAGE_SUFFIXES, not_a_file, unsafe_name
from xadflow.progress import take_lock

QUARANTINE = "quarantine.parquet"
_LONGEST_NAME, _LONGEST_PATH = 255, 1000  # bytes; of a path below `into`, which has its own before it


def admit_inbox(folder: Path, limits: ImageLimits, into: Path, progress: Progress | None = None) -> Manifest:
    """Copy every usable image below `folder` to `into`/images/ and write `into`/manifest.parquet, quarantine.parquet.

    Rows have split `inbox` and no label. Every other file gets a row of quarantine, but for those that operating
    systems leave behind: nothing is skipped in silence. What is there again whole is no longer in quarantine.

    An image is known by its bytes: one that is in `into` already, or in the folder of an earlier night beside it, is
    not copied again. A new one keeps its name where that is free and can be stored; else its hash is appended.

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
        take_lock(lock, f"another run that admits new images of {into.parent.name}")
        yield


def _admitted(folder: Path, limits: ImageLimits, into: Path, progress: Progress | None) -> Manifest:
    present, refused_before = _present(into)
    rows, earlier = {row.image_id: row for row in present}, _of_earlier_nights(into)
    incoming = into / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # of a run that was killed
    offered = list(_candidates(folder))
    admission = admit(offered, incoming, limits, progress, known=frozenset(rows) | earlier)
    origins = {f"{IMAGES}/{one.target}": one.origin for one in offered if isinstance(one, Candidate)}
    here = {printable_name(one.origin if isinstance(one, Candidate) else one.path) for one in offered}
    before = {(row.path, row.reason, row.image_id): row for row in refused_before}
    refused = [row for row in refused_before if row.path not in here]  # what is here was looked at again
    refused += admission.refused
    for origin, image_id in admission.known:
        if image_id in rows and rows[image_id].path not in islice(_names(f"{IMAGES}/{origin}", image_id), 3):
            twice = Refused(origin, "duplicate", f"the same bytes as {rows[image_id].path}", image_id)
            refused.append(before.get((origin, twice.reason, image_id), twice))
    taken = _Taken(row.path for row in present)
    for row in admission.rows:
        placed = replace(row, path=taken.place(f"{IMAGES}/{origins[row.path]}", row.image_id))
        rows[row.image_id] = placed
        final = into / placed.path
        final.parent.mkdir(parents=True, exist_ok=True)
        (incoming / PurePosixPath(row.path).relative_to(IMAGES)).replace(final)
    write_quarantine(into / QUARANTINE, [vars(row) for row in refused])
    write_manifest(into / "manifest.parquet", rows.values())
    shutil.rmtree(incoming, ignore_errors=True)
    return read_manifest(into)


def _present(into: Path) -> tuple[list[ManifestRow], list[Refused]]:
    """Rows and refusals of an earlier run of the same date, of images that are still whole; others are taken away."""
    if not (into / "manifest.parquet").is_file():
        return [], []
    manifest = read_manifest(into)
    rows = [row for row in manifest.rows() if _whole(manifest, row)]
    for row in {one.path for one in manifest.rows()} - {one.path for one in rows}:
        (into / row).unlink(missing_ok=True)
    return rows, [Refused(**row) for row in pq.read_table(into / QUARANTINE).to_pylist()]


def _of_earlier_nights(into: Path) -> frozenset[str]:
    """image_ids that the nights beside this one have, whose files are there: their size is looked at, not their bytes.

    A night explains what all nights brought, so that a second copy would serve nobody.
    """
    found: set[str] = set()
    for path in sorted(into.parent.glob("*/manifest.parquet")):
        if path.parent != into:
            manifest = read_manifest(path.parent)
            found |= {row.image_id for row in manifest.rows() if _is_there(manifest.path_of(row))}
    return frozenset(found)


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _whole(manifest: Manifest, row: ManifestRow) -> bool:
    path = manifest.path_of(row)
    return path.is_file() and sha256_file(path) == row.image_id


def _candidates(folder: Path) -> Iterator[Candidate | Refused]:
    """Every file below a folder, staged under a number: what one name is in the way of, no number is."""
    for number, relative in enumerate(walk_files(folder)):
        if fault := unsafe_name(relative):
            yield Refused(relative, *(not_a_file(folder / relative) or fault))
            continue
        suffix = PurePosixPath(relative).suffix
        yield Candidate(
            origin=relative,
            target=f"{number:09d}{suffix if suffix.lower() in IMAGE_SUFFIXES else '.other'}",
            content=folder / relative,
            split=Split.INBOX,
            label=None,
            category="inbox",
            defect=None,
            source=f"inbox {folder.name}",
            licence="not stated",
            root=folder,
        )


class _Taken:
    """Paths that are taken, as any file system would compare them: whatever the case, composed or decomposed letters,
    and whether a name is a file or a folder.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for path in paths:
            self._take(path)

    def place(self, path: str, image_id: str) -> str:
        """`path`, or the first of its other names that is free and can be stored; it is taken from now on."""
        chosen = next(name for name in _names(path, image_id) if self._is_free(name))
        self._take(chosen)
        return chosen

    def _is_free(self, path: str) -> bool:
        key = _compared(path)
        longest = max(len(os.fsencode(part)) for part in path.split("/"))
        return (
            longest <= _LONGEST_NAME
            and len(os.fsencode(path)) <= _LONGEST_PATH
            and key not in self._files
            and key not in self._folders
            and self._files.isdisjoint(_above(key))
        )

    def _take(self, path: str) -> None:
        self._files.add(_compared(path))
        self._folders |= _above(_compared(path))


def _names(path: str, image_id: str) -> Iterator[str]:
    """Names for an image, best first; after a few that its bytes give, numbered ones without end."""
    whole = PurePosixPath(path)
    stem = os.fsencode(whole.stem)[: _LONGEST_NAME - 13 - len(os.fsencode(whole.suffix))].decode(errors="ignore")
    yield path
    yield str(whole.with_name(f"{stem}-{image_id[:12]}{whole.suffix}"))
    yield f"{IMAGES}/{image_id}{whole.suffix}"
    yield from (f"{IMAGES}/{image_id}-{number}{whole.suffix}" for number in count(1))


def _compared(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _above(path: str) -> set[str]:
    return {str(one) for one in PurePosixPath(path).parents}
