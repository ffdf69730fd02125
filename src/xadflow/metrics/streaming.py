"""Figures of score maps of any number and size in bounded memory: counts of scores in bins, with a bound on the error.

Each pixel is counted, by label, in one of 2^16 bins of equal width over a stated range (`Bins`) or over the range that
a first pass found (`ScoreRange`). Scores outside the range are counted in the end bins, and reported. The bin of a
score never falls when the score rises, whatever is rounded on the way; so the *order* of two scores is known unless
they share a bin, and each figure can be enclosed by what the bins hold, without any assumption on the scores. With p
anomalous pixels and n inliers in a bin, T and F of them in the bins above, P and N in all:

- AUROC: pairs that share a bin count one half, so the exact figure is within sum(p n) / (2 P N) of it;
- average precision: a pixel of the bin has a precision of at most (T + p) / (T + p + F), and the i-th of them from
  above at least (T + i) / (T + i + F + n); the figure itself takes all pixels of a bin as tied;
- FPR at a recall: the threshold lies in the bin where the recall passes, so the rate is between F / N and (F + n) / N.

Adding an image costs one pass over it and no wait for the device; only reading the figures waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.pixels import check_maps, check_recall
from xadflow.metrics.ranks import Counts, auroc_of, average_precision_of

BINS = 2**16


@dataclass(frozen=True)
class Bounded:
    """A figure, and two ends between which the exact figure lies for certain."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """How far the exact figure can be from `value` at most."""
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True)
class StreamedFigures:
    """As `PixelFigures`, each with its bound; `below` and `above` count the pixels whose score lay outside the range.

    A score >= `threshold.value` (compare in float64) flags more than 95 % of the anomalous pixels, and
    `fpr_at_95_tpr.value` of the inliers.
    """

    average_precision: Bounded
    auroc: Bounded
    fpr_at_95_tpr: Bounded
    threshold: Bounded
    anomalous: int
    inliers: int
    below: int
    above: int


@dataclass(frozen=True)
class Bins:
    """`count` bins of equal width from `low` to `high`; both ends belong, and scores outside go to the end bins.

    Raises BadInput for an empty range, or bins so narrow that float64 cannot tell them apart.
    """

    low: float
    high: float
    count: int = BINS

    def __post_init__(self) -> None:
        resolved = max(16 * math.ulp(self.low), 16 * math.ulp(self.high), 1e-300)
        if not (math.isfinite(self.high - self.low) and self.count > 0 and self.width > resolved):
            raise BadInput(
                "bins need a finite range from low to high that float64 can divide",
                seen=(self.low, self.high, self.count),
                next_step="find the range with ScoreRange, or use fewer bins",
            )

    @property
    def width(self) -> float:
        """Of one bin, in units of the score."""
        return (self.high - self.low) / self.count

    def of(self, scores: Tensor) -> Tensor:
        """int64 index of the bin of each score, of the same shape; never falls when the score rises. NaN goes to 0."""
        places = (scores.double() - self.low) * self._scale
        return places.nan_to_num(0.0).clamp_(0, self.count - 1).long()

    def edge(self, number: int) -> float:
        """The smallest float64 whose bin is at least `number`: comparing with it agrees with comparing bins.

        -inf for 0 and inf for `count`.
        """
        if not 0 < number < self.count:
            return -math.inf if number <= 0 else math.inf
        about = self.low + number * self.width
        under, edge = about - self.width, about + self.width
        while under < (middle := (under + edge) / 2) < edge:
            if (middle - self.low) * self._scale >= number:  # the arithmetic of `of`, bit for bit
                edge = middle
            else:
                under = middle
        return edge

    @property
    def _scale(self) -> float:
        return 1.0 / self.width  # a product, because some devices divide by a number with another rounding


class ScoreRange:
    """First pass: the lowest and highest score of all pixels that are not ignored. Adding does not wait for
    the device.
    """

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, scores: Tensor, ignored: Tensor | None = None) -> None:
        """Float maps of any shape, and a bool mask of it. Raises BadInput for other types or shapes."""
        check_maps(scores, torch.ones_like(scores, dtype=torch.bool), ignored)
        kept = torch.ones_like(scores, dtype=torch.bool) if ignored is None else ~ignored
        low, high = _ends(scores.detach(), kept)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def bins(self, count: int = BINS) -> Bins:
        """Bins over the range found. A single score gets a range around it.

        Raises BadInput when no pixel was added, NotFinite when one was not finite.
        """
        if self.low is None or self.high is None or float(self.low) > float(self.high):
            raise BadInput(
                "a range needs scores",
                seen="no pixel outside the ignored ones",
                next_step="add the maps of the set first",
            )
        low, high = float(self.low), float(self.high)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFinite(
                "scores must be finite numbers",
                seen=(low, high),
                next_step="look at the images or the weights that gave them",
            )
        least = 64 * count * max(math.ulp(low), math.ulp(high), 1e-300)
        pad = max(0.0, least - (high - low)) / 2
        return Bins(low - pad, high + pad, count)


class PixelHistograms:
    """Counts of a set's pixels by label and bin: (2 x bins) int64 and a few numbers, however many images are added.

    Not for figures per image: those are exact in `pixels.PerImageMean`, whose memory is one image's.
    """

    def __init__(self, bins: Bins, device: torch.device | str = "cpu") -> None:
        self.bins = bins
        self.counts = torch.zeros(2 * bins.count, dtype=torch.int64, device=device)
        self.watch = RangeWatch(bins, device)

    def add(self, scores: Tensor, anomaly: Tensor, ignored: Tensor | None = None) -> None:
        """Float maps of any shape, bool masks of it (see `pixels.pooled_figures`). Raises BadInput for others."""
        check_maps(scores, anomaly, ignored)
        kept = torch.ones_like(anomaly) if ignored is None else ~ignored
        scores = scores.detach()
        self.watch.add(scores, kept)
        count_cells(self.counts, anomaly * self.bins.count + self.bins.of(scores), kept)

    def figures(self, *, tpr: float = 0.95, strict: bool = True) -> StreamedFigures:
        """Figures of all pixels so far, pooled. Arguments as `pixels.pooled_figures`.

        Raises:
            BadInput: another `tpr`; no anomalous pixel, or no inlier.
            NotFinite: a score was not finite on a pixel that is not ignored.
        """
        inliers, anomalous = self.counts.view(2, -1).cpu().numpy()
        return binned_figures(anomalous, inliers, self.watch, tpr=tpr, strict=strict)


class RangeWatch:
    """What bins do not say of the scores: lowest, highest, how many lay outside the range or were not finite."""

    def __init__(self, bins: Bins, device: torch.device | str) -> None:
        self.bins = bins
        self.outside = torch.zeros(3, dtype=torch.int64, device=device)  # below, above, not finite
        self.ends = torch.tensor([math.inf, -math.inf], dtype=torch.float64, device=device)

    def add(self, scores: Tensor, kept: Tensor) -> None:
        """Float and bool tensors of one shape."""
        outside = ((scores < self.bins.low) & kept, (scores > self.bins.high) & kept, ~scores.isfinite() & kept)
        self.outside += torch.stack([found.sum() for found in outside])
        low, high = _ends(scores, kept)
        self.ends = torch.stack([torch.minimum(self.ends[0], low), torch.maximum(self.ends[1], high)])

    def read(self) -> tuple[int, int, float, float]:
        """Pixels below and above the range, lowest and highest score. Raises NotFinite. Waits for the device."""
        below, above, odd = self.outside.tolist()
        if odd:
            raise NotFinite(
                "scores must be finite numbers",
                seen=f"{odd} pixels that are not",
                next_step="look at the images or the weights that gave them",
            )
        low, high = self.ends.tolist()
        return below, above, low, high


def count_cells(counts: Tensor, cells: Tensor, kept: Tensor) -> None:
    """Add 1 to int64 `counts` [C] for each of the int64 `cells`, where the bool `kept` of the same shape is True."""
    size = counts.numel()
    found = torch.where(kept, cells, size).flatten()  # those left out share one cell more
    if counts.device.type == "cpu":
        counts += torch.bincount(found, minlength=size + 1)[:size]
    else:  # bincount would wait for the device to learn the largest cell
        scatter_cells(counts, found)


def scatter_cells(counts: Tensor, cells: Tensor) -> None:
    """Add 1 to int64 `counts` [C] for each of the int64 `cells` [P] in 0..C; those at C are dropped."""
    spread = counts.new_zeros(counts.numel() + 1)
    counts += spread.scatter_add_(0, cells, torch.ones_like(cells))[:-1]


def binned_figures(
    anomalous: Counts, inliers: Counts, watch: RangeWatch, *, tpr: float = 0.95, strict: bool = True
) -> StreamedFigures:
    """Figures of int64 counts [bins], lowest bin first, with the bounds of the module's text. Raises BadInput,
    NotFinite.
    """
    check_recall(tpr, strict)
    below, above, lowest, highest = watch.read()
    total_p, total_n = int(anomalous.sum()), int(inliers.sum())
    if not total_p or not total_n:
        raise BadInput(
            "pixel figures need anomalous pixels and inliers",
            seen=f"{total_p} anomalous, {total_n} inliers",
            next_step="evaluate on a set that has both outside its ignored pixels",
        )
    p, n = anomalous[::-1], inliers[::-1]  # highest first, as ranks.py has them
    rank = passing_bin(anomalous, tpr, strict)
    alarms = int(inliers[rank + 1 :].sum())
    auroc, precision = float(auroc_of(p, n)), float(average_precision_of(p, n))
    half = 0.5 * float((p.astype(np.float64) * n).sum()) / (float(total_p) * float(total_n))
    low, high = _precision_bounds(p.astype(np.float64), n.astype(np.float64))
    bins = watch.bins
    return StreamedFigures(
        average_precision=Bounded(precision, min(low, precision), max(high, precision)),
        auroc=Bounded(auroc, auroc - half, auroc + half),
        fpr_at_95_tpr=Bounded(
            (alarms + int(inliers[rank])) / total_n, alarms / total_n, (alarms + int(inliers[rank])) / total_n
        ),
        threshold=Bounded(
            max(bins.edge(rank), lowest), max(bins.edge(rank), lowest), min(bins.edge(rank + 1), highest)
        ),
        anomalous=total_p,
        inliers=total_n,
        below=below,
        above=above,
    )


def passing_bin(anomalous: Counts, tpr: float, strict: bool) -> int:
    """Highest bin from which on upwards lies more than `tpr` of the anomalous pixels, or at least (not `strict`)."""
    recall = anomalous[::-1].cumsum() / anomalous.sum()  # correctly rounded, as in pixels.rank_pixels
    return len(anomalous) - 1 - int((recall > tpr if strict else recall >= tpr).argmax())


def _precision_bounds(p: NDArray[np.float64], n: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the average precision of counts [bins], highest first."""
    flagged, alarms = p.cumsum(), n.cumsum()
    most = p * flagged / np.maximum(flagged + alarms - n, 1.0)
    # sum over i = 1..p of (T+i) / (T+i+G), G = F + n: p less G times a sum of 1 / (M+i), M = T + G, which is no larger
    # than the integral of 1/x from M + 1/2 to M + p + 1/2, because 1/x is convex
    least = p - alarms * np.log1p(p / (flagged - p + alarms + 0.5))
    return max(float(least.sum() / p.sum()), 0.0), min(float(most.sum() / p.sum()), 1.0)


def _ends(scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest kept score, float64; inf and -inf where none is kept."""
    if not scores.numel():
        return scores.new_tensor(math.inf, dtype=torch.float64), scores.new_tensor(-math.inf, dtype=torch.float64)
    return (torch.where(kept, scores, math.inf).amin().double(), torch.where(kept, scores, -math.inf).amax().double())
