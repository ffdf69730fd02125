"""One decision, for people: the rows of one image with pictures as sizes, and the pictures as files."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.compute as pc

from xadflow.errors import UnknownName, WrongUse
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import BY_NAME
from xadflow.evidence.transplants import donor_files, donor_paths, said
from xadflow.settings import Home

SHORTEST_PREFIX = 6
_PNG = b"\x89PNG\r\n\x1a\n"


def find_image(store: EvidenceStore, prefix: str) -> str:
    """The one image_id that starts with `prefix`, at least 6 hexadecimal digits.

    Raises:
        WrongUse: too short, or not hexadecimal.
        UnknownName: no image, or several, start so.
        StoreBroken: there are no tables yet.
    """
    wanted = prefix.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", wanted):
        raise WrongUse(
            "an image is named by its image_id or at least its first 6 hexadecimal digits",
            seen=prefix,
            next_step="copy an image_id from the report page or the table",
        )
    starts = pc.starts_with(pc.field("image_id"), wanted)
    found: set[str] = set()
    for name in BY_NAME:
        found.update(store.read(name, ["image_id"], where=starts)["image_id"].to_pylist())
    if not found:
        raise UnknownName(
            "no image of that id in the tables",
            seen=prefix,
            next_step="run `xadflow explain` on it first, or check the id",
        )
    if len(found) > 1:
        raise UnknownName("several images start so", seen=sorted(found)[:5], next_step="give more digits")
    return found.pop()


def show(store: EvidenceStore, image_id: str, home: Home | None = None) -> list[dict[str, Any]]:
    """Every row of one image, scores first, as plain JSON-able dicts with the table's name under `table`.

    Pictures become a text with their size, dates become ISO text, lineage becomes its object. `said` is there where
    there is something to say of counterfactuals in words; with a `home`, its donors are named by their path too.

    Raises:
        StoreBroken: there are no tables yet, or they cannot be read.
    """
    rows = list(rows_of_image(store, image_id))
    paths = donor_paths(home, [row for _, row in rows]) if home is not None else {}
    return [
        {"table": name, **({"said": words} if (words := said(row, paths)) else {}), **_plain(row)} for name, row in rows
    ]


def export_images(store: EvidenceStore, image_id: str, folder: Path, home: Home | None = None) -> list[Path]:
    """Write every picture of one image as PNG, one folder an explanation; returns the paths written.

    With a `home`, the files of its donors too, as they are, into the folder `donors`, where they are still there.

    Raises:
        StoreBroken: there are no tables yet, or they cannot be read.
    """
    written: list[Path] = []
    for name, row in rows_of_image(store, image_id):
        if name != "explanations":
            continue
        whose = f"{row['model_name']}-v{row['model_version']}-{row['explainer']}-{row['explainer_version']}"
        for stem, picture in pictures_of(row):
            if picture is not None and picture["bytes"] is not None:
                path = folder / safe_name(whose) / f"{safe_name(stem)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture["bytes"])
                written.append(path)
    rows = [row for _, row in rows_of_image(store, image_id)] if home is not None else []
    for donor, (name, file) in donor_files(home, rows, checked=True).items() if home is not None else ():
        path = folder / "donors" / donor_name(donor, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())
        written.append(path)
    return written


def donor_name(image_id: str, path: str) -> str:
    """What a donor's file is called beside a decision: the sha256 of its bytes, and its ending."""
    return safe_name(f"{image_id}{PurePosixPath(path).suffix.lower()}")


def rows_of_image(store: EvidenceStore, image_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(table, row) of every row of one image, pictures included, scores first. Raises StoreBroken."""
    order = [("model_name", "ascending"), ("model_version", "ascending")]
    for name in BY_NAME:
        rows = store.read(name, where=pc.field("image_id") == image_id)
        more = [("explainer", "ascending"), ("explainer_version", "ascending")] if name == "explanations" else []
        for place in pc.sort_indices(rows.select([key for key, _ in order + more]), sort_keys=order + more).to_pylist():
            yield name, rows.slice(place, 1).to_pylist()[0]


def pictures_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """(name, picture) of every place for a picture in a row of `explanations`; the picture may be null."""
    yield "original", row["original"]
    yield "heatmap", row["heatmap"]
    for number, found in enumerate(row["counterfactuals"] or ()):
        yield f"counterfactual-{number:02d}-concept-{found['concept']}", found["image"]
    for number, shown in enumerate(row["images"] or ()):
        yield f"image-{number:02d}-{shown['name']}", shown["image"]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"}:
            return None if value["bytes"] is None else _size(value["bytes"])
        return {key: json.loads(inner) if key == "lineage" else _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else value.isoformat()


def _size(content: bytes) -> str:
    if content.startswith(_PNG) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return f"PNG {width}x{height}, {len(content)} bytes"
    return f"{len(content)} bytes"


def safe_name(text: str) -> str:
    """A file name: explainers of third parties choose the texts."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:120] or "_"
