"""What the nightly report shows, computed from the tables' rows: worst cases, explainers' figures, drift.

Rows are plain dicts as `pyarrow.Table.to_pylist` gives them; columns as in `tables.EXPLANATIONS`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.images import decode_png, restore_map
from xadflow.metrics.explanation import flip_rate
from xadflow.models.gate import CHANGE_INSIDE
from xadflow.models.judges.transfer import REGION, TRANSFER, cases_of_rows, figures_of
from xadflow.report.transplanted import MendedPart, Transplant, Verdict, parts_of_row, transplant_of, verdicts_on

Picture = NDArray[np.uint8]
Row = Mapping[str, Any]

HEATMAP = "heatmap"  # the explainer whose map goes before those of others

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST_FOR_DRIFT = 20
DRIFT_P_VALUE, DRIFT_DISTANCE = 0.01, 0.1


@dataclass(frozen=True)
class Alternative:
    """One of several counterfactuals that an explainer gives for an image; pictures are uint8 [C,H,W]."""

    explainer: str
    concept: int
    picture: Picture
    difference: Picture | None
    is_normal: bool
    score: float
    changed_fraction: float


@dataclass(frozen=True)
class WorstCase:
    """One flagged image as the page shows it; pictures are uint8 [C,H,W] of one size, or None where there is none.

    `counterfactual_is_normal`, `counterfactual_score`, `changed_fraction` and `verdicts` belong to the counterfactual
    shown, the one of those that take no pixels from other images which changes least. `alternatives` are all of those
    of explainers that give more than one; `transplants` are those that do take pixels, `parts` the first one's parts,
    each mended alone.
    """

    image_path: str
    image_id: str
    score: float
    threshold: float
    p_value: float
    original: Picture | None = None
    overlay: Picture | None = None
    counterfactual: Picture | None = None
    difference: Picture | None = None
    counterfactual_is_normal: bool | None = None
    counterfactual_score: float | None = None
    changed_fraction: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    transplants: tuple[Transplant, ...] = ()
    parts: tuple[MendedPart, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class ExplainerFigures:
    """How one explainer did tonight. NaN where it has no such figure (a heatmap explainer has no counterfactuals).

    `flip_rate` is :func:`xadflow.metrics.explanation.flip_rate` of all counterfactuals, `changed_fraction` the median
    share of pixels they change; `change_inside` the mean share of their change that lies inside the heatmap's mask.
    `transfer` and `region`, the median share of the image that was replaced
    by another image's pixels, are those of :func:`xadflow.models.judges.transfer.figures_of`.
    """

    explainer: str
    rows: int
    counterfactuals: int
    flip_rate: float
    changed_fraction: float
    change_inside: float
    transfer: float = math.nan
    region: float = math.nan


@dataclass(frozen=True)
class Drift:
    """Two-sample Kolmogorov-Smirnov test of tonight's p-values against those of earlier nights, same model.

    `statistic` is the largest gap between the two distribution functions. P-values are discrete, which makes the test
    careful rather than eager.
    """

    statistic: float
    p_value: float
    now: int
    past: int

    @property
    def is_alarming(self) -> bool:
        """Both unlikely by chance and large enough to matter: with thousands of images every trifle is unlikely."""
        return self.p_value < DRIFT_P_VALUE and self.statistic > DRIFT_DISTANCE


@dataclass(frozen=True)
class ScoreQuantile:
    """One quantile of tonight's raw scores beside that of the model's held-out normals."""

    quantile: float
    now: float
    normals: float


def score_quantiles(now: ArrayLike, normals: ArrayLike) -> tuple[ScoreQuantile, ...]:
    """The 5, 25, 50, 75 and 95 % quantiles of both sets of raw scores; none when either is empty."""
    tonight, held_out = np.asarray(now, dtype=np.float64), np.asarray(normals, dtype=np.float64)
    if not tonight.size or not held_out.size:
        return ()
    pairs = zip(QUANTILES, np.quantile(tonight, QUANTILES), np.quantile(held_out, QUANTILES), strict=True)
    return tuple(ScoreQuantile(share, float(ours), float(theirs)) for share, ours, theirs in pairs)


def drift_of(now: ArrayLike, past: ArrayLike) -> Drift | None:
    """Compare tonight's p-values [N] with earlier ones [M]; None with fewer than 20 of either."""
    from scipy.stats import ks_2samp

    tonight, earlier = np.asarray(now, dtype=np.float64), np.asarray(past, dtype=np.float64)
    if min(tonight.size, earlier.size) < FEWEST_FOR_DRIFT:
        return None
    found = ks_2samp(tonight, earlier, method="asymp")
    return Drift(float(found.statistic), float(found.pvalue), tonight.size, earlier.size)


def explainer_figures(rows: Iterable[Row]) -> tuple[ExplainerFigures, ...]:
    """Figures of each explainer over its rows, by name."""
    by_explainer: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_explainer[str(row["explainer"])].append(row)
    figures = []
    for name, its_rows in sorted(by_explainer.items()):
        found = [answer for row in its_rows for answer in row["counterfactuals"] or ()]
        inside = [
            metric["value"] for row in its_rows for metric in row["metrics"] or () if metric["name"] == CHANGE_INSIDE
        ]
        inside = [value for value in inside if value is not None and math.isfinite(value)]
        regions = [one["value"] for row in its_rows for one in row["metrics"] or () if one["name"] == REGION]
        figures.append(
            ExplainerFigures(
                explainer=name,
                rows=len(its_rows),
                counterfactuals=len(found),
                flip_rate=flip_rate([answer["is_normal"] for answer in found]) if found else math.nan,
                changed_fraction=float(np.median([answer["changed_fraction"] for answer in found]))
                if found
                else math.nan,
                change_inside=float(np.mean(inside)) if inside else math.nan,
                transfer=figures_of(cases_of_rows(its_rows)).get(TRANSFER, math.nan),
                region=float(np.median(regions)) if regions else math.nan,
            )
        )
    return tuple(figures)


