"""Where the defect is, of maps of any number in bounded memory: pixel AUROC, AUPRO, and what a cut of the map overlaps.

The figures of `localisation.py`, from counts in bins as in `streaming.py`: AUROC and average precision are those of
`PixelHistograms`. For AUPRO each region's pixels weigh 1 over its size, and the exact curve rises within a bin from one
corner of a rectangle to the other, so that the straight line between them is wrong by half the rectangle at most.

Adding a batch costs one labelling of its regions, and no loop over its images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.errors import BadInput
from xadflow.metrics.detection import MAX_TIED_SHARE
from xadflow.metrics.intervals import Rate, wilson_rate
from xadflow.metrics.localisation import FPR_LIMIT, overlap_curve, regions_of
from xadflow.metrics.ranks import Floats
from xadflow.metrics.streaming import Bins, Bounded, PixelHistograms


@dataclass(frozen=True)
class LocalisationFigures:
    """How well maps lie on masks.

    `auroc`, `average_precision` and `fpr_at_95_tpr` pool all pixels, `aupro` counts every region alike, up to a
    false-positive rate of .3. `tied_share` of the (defect, normal) pairs of pixels have equal scores, as far as bins
    tell; where it is above MAX_TIED_SHARE these figures say nothing, and :meth:`as_metrics` leaves them out.

    `iou`: of the map above `threshold` with the mask, mean of the `images` with a defect; `found`: share of the regions
    that it touches. `normals` images have none.
    """

    auroc: Bounded
    average_precision: Bounded
    fpr_at_95_tpr: Bounded
    aupro: Bounded
    tied_share: float
    threshold: float
    iou: float
    found: Rate
    images: int
    normals: int

    def as_metrics(self) -> dict[str, float]:
        """Every figure under a flat name; `<name>_bound` is how far the exact one can be from it."""
        metrics = {
            "tied_share": self.tied_share,
            "threshold": self.threshold,
            "iou": self.iou,
            "regions": float(self.found.of),
            "regions_found": float(self.found.count),
            "images": float(self.images),
            "normals": float(self.normals),
        }
        if self.tied_share <= MAX_TIED_SHARE:
            for name in ("auroc", "average_precision", "fpr_at_95_tpr", "aupro"):
                figure: Bounded = getattr(self, name)
                metrics |= {name: figure.value, f"{name}_bound": figure.error}
        return metrics


class Localisation:
    """Collects maps and masks in batches. Raw maps are cut above `threshold`, which no test image may have chosen."""

    def __init__(self, bins: Bins, threshold: float, device: torch.device | str = "cpu") -> None:
        self.threshold = threshold
        self.pixels = PixelHistograms(bins, device)
        self.overlap = np.zeros(bins.count)
        self.regions = self.found = self.normals = 0
        self.ious: list[float] = []

    def add(self, maps: Tensor, masks: Tensor) -> None:
        """Float [N,H,W] and bool [N,H,W] on one device; an image without a defect has an empty mask. Raises BadInput
        for others.
        """
        self.pixels.add(maps, masks)
        truth = masks.cpu().numpy()
        labels, regions = regions_of(truth)
        of_defect = labels[truth]
        sizes = np.bincount(of_defect, minlength=regions + 1)
        numbers = self.pixels.bins.of(maps[masks]).cpu().numpy()
        self.overlap += np.bincount(numbers, 1.0 / sizes[of_defect], self.overlap.size)
        above = maps > self.threshold
        self.found += int((np.bincount(of_defect[above[masks].cpu().numpy()], minlength=regions + 1) > 0).sum())
        self.regions += regions
        counts = torch.stack([(above & masks).sum((1, 2)), (above | masks).sum((1, 2)), masks.sum((1, 2))]).cpu()
        both, either, defect = counts.numpy()
        self.ious += (both[defect > 0] / either[defect > 0]).tolist()
        self.normals += int((defect == 0).sum())

    def figures(self, fpr_limit: float = FPR_LIMIT) -> LocalisationFigures:
        """Figures of all images so far. Raises BadInput without a defect pixel or a normal one, NotFinite for scores
        that are none.
        """
        pooled = self.pixels.figures()
        inliers = self.pixels.counts.view(2, -1)[0].cpu().numpy()
        return LocalisationFigures(
            auroc=pooled.auroc,
            average_precision=pooled.average_precision,
            fpr_at_95_tpr=pooled.fpr_at_95_tpr,
            aupro=binned_aupro(self.overlap[::-1] / self.regions, inliers[::-1] / inliers.sum(), fpr_limit),
            tied_share=2.0 * pooled.auroc.error,
            threshold=self.threshold,
            iou=float(np.mean(self.ious)),
            found=wilson_rate(self.found, self.regions),
            images=len(self.ious),
            normals=self.normals,
        )


def binned_aupro(flagged: Floats, alarms: Floats, fpr_limit: float = FPR_LIMIT) -> Bounded:
    """AUPRO of what each bin adds to the mean overlap and to the false-positive rate, both [bins], highest first."""
    if not 0.0 < fpr_limit <= 1.0:
        raise BadInput("the limit is a false-positive rate in (0, 1]", seen=fpr_limit, next_step="pass 0.3")
    x, y = overlap_curve(flagged, alarms, fpr_limit)
    value, wrong = float(np.trapezoid(y, x)), 0.5 * np.diff(x) * np.diff(y)
    # at the limit the last bin may be cut anywhere: its curve may have its whole rise before it, or none
    inside = int((np.cumsum(alarms) <= fpr_limit).sum())
    rise, run = (float(flagged[inside]) if inside < flagged.size else 0.0), float(x[-1] - x[-2])
    before, after = float(y[-1] - y[-2]), rise - float(y[-1] - y[-2])
    low = value - float(wrong[:-1].sum()) - 0.5 * run * before
    high = value + float(wrong[:-1].sum()) + run * (0.5 * before + max(after, 0.0))
    return Bounded(value / fpr_limit, max(low, 0.0) / fpr_limit, min(high / fpr_limit, 1.0))


def ious(regions: NDArray[np.bool_], masks: NDArray[np.bool_]) -> Floats:
    """Intersection over union [N] of regions and masks [N,H,W]; NaN where both are empty."""
    both, either = (regions & masks).sum((1, 2)), (regions | masks).sum((1, 2))
    found: Floats = np.divide(both, either, out=np.full(len(regions), np.nan), where=either > 0)
    return found
