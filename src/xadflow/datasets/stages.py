"""What the DVC stages run: origin -> images -> manifest -> validate. Each output is whole or absent, never half.

data/.origin/<name>.json        what the images come from: always looked at, cheap, and what `images` depends on
data/<name>/images/             the admitted files, index.parquet (their rows) and refused.parquet
data/<name>/manifest.parquet    the rows with val and gate carved out; quarantine.parquet beside it
data/<name>/validation.json     what Great Expectations found
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from xadflow.datasets.border import IMAGES, Admission, Progress, admit
from xadflow.datasets.leaks import look_for_leaks
from xadflow.datasets.manifest import (
    QUARANTINE_SCHEMA,
    ManifestRow,
    Split,
    read_manifest,
    write_manifest,
    write_quarantine,
)
from xadflow.datasets.sources import Candidate, Refused, open_source
from xadflow.datasets.writing import writing
from xadflow.errors import BadManifest, DataUnavailable
from xadflow.images import ImageLimits
from xadflow.settings import DatasetSettings, Home, Settings

INDEX = "index.parquet"
REFUSED = "refused.parquet"
QUARANTINE = "quarantine.parquet"
VALIDATION = "validation.json"
HOLDOUT_SHARE = 0.2
"""Share of train normals held out for test where a source gives no normal test image."""


def write_origin(home: Home, settings: Settings, name: str) -> str | None:
    """Write data/.origin/<name>.json, which changes when the source's images may have changed.

    Where the source is not on this machine, but the file is, the file stays: the images were pulled from a colleague,
    or their folder is not mounted, and what was brought in before is used. Returns a note that says so, else None.

    Raises UnknownName, BadSettings, CannotWrite, DataUnavailable when neither is there.
    """
    dataset = settings.dataset(name)
    path = home.dataset(".origin") / f"{name}.json"
    try:
        origin = {"source": dataset.source, "origin": open_source(name, dataset).origin()}
    except DataUnavailable as err:
        if _source_in(path) != dataset.source:
            raise DataUnavailable(
                err.wrong,
                seen=err.seen,
                next_step=f"{err.next_step}; or, if a colleague pushed it, run `dvc pull --allow-missing`",
            ) from err
        return f"{err.wrong} ({err.seen}): what was brought in or pulled before is used"
    with writing(f"what data set {name!r} comes from"):
        _write_json(path, origin)
    return None


def _source_in(path: Path) -> str | None:
    """The kind of source that a file of :func:`write_origin` tells of; None of one that is not there, or is another."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["source"]) if isinstance(found["origin"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def collect_images(home: Home, settings: Settings, name: str, progress: Progress | None = None) -> Admission:
    """Bring the source's files through the border to data/<name>/images/, replacing what was there at once.

    Raises UnknownName, BadSettings, DataUnavailable when the source is not there or no image passes, CannotWrite.
    """
    dataset = settings.dataset(name)
    source = open_source(name, dataset)
    limits = ImageLimits(**settings.limits.model_dump(), max_bits=dataset.bit_depth)
    with writing(f"the images of data set {name!r}"):
        return _replace_images(home.dataset(name), name, source.candidates(), limits, progress)


def _replace_images(
    folder: Path, name: str, candidates: Iterable[Candidate | Refused], limits: ImageLimits, progress: Progress | None
) -> Admission:
    partial, old = folder / ".images.partial", folder / ".images.old"
    for leftover in (partial, old):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        admission = admit(candidates, partial, limits, progress)
        if not admission.rows:
            raise DataUnavailable(
                f"no image of data set {name!r} can be used",
                seen=reasons(admission.refused),
                next_step="mend or replace the files, then run the same command again",
            )
        write_manifest(partial / INDEX, admission.rows)
        write_quarantine(partial / REFUSED, [vars(row) for row in admission.refused])
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk what is half written is in the way
        raise
    final = folder / IMAGES
    if final.exists():
        final.replace(old)
    partial.replace(final)
    shutil.rmtree(old, ignore_errors=True)
    return admission


