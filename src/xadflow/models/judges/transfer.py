"""Transfer: of the anomalies that a judge flags too, how many counterfactuals does it call normal?

A detector's own word is no evidence: a counterfactual was searched until it was normal to the detector. A large edit
transfers more easily, up to the nearest normal image in place of the whole, which always does. So the share stands
beside the area of the region that was changed, and the curve of one against the other is drawn where there are enough
rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xadflow.explainers.base import Explanation, Judgement
from xadflow.metrics.intervals import Rate, wilson_rate
from xadflow.models.judges.panel import FLAGS, SCORE

TRANSFER, FLAGGED, RECALL, REGION = "transfer", "judge_flagged", "judge_recall", "region_share"
FEWEST_FLAGGED = 10
"""Of fewer anomalies that the judge flags itself no transfer is told: 10 of 10 has a Wilson interval from .72 to 1."""
ROWS_A_BIN, MOST_BINS = 10, 5  # of the curve


@dataclass(frozen=True)
class Case:
    """One explained anomaly: whether each judge flags the image, what it says of each counterfactual, the changed area.

    `normal[k][j]`: judge j calls counterfactual k normal. `region` is in [0,1], NaN where the explainer has none.
    """

    flagged: tuple[bool, ...]
    normal: tuple[tuple[bool, ...], ...]
    region: float

    @property
    def counts(self) -> bool:
        """Whether any judge flags it: only then can one call its counterfactuals mended."""
        return any(self.flagged)

    def share(self) -> float:
        """Share of its counterfactuals that the judges which flag it call normal."""
        words = [
            is_normal for of_one in self.normal for is_normal, flags in zip(of_one, self.flagged, strict=True) if flags
        ]
        return float(np.mean(words))


def cases_of(
    told: Sequence[Explanation], before: Sequence[Sequence[Judgement]], after: Sequence[Sequence[Sequence[Judgement]]]
) -> list[Case]:
    """Cases of explanations that have counterfactuals and were judged; `before` and `after` are what `ask` says.

    Args:
        before: of each image, the words of the judges on the image itself.
        after: of each image and counterfactual, their words on that.
    """
    return [
        Case(
            tuple(not word.is_normal for word in of_image),
            tuple(tuple(word.is_normal for word in words) for words in made),
            float(one.metrics.get(REGION, math.nan)),
        )
        for one, of_image, made in zip(told, before, after, strict=True)
        if made and of_image
    ]


def cases_of_rows(rows: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Cases of rows of the table `explanations`; those without words of judges are left out."""
    found = []
    for row in rows:
        metrics = {one["name"]: one["value"] for one in row["metrics"] or ()}
        answers = [one["judges"] for one in row["counterfactuals"] or ()]
        if not answers or any(not words for words in answers) or SCORE not in metrics:
            continue
        flagged = [
            bool(metrics.get(f"{FLAGS}.{number}" if number else FLAGS, 0.0)) for number in range(len(answers[0]))
        ]
        region = metrics.get(REGION)
        found.append(
            Case(
                tuple(flagged),
                tuple(tuple(bool(word["is_normal"]) for word in words) for words in answers),
                math.nan if region is None else float(region),
            )
        )
    return found


def transfer_figures(
    told: Sequence[Explanation], before: Sequence[Sequence[Judgement]], after: Sequence[Sequence[Sequence[Judgement]]]
) -> dict[str, float]:
    """Figures of :func:`figures_of` of explanations and what judges say of images and counterfactuals."""
    return figures_of(cases_of(told, before, after))


def figures_of(cases: Sequence[Case]) -> dict[str, float]:
    """Figures of judged explanations, {} of none.

    transfer       mean over the images that a judge flags of the share of their counterfactuals that it calls normal;
                   NaN of fewer than FEWEST_FLAGGED images. Whether the detector calls them normal does not matter
    judge_flagged  how many images that is
    judge_recall   their share of all: of the anomalies that the detector flags
    region_share   median area of the changed region, where the explainer tells it
    """
    if not cases:
        return {}
    counted = [case for case in cases if case.counts]
    figures = {
        TRANSFER: float(np.mean([case.share() for case in counted])) if len(counted) >= FEWEST_FLAGGED else math.nan,
        FLAGGED: float(len(counted)),
        RECALL: len(counted) / len(cases),
    }
    areas = [case.region for case in cases if math.isfinite(case.region)]
    return figures | ({REGION: float(np.median(areas))} if areas else {})


@dataclass(frozen=True)
class CurvePoint:
    """Transfer of the images whose region's area is within `low` and `high`, with Wilson's interval; `area` is their
    median.
    """

    low: float
    high: float
    area: float
    rate: Rate


def transfer_curve(cases: Sequence[Case]) -> list[CurvePoint]:
    """Transfer against area, in bins of equally many images, of each image's first counterfactual, its smallest region.

    At most five bins with at least ten images each; empty where there are not enough for two.
    """
    counted = sorted(
        (case for case in cases if case.counts and math.isfinite(case.region)), key=lambda case: case.region
    )
    bins = min(MOST_BINS, len(counted) // ROWS_A_BIN)
    if bins < 2:
        return []
    points = []
    for part in np.array_split(np.arange(len(counted)), bins):
        its = [counted[place] for place in part]
        mended = [
            any(normal for normal, flags in zip(case.normal[0], case.flagged, strict=True) if flags) for case in its
        ]
        rate = wilson_rate(sum(mended), len(mended))
        points.append(CurvePoint(its[0].region, its[-1].region, float(np.median([case.region for case in its])), rate))
    return points


def curve_figure(curves: Mapping[str, Sequence[CurvePoint]], path: Path) -> None:
    """Curves of several explainers as a PNG; those without points are left out. Draws an empty chart of none."""
    from xadflow.pictures.plots import INK, QUIET, RULE, SMALL_PT, TEXT_PT, house_look, new_figure, save_figure

    figure = new_figure(6.4, 3.9)
    axes = figure.add_axes((0.115, 0.15, 0.85, 0.78))
    house_look(axes)
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito
    for number, (name, points) in enumerate((name, points) for name, points in curves.items() if points):
        colour = colours[number % len(colours)]
        areas, shares = [point.area for point in points], [point.rate.value for point in points]
        images = sum(point.rate.of for point in points)
        axes.plot(
            areas, shares, color=colour, marker="o", markersize=4, linewidth=1.8, label=f"{name}, {images:,} images"
        )
        for point in points:
            axes.plot([point.area] * 2, [point.rate.low, point.rate.high], color=colour, linewidth=1.0)
            axes.plot([point.low, point.high], [point.rate.value] * 2, color=colour, linewidth=0.6, alpha=0.6)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_xlabel("area of the replaced region, share of the image", size=TEXT_PT, color=INK)
    axes.set_ylabel("normal to the judge that flagged the image", size=TEXT_PT, color=INK)
    axes.legend(frameon=False, fontsize=SMALL_PT, labelcolor=QUIET, loc="best")
    save_figure(figure, path)
