"""A transplant as the report page shows it: its picture, the border of what was replaced, its donor, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xadflow.evidence.transplants import filled, is_blind, parts
from xadflow.images import decode_png

Line = tuple[tuple[float, float], ...]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a judge, a detector that had no part in it, says of a counterfactual.

    `is_blind`: it calls the original normal too, so that its word says nothing.
    """

    judge: str
    version: int
    is_normal: bool
    is_blind: bool = False


@dataclass(frozen=True)
class Transplant:
    """A counterfactual that shows in a region what another image shows there; `picture` is uint8 [C,H,W].

    `replaced` is the share of the image that the region is, None where the row does not tell; `outline` the region's
    border as closed lines of (x, y) in shares of width and height, empty where nearly everything was replaced
    (`is_whole`).
    """

    explainer: str
    concept: int
    picture: NDArray[np.uint8]
    is_normal: bool
    score: float
    changed_fraction: float
    donor_id: str
    donor_path: str | None = None
    replaced: float | None = None
    is_whole: bool = False
    outline: tuple[Line, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


def transplant_of(row: Row, answer: Row, paths: Mapping[str, str]) -> Transplant:
    """Of a counterfactual with a donor, of a row of `explanations`; `paths` of donors by image_id."""
    found = filled(row, answer, paths)
    assert found is not None  # who has no donor is not asked
    return Transplant(
        explainer=str(row["explainer"]),
        concept=found.concept,
        picture=decode_png(answer["image"]["bytes"]),
        is_normal=bool(answer["is_normal"]),
        score=float(answer["score"]),
        changed_fraction=float(answer["changed_fraction"]),
        donor_id=found.donor_id,
        donor_path=found.donor_path,
        replaced=found.replaced,
        is_whole=found.is_whole,
        outline=() if found.is_whole or found.region is None else outline_of(decode_png(found.region)[0]),
        verdicts=verdicts_on(row, answer),
    )


@dataclass(frozen=True)
class MendedPart:
    """The image with one part of the first transplant's region mended alone; `picture` is uint8 [C,H,W]."""

    number: int
    picture: NDArray[np.uint8]
    is_normal: bool
    score: float


def parts_of_row(row: Row) -> tuple[MendedPart, ...]:
    """Of a row of `explanations`; none where the region is one piece."""
    return tuple(MendedPart(one.number, decode_png(one.picture), one.is_normal, one.score) for one in parts(row))


def verdicts_on(row: Row, answer: Row) -> tuple[Verdict, ...]:
    """What each judge says of one counterfactual of a row; nothing where none was asked."""
    return tuple(
        Verdict(str(one["name"]), int(one["version"]), bool(one["is_normal"]), is_blind(row, number))
        for number, one in enumerate(answer.get("judges") or ())
    )


def outline_of(region: NDArray[np.uint8]) -> tuple[Line, ...]:
    """Closed lines around what is more than half opaque in a mask [H,W], as (x, y) in shares of width and height."""
    from skimage.measure import approximate_polygon, find_contours

    height, width = region.shape
    bordered = np.pad(region.astype(np.float64), 1)  # closes lines at the image's edge
    found: list[NDArray[np.float64]] = find_contours(bordered, 127.5)  # type: ignore[no-untyped-call]
    lines = [approximate_polygon(line, tolerance=0.4) for line in found]  # type: ignore[no-untyped-call]
    return tuple(
        tuple(
            (round(float(np.clip((x - 0.5) / width, 0, 1)), 4), round(float(np.clip((y - 0.5) / height, 0, 1)), 4))
            for y, x in line
        )
        for line in lines
        if len(line) > 3
    )
