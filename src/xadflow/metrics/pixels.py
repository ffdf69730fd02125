"""Figures of score maps over their pixels, exactly: average precision, AUROC, and false alarms at a recall of 95 %.

Everything is sorted and summed on the maps' own device, in float64. Ignored pixels are removed first. Two ways of
putting a set together are offered, and their figures are not comparable, so name the one you used in every table:

- *pooled* (Fishyscapes): all pixels of the set in one ranking, one figure;
- *per image* (StreetHazards): a figure for each image, then the mean. An image without anomalous pixels, or without
  inliers, has no such figure: it is left out of all three and counted. (The released code skips it for AUROC, but
  counts its FPR95 as a perfect 0, and scikit-learn gives it an average precision of 0.)

For sets that do not fit into memory: `streaming.py`.

Source: DenseHybrid, ECCV 2022 (arXiv 2207.02606), docs/explanation/methods.md; Fishyscapes (arXiv 1904.03215).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xadflow.errors import BadInput, NotFinite


@dataclass(frozen=True)
class PixelFigures:
    """Figures of one pool of pixels: `anomalous` and `inliers` of them.

    `average_precision`: sum of (recall step x precision) over distinct scores, no interpolation. `auroc`: ties count
    one half. `fpr_at_95_tpr`: share of inliers with a score >= `threshold`, the highest score at which recall passes 95
    %.
    """

    average_precision: float
    auroc: float
    fpr_at_95_tpr: float
    threshold: float
    anomalous: int
    inliers: int


@dataclass(frozen=True)
class PerImageFigures:
    """Means of the figures of `images` images; those left out have no anomalous pixel (all-void ones too) or no inlier.

    The three means are None where no image has both.
    """

    average_precision: float | None
    auroc: float | None
    fpr_at_95_tpr: float | None
    images: int
    without_anomaly: int
    without_inlier: int


def pooled_figures(
    maps: Iterable[Tensor],
    anomalies: Iterable[Tensor],
    ignored: Iterable[Tensor] | None = None,
    *,
    tpr: float = 0.95,
    strict: bool = True,
) -> PixelFigures:
    """Figures of all pixels of a set in one ranking. Memory: some 40 bytes a pixel of the whole set.

    Args:
        maps: raw float maps [N,H,W], or N maps [H,W] of any sizes; higher is more anomalous.
        anomalies: bool, of the same shapes; True is an anomalous pixel.
        ignored: bool, of the same shapes; True is a pixel in no figure, whatever its score and label. None: no pixel.
        tpr: the recall of `fpr_at_95_tpr` and `threshold`, named after its default.
        strict: recall must be above `tpr`, as in the released code; False: reach it.

    Raises:
        BadInput: shapes or types that differ, another `tpr`, or a set without anomalous pixels or without inliers.
        NotFinite: a score that is not finite on a pixel that is not ignored.
    """
    check_recall(tpr, strict)
    parts = list(_images(maps, anomalies, ignored))
    if not parts:
        raise BadInput("a set of maps needs images", seen="0 maps", next_step="look at the split that was scored")
    scores, is_anomaly = (torch.cat(part) for part in zip(*parts, strict=True))
    if (found := rank_pixels(scores, is_anomaly, tpr=tpr, strict=strict)) is None:
        anomalous = int(is_anomaly.sum())
        raise BadInput(
            "pixel figures need anomalous pixels and inliers",
            seen=f"{anomalous} anomalous, {is_anomaly.numel() - anomalous} inliers",
            next_step="evaluate on a set that has both outside its ignored pixels",
        )
    return found


def per_image_figures(
    maps: Iterable[Tensor],
    anomalies: Iterable[Tensor],
    ignored: Iterable[Tensor] | None = None,
    *,
    tpr: float = 0.95,
    strict: bool = True,
) -> PerImageFigures:
    """Mean over images of each image's own figures. Arguments and errors as :func:`pooled_figures`.

    Nothing is raised for images that have no figure: they are counted.
    """
    mean = PerImageMean(tpr=tpr, strict=strict)
    for scores, is_anomaly in _images(maps, anomalies, ignored):
        mean.add_pixels(scores, is_anomaly)
    return mean.figures()


class PerImageMean:
    """Running mean of the figures of images, one at a time; the state is six numbers."""

    def __init__(self, *, tpr: float = 0.95, strict: bool = True) -> None:
        check_recall(tpr, strict)
        self.tpr, self.strict = tpr, strict
        self.sums = [0.0, 0.0, 0.0]
        self.images = self.without_anomaly = self.without_inlier = 0

    def add_pixels(self, scores: Tensor, is_anomaly: Tensor) -> None:
        """One image: float [P] and bool [P] of its pixels that are not ignored, all finite. P may be 0."""
        found = rank_pixels(scores, is_anomaly, tpr=self.tpr, strict=self.strict)
        if found is not None:
            self.images += 1
            values = (found.average_precision, found.auroc, found.fpr_at_95_tpr)
            self.sums = [total + value for total, value in zip(self.sums, values, strict=True)]
        elif bool(is_anomaly.any()):
            self.without_inlier += 1
        else:
            self.without_anomaly += 1

    def figures(self) -> PerImageFigures:
        """The means so far."""
        precision, auroc, alarms = (total / self.images if self.images else None for total in self.sums)
        return PerImageFigures(precision, auroc, alarms, self.images, self.without_anomaly, self.without_inlier)


def rank_pixels(scores: Tensor, is_anomaly: Tensor, *, tpr: float = 0.95, strict: bool = True) -> PixelFigures | None:
    """Figures of finite scores [P] with bool labels [P]; None unless there are pixels of both kinds.

    One sort; counts are int64, sums float64. AP = sum_n (R_n - R_{n-1}) P_n; AUROC = P(anomaly > inlier) + P(tie) / 2.
    """
    anomalous = int(is_anomaly.sum())
    inliers = is_anomaly.numel() - anomalous
    if not anomalous or not inliers:
        return None
    values, order = scores.sort(descending=True)
    last = torch.ones_like(is_anomaly)  # of its level: pixels of one score pass any threshold together
    last[:-1] = values[1:] != values[:-1]
    caught = is_anomaly[order].cumsum(0)[last]  # int64 [levels], anomalous pixels at or above each
    flagged = last.nonzero()[:, 0] + 1
    alarms = flagged - caught
    steps = caught.diff(prepend=caught.new_zeros(1)).double()
    at_level = alarms.diff(prepend=alarms.new_zeros(1)).double()
    precision = (steps * (caught.double() / flagged.double())).sum() / anomalous
    wins = (steps * ((inliers - alarms).double() + 0.5 * at_level)).sum() / (float(anomalous) * float(inliers))
    recall = caught.double() / anomalous  # correctly rounded, so 19/20 equals the float .95 and is not above it
    first = (recall > tpr if strict else recall >= tpr).int().argmax()
    ends = torch.stack([precision, wins, alarms[first].double() / inliers, values[last][first].double()])
    average_precision, auroc, false_alarms, threshold = ends.tolist()  # one wait for the device
    return PixelFigures(average_precision, auroc, false_alarms, threshold, anomalous, inliers)


def check_recall(tpr: float, strict: bool) -> None:
    """Raises BadInput for a recall that no threshold can have."""
    if not 0.0 < tpr <= 1.0 or (strict and tpr == 1.0):
        raise BadInput(
            "a recall lies in (0, 1], and below 1 where it must be passed",
            seen=(tpr, strict),
            next_step="pass tpr=0.95, or strict=False",
        )


def check_maps(scores: Tensor, anomaly: Tensor, ignored: Tensor | None) -> None:
    """Raises BadInput unless scores are floats and the masks bool tensors of their shape."""
    if not scores.is_floating_point():
        raise BadInput("score maps are raw floats", seen=scores.dtype, next_step="pass the map as the detector gave it")
    for name, mask in (("anomaly", anomaly), ("ignored", ignored)):
        if mask is not None and (mask.shape != scores.shape or mask.dtype != torch.bool):
            raise BadInput(
                f"the {name} mask is bool and of the map's shape",
                seen=(tuple(scores.shape), tuple(mask.shape), mask.dtype),
                next_step="compare labels with their id, and resize the map to the labels",
            )


def _images(
    maps: Iterable[Tensor], anomalies: Iterable[Tensor], ignored: Iterable[Tensor] | None
) -> Iterable[tuple[Tensor, Tensor]]:
    """Scores [P] and labels [P] of the pixels of each image that are not ignored."""
    masks = list(anomalies)
    voids = [None] * len(masks) if ignored is None else list(ignored)
    shown = list(maps)
    if not len(shown) == len(masks) == len(voids):
        raise BadInput(
            "each map needs its masks", seen=(len(shown), len(masks), len(voids)), next_step="pass one mask a map"
        )
    for scores, mask, void in zip(shown, masks, voids, strict=True):
        check_maps(scores, mask, void)
        kept = slice(None) if void is None else ~void.flatten()
        values, is_anomaly = scores.detach().flatten()[kept], mask.flatten()[kept]
        if not bool(values.isfinite().all()):
            raise NotFinite(
                "scores must be finite numbers",
                seen=f"{int((~values.isfinite()).sum())} that are not",
                next_step="look at the images or the weights that gave them",
            )
        yield values, is_anomaly