def worst_cases(rows: Iterable[Row], top: int = 12, paths: Mapping[str, str] | None = None) -> tuple[WorstCase, ...]:
    """The `top` images with the highest scores, each joined from its rows of all explainers; `paths` of donors by
    image_id.

    Heat overlays share one colour scale (median to 99.5 % of all their pixels) and differences another, so that the
    cases can be compared. Of several counterfactuals without a donor the one that changes fewest pixels is shown,
    normal ones first.
    """
    from xadflow.pictures.plots import difference_picture, heat_overlay

    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[str(row["image_id"])].append(row)
    ordered = sorted(by_image.values(), key=lambda its: (-its[0]["score"], its[0]["image_id"]))[:top]
    parts = [_joined(its_rows) for its_rows in ordered]
    heats = [part.heat for part in parts if part.heat is not None]
    low, high = np.quantile(np.concatenate([heat.ravel() for heat in heats]), (0.5, 0.995)) if heats else (0.0, 1.0)
    most = _common_change(parts)
    return tuple(
        WorstCase(
            image_path=str(part.row["image_path"]),
            image_id=str(part.row["image_id"]),
            score=part.row["score"],
            threshold=part.row["threshold"],
            p_value=part.row["p_value"],
            original=part.original,
            overlay=None
            if part.heat is None or part.original is None
            else heat_overlay(part.original, part.heat, float(low), float(high)),
            counterfactual=part.counterfactual,
            difference=None
            if part.counterfactual is None or part.original is None
            else difference_picture(part.original, part.counterfactual, most),
            counterfactual_is_normal=part.answer["is_normal"] if part.answer else None,
            counterfactual_score=part.answer["score"] if part.answer else None,
            changed_fraction=part.answer["changed_fraction"] if part.answer else None,
            alternatives=tuple(
                _alternative(explainer, answer, part.original, most) for explainer, answer in part.alternatives
            ),
            verdicts=part.verdicts,
            transplants=tuple(transplant_of(row, answer, paths or {}) for row, answer in part.transplants),
            parts=parts_of_row(part.transplants[0][0]) if part.transplants else (),
        )
        for part in parts
    )


@dataclass(frozen=True)
class _Joined:
    row: Row
    original: Picture | None
    heat: NDArray[np.float64] | None
    answer: Row | None
    counterfactual: Picture | None
    alternatives: tuple[tuple[str, Row], ...]
    transplants: tuple[tuple[Row, Row], ...]
    verdicts: tuple[Verdict, ...]


def _joined(rows: Sequence[Row]) -> _Joined:
    """What the rows of all explainers of one image show together; the first that has a thing gives it."""
    original = next((decode_png(row["original"]["bytes"]) for row in rows if _has(row["original"])), None)
    heated = sorted((row for row in rows if _has(row["heatmap"])), key=lambda row: row["explainer"] != HEATMAP)
    heat = _raw_heat(heated[0]) if heated else None
    made = [(row, one) for row in rows for one in row["counterfactuals"] or () if _has(one["image"])]
    transplants = tuple((row, one) for row, one in made if one.get("donor_id"))
    told = [
        (str(row["explainer"]), [one for whose, one in made if whose is row and not one.get("donor_id")])
        for row in rows
    ]
    answers = [answer for _, its in told for answer in its]
    answer = min(answers, key=lambda one: (not one["is_normal"], one["changed_fraction"]), default=None)
    whose = next((row for row, one in made if one is answer), None)
    verdicts = verdicts_on(whose, answer) if whose is not None and answer is not None else ()
    several = tuple((explainer, one) for explainer, its in told if len(its) > 1 for one in its)
    return _Joined(
        rows[0],
        original,
        heat,
        answer,
        decode_png(answer["image"]["bytes"]) if answer else None,
        several,
        transplants,
        verdicts,
    )


def _alternative(explainer: str, answer: Row, original: Picture | None, most: float) -> Alternative:
    from xadflow.pictures.plots import difference_picture

    picture = decode_png(answer["image"]["bytes"])
    difference = None if original is None else difference_picture(original, picture, most)
    return Alternative(
        explainer,
        int(answer["concept"]),
        picture,
        difference,
        bool(answer["is_normal"]),
        float(answer["score"]),
        float(answer["changed_fraction"]),
    )


def _has(image: Row | None) -> bool:
    return image is not None and bool(image["bytes"])


def _raw_heat(row: Row) -> NDArray[np.float64]:
    """Raw values of a stored 8-bit heatmap, from its minimum and maximum."""
    return restore_map(decode_png(row["heatmap"]["bytes"])[0], row["heatmap_min"], row["heatmap_max"])


def _common_change(parts: Sequence[_Joined]) -> float:
    """Size of change at full colour: nearly the largest of all cases, at least one grey level."""
    largest = [
        float(np.quantile(np.abs(part.counterfactual.astype(np.float64) - part.original).mean(0), 0.999)) / 255.0
        for part in parts
        if part.counterfactual is not None and part.original is not None
    ]
    return max([*largest, 1.0 / 255.0])
