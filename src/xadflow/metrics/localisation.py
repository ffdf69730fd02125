"""Where the defect is: pixel AUROC and the per-region overlap, of raw maps against masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from xadflow.errors import BadInput
from xadflow.metrics.detection import MAX_TIED_SHARE, tolerable_ties
from xadflow.metrics.ranks import Floats, Ranked, auroc_of, finite_scores, rank

FPR_LIMIT = 0.3


def pixel_auroc(maps: ArrayLike, masks: ArrayLike, max_tied_share: float = MAX_TIED_SHARE) -> float:
    """AUROC over all pixels: raw maps [N,H,W] against bool masks [N,H,W], True is defect; all False for a normal image.

    Large defects dominate it; neighbouring pixels are not independent, so no interval over pixels is offered.

    Raises:
        BadInput: shapes that differ, a value that is not finite, no defect pixel, or too many ties.
    """
    ranked, _ = _pixels(maps, masks, max_tied_share)
    return float(auroc_of(*ranked.table()))


def aupro(
    maps: ArrayLike, masks: ArrayLike, fpr_limit: float = FPR_LIMIT, max_tied_share: float = MAX_TIED_SHARE
) -> float:
    """Area under the per-region overlap, over false-positive rates up to `fpr_limit`, as a share of the largest
    possible.

    At each threshold: the mean over all defect regions (connected, corners included) of the share of the region that is
    flagged, against the share of normal pixels that are flagged. Small and large defects count alike. Every distinct
    value is a threshold; between two of them, and up to the limit, the curve is straight.

    Args: as :func:`pixel_auroc`. Raises BadInput: as there, or a limit outside (0, 1].

    Source: Bergmann et al., "The MVTec anomaly detection dataset", IJCV 2021, section 5.
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise BadInput("the limit is a false-positive rate in (0, 1]", seen=fpr_limit, next_step="pass 0.3")
    ranked, truth = _pixels(maps, masks, max_tied_share)
    size = ranked.levels.size
    flagged: Floats = np.bincount(ranked.level_of, _region_weights(truth).ravel(), size).astype(np.float64, copy=False)
    alarms = np.bincount(ranked.level_of[~ranked.is_anomaly], minlength=size) / (~ranked.is_anomaly).sum()
    x, y = overlap_curve(flagged, alarms, fpr_limit)
    return float(np.trapezoid(y, x) / fpr_limit)


def overlap_curve(flagged: Floats, alarms: Floats, fpr_limit: float) -> tuple[Floats, Floats]:
    """False-positive rates and per-region overlaps up to `fpr_limit`, of what each level adds to both, highest first.

    Both begin at 0, and end at the limit.
    """
    overlap = np.append(0.0, np.cumsum(flagged))
    fpr = np.append(0.0, np.cumsum(alarms))
    inside = fpr <= fpr_limit
    return np.append(fpr[inside], fpr_limit), np.append(overlap[inside], np.interp(fpr_limit, fpr, overlap))


def regions_of(truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """The number, from 1, of the region of each pixel of masks [N,H,W], 0 for none; and how many regions there are.

    A region is what touches in one image, corners included. Raises BadInput for masks of another shape.
    """
    if truth.ndim != 3:
        raise BadInput("masks are [N,H,W]", seen=truth.shape, next_step="add the image axis")
    connected = np.zeros((3, 3, 3), dtype=np.int64)
    connected[1] = 1  # neighbours in one image only
    labels, regions = ndimage.label(truth, structure=connected)
    return np.asarray(labels, dtype=np.int64), int(regions)


def _pixels(maps: ArrayLike, masks: ArrayLike, max_tied_share: float) -> tuple[Ranked, NDArray[np.bool_]]:
    values, truth = finite_scores(maps), np.asarray(masks)
    if values.shape != truth.shape:
        raise BadInput(
            "maps and masks must have one shape",
            seen=(values.shape, truth.shape),
            next_step="resize the masks to the detector's input",
        )
    ranked = rank(values.ravel(), truth.ravel())
    tolerable_ties(ranked, max_tied_share)
    return ranked, truth.astype(bool)


def _region_weights(truth: NDArray[np.bool_]) -> Floats:
    """Weights [N,H,W] that sum to 1, evenly over the regions of all images and over the pixels of each."""
    labels, regions = regions_of(truth)
    sizes = np.bincount(labels.ravel(), minlength=regions + 1).astype(np.float64)
    sizes[0] = np.inf
    return np.asarray(1.0 / sizes[labels] / regions, dtype=np.float64)
