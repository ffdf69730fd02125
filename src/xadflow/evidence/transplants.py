"""What a row says in words of its counterfactuals: whose pixels fill which part of the image, and what judges say.

A donor is named by its image_id, the sha256 of its file's bytes: whoever has the file can check that it is the one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xadflow.datasets.manifest import inside, read_manifest
from xadflow.digests import sha256_file
from xadflow.errors import BadManifest
from xadflow.settings import Home

NEARLY_WHOLE = 0.9  # share of the image: above it there is no region to speak of
Row = Mapping[str, Any]
_PART = re.compile(r"transplant\.part\.(\d{1,4})")


@dataclass(frozen=True)
class Filled:
    """A counterfactual that took pixels: `replaced` is the share of the image they fill, None where the row does not
    tell.
    """

    concept: int
    donor_id: str
    donor_path: str | None
    replaced: float | None
    region: bytes | None

    @property
    def is_whole(self) -> bool:
        """Nearly everything was replaced: the image as a whole differs, and the region says nothing."""
        return self.replaced is not None and self.replaced > NEARLY_WHOLE


def filled(row: Row, answer: Row, paths: Mapping[str, str]) -> Filled | None:
    """Of one counterfactual of a row of `explanations`; None where it took no pixels. `paths`: of donors,
    by image_id.
    """
    donor = answer.get("donor_id")
    if not donor:
        return None
    concept = int(answer["concept"])
    metrics = {one["name"]: one["value"] for one in row["metrics"] or ()}
    share = metrics.get(f"region_share.{concept}")
    pictures = {one["name"]: one["image"] for one in row["images"] or ()}
    region = pictures.get(f"transplant.{concept}.region")
    return Filled(
        concept,
        str(donor),
        paths.get(str(donor)),
        float(share) if share is not None and math.isfinite(share) else None,
        region["bytes"] if region is not None else None,
    )


@dataclass(frozen=True)
class Part:
    """The image with one connected part of the first counterfactual's region mended alone, and what the detector says
    of it.
    """

    number: int
    picture: bytes
    score: float
    is_normal: bool


def parts(row: Row) -> tuple[Part, ...]:
    """Of a row of `explanations`, in order; none where the region is one piece, or nearly the whole image."""
    metrics = {one["name"]: one["value"] for one in row.get("metrics") or ()}
    if metrics.get("region_share.0", 0.0) > NEARLY_WHOLE:
        return ()
    found = []
    for one in row.get("images") or ():
        named = _PART.fullmatch(str(one["name"]))
        score = metrics.get(f"part.{named[1]}.score") if named else None
        if named and score is not None and one["image"] and one["image"]["bytes"]:
            is_normal = metrics.get(f"part.{named[1]}.is_normal") == 1.0
            found.append(Part(int(named[1]), one["image"]["bytes"], float(score), is_normal))
    return tuple(sorted(found, key=lambda part: part.number))


def said(row: Row, paths: Mapping[str, str]) -> list[str]:
    """One sentence for each counterfactual of a row that took pixels or was judged, and for each part of a region."""
    whole = [sentence for answer in row.get("counterfactuals") or () if (sentence := _sentence(row, answer, paths))]
    alone = [
        f"part {part.number} of the region of counterfactual 0 mended alone: the detector calls it "
        f"{_verdict(part.is_normal)} (score {part.score:.4g})"
        for part in parts(row)
    ]
    return [*whole, *alone]


def _sentence(row: Row, answer: Row, paths: Mapping[str, str]) -> str:
    found, parts = filled(row, answer, paths), list[str]()
    if found is not None:
        where = f" ({found.donor_path})" if found.donor_path else ""
        parts.append(f"filled with what image {found.donor_id[:12]}{where} shows there")
        if found.is_whole:
            parts.append(f"{percent(found.replaced)} of the image replaced: the whole image differs")
        elif found.replaced is not None:
            parts.append(f"{percent(found.replaced)} of the image replaced")
    judges = answer.get("judges") or ()
    if not parts and not judges:
        return ""
    parts.append(f"{percent(answer['changed_fraction'])} of the pixels changed")
    parts.append(f"the detector calls it {_verdict(answer['is_normal'])}")
    for number, one in enumerate(judges):
        parts.append(
            f"judge {one['name']} version {one['version']} calls it {_verdict(one['is_normal'])} (score "
            f"{one['score']:.4g}, threshold {one['threshold']:.4g}"
            + ("; it calls the image itself normal too)" if is_blind(row, number) else ")")
        )
    return f"counterfactual {answer['concept']}: {'; '.join(parts)}"


def is_blind(row: Row, number: int) -> bool:
    """Whether the judge of that number calls the image itself normal: then it cannot call anything mended."""
    name = f"judge_flags.{number}" if number else "judge_flags"
    return any(one["name"] == name and one["value"] == 0.0 for one in row["metrics"] or ())


def donors_in(rows: Iterable[Row]) -> dict[str, set[str]]:
    """image_ids of all donors that rows of `explanations` name, by data set."""
    found: dict[str, set[str]] = {}
    for row in rows:
        ids = {str(one["donor_id"]) for one in row.get("counterfactuals") or () if one.get("donor_id")}
        if ids:
            found.setdefault(str(row["dataset"]), set()).update(ids)
    return found


def donor_files(home: Home, rows: Iterable[Row], *, checked: bool) -> dict[str, tuple[str, Path]]:
    """(path in the data set's folder, file) of each donor that rows name and whose data set still has it, by image_id.

    With `checked`, only of files whose bytes are those that the id names.
    """
    found: dict[str, tuple[str, Path]] = {}
    for dataset, ids in donors_in(rows).items():
        try:
            folder = inside(home.project / "data", dataset)  # a forged row may hold any text there
            for row in read_manifest(folder).rows():
                if row.image_id not in ids or not (path := inside(folder, row.path)).is_file():
                    continue
                if not checked or sha256_file(path) == row.image_id:
                    found[row.image_id] = row.path, path
        except (BadManifest, OSError, ValueError):
            continue
    return found


def donor_paths(home: Home, rows: Iterable[Row]) -> dict[str, str]:
    """The first half of :func:`donor_files`, unchecked: for texts."""
    return {one: name for one, (name, _) in donor_files(home, rows, checked=False).items()}


def percent(share: float | None) -> str:
    """A share in words: "12 %", "under 1 %"."""
    if share is None or not math.isfinite(share):
        return "an unknown share"
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _verdict(is_normal: bool) -> str:
    return "normal" if is_normal else "anomalous"