def build_manifest(home: Home, settings: Settings, name: str) -> list[ManifestRow]:
    """Write manifest.parquet and quarantine.parquet of data/<name>/ from its images/.

    Raises BadManifest when images/ is not there, CannotWrite.
    """
    dataset = settings.dataset(name)
    folder = home.dataset(name)
    try:
        index = pq.read_table(folder / IMAGES / INDEX)
        refused = pq.read_table(folder / IMAGES / REFUSED).to_pylist()
    except OSError as err:
        raise BadManifest(
            f"data set {name!r} has no images yet",
            seen=f"no {IMAGES}/{INDEX}",
            next_step=f"run `dvc repro manifest@{name}`",
        ) from err
    rows = carve([ManifestRow(**row) for row in index.to_pylist()], dataset)
    with writing(f"the manifest of data set {name!r}"):
        write_manifest(folder / "manifest.parquet", rows)
        write_quarantine(folder / QUARANTINE, refused)
    return rows


def read_quarantine(home: Home, name: str) -> list[Refused]:
    """What the border refused of a data set, ordered by reason and path; empty before its manifest is built.

    Raises BadManifest when the file is damaged.
    """
    try:
        rows = pq.read_table(home.dataset(name) / QUARANTINE, schema=QUARANTINE_SCHEMA).to_pylist()
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowInvalid) as err:
        raise BadManifest(
            f"the quarantine of data set {name!r} cannot be read",
            seen=str(err)[:200],
            next_step=f"run `dvc repro --force manifest@{name}`",
        ) from err
    return sorted((Refused(**row) for row in rows), key=lambda row: (row.reason, row.path))


def carve(rows: Iterable[ManifestRow], dataset: DatasetSettings) -> list[ManifestRow]:
    """Take val out of train normals and gate out of test by content hash; splits that the source gave stay.

    Whether an image is taken depends on its own bytes, so adding images moves no other, save that a class of two or
    more always leaves one image on either side. With `exact_shares` exactly that share is taken, the first by hash:
    adding images moves few. Without normal test images a share of the train normals goes to test.
    """
    rows, exact = list(rows), dataset.exact_shares
    if not any(row.split == Split.TEST and row.label == 0 for row in rows):
        rows = _moved(rows, Split.TRAIN, 0, Split.TEST, HOLDOUT_SHARE, exact)
    if not any(row.split == Split.VAL for row in rows):
        rows = _moved(rows, Split.TRAIN, 0, Split.VAL, dataset.val_share, exact)
    if not any(row.split == Split.GATE for row in rows):
        for label in (0, 1):
            rows = _moved(rows, Split.TEST, label, Split.GATE, dataset.gate_share, exact)
    return rows


def _moved(
    rows: list[ManifestRow], split: Split, label: int, to: Split, share: float, exact: bool
) -> list[ManifestRow]:
    place = {
        row.image_id: _place(row.image_id, f"{split}->{to}")
        for row in rows
        if row.split == split and row.label == label
    }
    if exact:
        taken = set(sorted(place, key=place.__getitem__)[: round(share * len(place))])
    else:
        taken = {image_id for image_id, where in place.items() if where < share}
    if len(place) > 1 and not taken:
        taken = {min(place, key=place.__getitem__)}
    elif len(place) > 1 and len(taken) == len(place):
        taken.remove(max(place, key=place.__getitem__))
    return [replace(row, split=str(to)) if row.image_id in taken else row for row in rows]


def _place(image_id: str, salt: str) -> float:
    """A number in [0, 1) that depends on the image's bytes only; each carving has its own salt."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{image_id}".encode()).digest()[:6], "big") / 2**48


def validate_dataset(home: Home, settings: Settings, name: str) -> dict[str, object]:
    """Great Expectations over the manifest; writes validation.json and returns what it holds.

    A folder's images are also looked through for near copies and odd normals (leaks.py), which only warn.

    Raises ValidationFailed with the failing expectations and rows; validation.json is absent then.
    CannotWrite, BadImage.
    """
    from xadflow.datasets.quality import validate_manifest

    dataset = settings.dataset(name)
    folder = home.dataset(name)
    path = folder / VALIDATION
    path.unlink(missing_ok=True)
    manifest = read_manifest(folder)
    summary = validate_manifest(manifest.table, dataset, name=name, false_alarm_rate=settings.false_alarm_rate(name))
    summary = {"dataset": name, **summary, "quarantine": reasons(read_quarantine(home, name))}
    if dataset.source == "folder":  # the others are public, or made by us
        summary |= look_for_leaks(manifest, dataset)
    with writing(f"the validation of data set {name!r}"):
        _write_json(path, summary)
    return summary


def reasons(refused: Iterable[Refused]) -> dict[str, int]:
    """How many files were refused for each reason."""
    return dict(sorted(Counter(row.reason for row in refused).items()))


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
