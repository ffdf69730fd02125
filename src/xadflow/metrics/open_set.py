"""Open-set segmentation: the IoU of the known classes when pixels may be rejected as anomalous (open-mIoU), exactly.

Ids: 0..K-1 are the known classes (inliers), K is anomaly, K+1 is ignore. A pixel is given the likeliest known class, or
K where its score is at or above a threshold. The threshold of one fold of the test set ("town") is fitted on the other
fold: the highest score at which more than 95 % of its anomalous pixels are flagged, on maps of half the size. Then

    IoU_k = TP / (TP + FP + FN);  open-mIoU = mean over the K known classes, those in neither labels nor predictions
    left out

where FP includes anomalous pixels that are called k, and FN pixels of k that are rejected. The IoU of anomaly itself
stands apart. Closed mIoU is the same without rejection and without the anomalous pixels; closed minus open is what
anomalies cost. A figure of the set is the mean of its folds, weighted by their numbers of images.

Differences from the released code: a pixel *at* the threshold is rejected, as at the ROC point that defines it (there:
only above it); at half size, a pixel's score is the mean of those of its four pixels that are not ignored (there: of
all four), so that no ignored pixel has a say. Both agree where no scores tie and no pixel is ignored.

Source: DenseHybrid, ECCV 2022 (arXiv 2207.02606), docs/explanation/methods.md. One pass instead of two: `scenes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.errors import BadInput, NotFinite
from xadflow.images import VOID
from xadflow.metrics.pixels import check_maps, check_recall
from xadflow.metrics.ranks import Floats

Counts = NDArray[np.int64]


class Scene(NamedTuple):
    """A batch of scenes: raw `scores` float [B,H,W]; `classes` int64 [B,H,W], the likeliest known class of each pixel;
    `labels` uint8 [B,H,W], a known class or VOID; `anomaly` bool [B,H,W], whatever the label there.
    """

    scores: Tensor
    classes: Tensor
    labels: Tensor
    anomaly: Tensor


@dataclass(frozen=True)
class FoldFigures:
    """Figures of one fold of `images` images at `threshold`, which was fitted on the other fold.

    `class_iou` [K] is NaN for a class in neither labels nor predictions; `closed_class_iou` likewise.
    """

    images: int
    threshold: float
    open_miou: float
    closed_miou: float
    anomaly_iou: float
    class_iou: tuple[float, ...]
    closed_class_iou: tuple[float, ...]


@dataclass(frozen=True)
class OpenSetFigures:
    """Means of the two folds, weighted by their images; `gap` is closed minus open mIoU."""

    open_miou: float
    closed_miou: float
    gap: float
    anomaly_iou: float
    folds: tuple[FoldFigures, FoldFigures]


def open_set_figures(
    folds: tuple[Iterable[Scene], Iterable[Scene]], num_classes: int, *, tpr: float = 0.95, strict: bool = True
) -> OpenSetFigures:
    """Cross-fitted open-set figures of two folds, each gone through twice: lists, or loaders that repeat themselves.

    Memory: the anomalous pixels of a fold at half size, and one batch.

    Raises:
        BadInput: shapes or types that differ, labels or classes outside the known ones, another `tpr`, or a fold
            without anomalous pixels at half size or without a labelled inlier.
        NotFinite: a score that is not finite on a pixel that is not ignored.
    """
    thresholds = [fit_threshold(fold, num_classes, tpr=tpr, strict=strict) for fold in folds]
    found = [
        fold_figures(*confusions(fold, num_classes, threshold), threshold)
        for fold, threshold in zip(folds, reversed(thresholds), strict=True)
    ]
    return weighted_by_images(found[0], found[1])


def fit_threshold(scenes: Iterable[Scene], num_classes: int, *, tpr: float = 0.95, strict: bool = True) -> float:
    """Highest score at half size with more than `tpr` of the anomalous pixels at or above it (at least, not `strict`).

    Raises as :func:`open_set_figures`.
    """
    check_recall(tpr, strict)
    parts = []
    for scene in scenes:
        ids = checked_ids(scene, num_classes)
        scores, small = half_size(scene.scores, ids, num_classes)
        parts.append(scores[small == num_classes])
    anomalous = torch.cat(parts).double().sort(descending=True)[0] if parts else torch.zeros(0)
    if not anomalous.numel():
        raise BadInput(
            "a fold needs anomalous pixels to fit a threshold on",
            seen="none at half size",
            next_step="divide the scenes so that each fold has anomalies",
        )
    recall = torch.arange(1, anomalous.numel() + 1, device=anomalous.device).double() / anomalous.numel()
    return float(anomalous[int((recall > tpr if strict else recall >= tpr).int().argmax())])


def confusions(scenes: Iterable[Scene], num_classes: int, threshold: float) -> tuple[Counts, Counts, int]:
    """Open and closed confusion matrix [K+2,K+2] of a fold, and its number of images.

    Raises as :func:`open_set_figures`.
    """
    size, images = num_classes + 2, 0
    opened = closed = np.zeros((size, size), dtype=np.int64)
    for scene in scenes:
        ids, classes = checked_ids(scene, num_classes), scene.classes.long()
        rejected = torch.where(scene.scores.double() >= threshold, num_classes, classes)
        inliers = torch.where(ids == num_classes, num_classes + 1, ids)
        opened = opened + confusion_matrix(ids, rejected, num_classes)
        closed = closed + confusion_matrix(inliers, classes, num_classes)
        images += ids.shape[0]
    return opened, closed, images


def confusion_matrix(ids: Tensor, predicted: Tensor, num_classes: int) -> Counts:
    """int64 [K+2,K+2]: pixels by true id (row) and predicted id (column); row and column K+1 (ignore) are zero.

    Both are integers in 0..K+1, of one shape. Raises BadInput for others.
    """
    size = num_classes + 2
    if ids.shape != predicted.shape:
        raise BadInput(
            "true and predicted ids need one shape",
            seen=(tuple(ids.shape), tuple(predicted.shape)),
            next_step="resize the prediction to the labels",
        )
    pairs = (ids.long() * size + predicted.long()).flatten()
    if pairs.numel() and not (
        0 <= int(min(ids.min(), predicted.min())) and int(max(ids.max(), predicted.max())) < size
    ):
        raise BadInput(
            f"ids lie in 0..{size - 1}", seen=(int(ids.max()), int(predicted.max())), next_step="map labels by open_ids"
        )
    matrix = np.asarray(torch.bincount(pairs, minlength=size * size).view(size, size).cpu().numpy(), dtype=np.int64)
    matrix[-1, :] = matrix[:, -1] = 0
    return matrix


def class_iou(confusion: Counts) -> Floats:
    """IoU [K+1] of the known classes and, last, of anomaly; NaN for one in neither labels nor predictions.

    A class that is predicted and nowhere labelled has 0. Takes int64 [K+2,K+2].

    >>> class_iou(np.array([[2, 1, 1, 0], [0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]))
    array([0.4 , 0.5 , 0.25])
    """
    hits = np.diagonal(confusion)
    return iou(hits, confusion.sum(1) + confusion.sum(0) - hits)[:-1]


def iou(hits: NDArray[np.generic], union: NDArray[np.generic]) -> Floats:
    """hits / union in float64, NaN where the union is empty; any shape."""
    shares = np.full(np.shape(union), np.nan)
    np.divide(hits, union, out=shares, where=np.asarray(union) > 0)
    return shares


def fold_figures(opened: Counts, closed: Counts, images: int, threshold: float) -> FoldFigures:
    """Figures of a fold's two confusion matrices [K+2,K+2]. Raises BadInput without a labelled inlier."""
    if not closed.sum():
        raise BadInput(
            "a fold needs labelled inliers",
            seen="none outside ignored and anomalous pixels",
            next_step="divide the scenes so that each fold has labels",
        )
    all_open, all_closed = class_iou(opened), class_iou(closed)[:-1]
    return FoldFigures(
        images,
        threshold,
        float(np.nanmean(all_open[:-1])),
        float(np.nanmean(all_closed)),
        float(all_open[-1]),
        tuple(all_open[:-1].tolist()),
        tuple(all_closed.tolist()),
    )


def weighted_by_images(first: FoldFigures, second: FoldFigures) -> OpenSetFigures:
    """The set's figures from its folds'."""
    images = first.images + second.images

    def mean(one: float, other: float) -> float:
        return (first.images * one + second.images * other) / images

    opened, closed = mean(first.open_miou, second.open_miou), mean(first.closed_miou, second.closed_miou)
    return OpenSetFigures(opened, closed, closed - opened, mean(first.anomaly_iou, second.anomaly_iou), (first, second))


def open_ids(labels: Tensor, anomaly: Tensor, num_classes: int) -> Tensor:
    """Ids int64 in 0..K+1 of uint8 labels (known class or VOID) and a bool anomaly mask, which goes before
    the label.
    """
    ids = torch.where(labels == VOID, num_classes + 1, labels.long())
    return torch.where(anomaly, num_classes, ids)


def half_size(scores: Tensor, ids: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores [B,H//2,W//2] by bilinear halving among pixels that are not ignored, and ids by the nearest pixel.

    At exactly half the size bilinear is the mean of four pixels, and nearest (as in torch) the upper left of them. An
    odd last row or column is dropped.
    """
    height, width = scores.shape[-2] // 2, scores.shape[-1] // 2
    small = ids[:, : 2 * height : 2, : 2 * width : 2]
    kept = ids[:, : 2 * height, : 2 * width] <= num_classes
    shown = torch.where(kept, scores[:, : 2 * height, : 2 * width].double(), 0.0)
    blocks = (scores.shape[0], height, 2, width, 2)
    total, of = shown.reshape(blocks).sum((2, 4)), kept.reshape(blocks).sum((2, 4))
    return total / of.clamp(min=1), small


def checked_ids(scene: Scene, num_classes: int) -> Tensor:
    """Ids [B,H,W] of a batch. Raises BadInput or NotFinite for tensors that are not as `Scene` says. Waits for the
    device.
    """
    check_scene(scene)
    ids = open_ids(scene.labels, scene.anomaly, num_classes)
    kept = ids <= num_classes
    if strays := int(stray_pixels(scene, num_classes).sum()):
        raise stray_error(strays, num_classes)
    if odd := int((~scene.scores.isfinite() & kept).sum()):
        raise NotFinite(
            "scores must be finite numbers",
            seen=f"{odd} pixels that are not",
            next_step="look at the images or the weights that gave them",
        )
    return ids


def stray_error(pixels: int, num_classes: int) -> BadInput:
    """What to raise for this number of stray pixels."""
    return BadInput(
        f"labels and classes of {num_classes} known classes lie in 0..{num_classes - 1}",
        seen=f"{pixels} pixels outside",
        next_step=f"label pixels of no class {VOID}, and mark anomalies in their mask",
    )


def stray_pixels(scene: Scene, num_classes: int) -> Tensor:
    """bool [B,H,W]: pixels with a label that is neither a known class nor VOID, or with a class that is not known."""
    label = (scene.labels != VOID) & ~scene.anomaly & (scene.labels.long() >= num_classes)
    return label | (scene.classes < 0) | (scene.classes >= num_classes)


def check_scene(scene: Scene) -> None:
    """Raises BadInput for other shapes and types than those of `Scene`."""
    check_maps(scene.scores, scene.anomaly, None)
    shapes = {tuple(tensor.shape) for tensor in scene}
    if (
        len(shapes) > 1
        or scene.scores.ndim != 3
        or scene.labels.dtype != torch.uint8
        or scene.classes.is_floating_point()
    ):
        raise BadInput(
            "scenes are maps [B,H,W] of one shape with uint8 labels and integer classes",
            seen=(sorted(shapes), scene.labels.dtype, scene.classes.dtype),
            next_step="pass the argmax of the logits at the labels' size",
        )
