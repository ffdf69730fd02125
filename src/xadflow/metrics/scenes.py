"""All figures of labelled scenes in one pass and bounded memory: pixel figures, and open-set segmentation across two
folds.

DenseHybrid (arXiv 2207.02606) needs a score's threshold before it can tell which pixels
are rejected, hence a second pass. Here each pixel is counted by predicted class, by whether that class is right, wrong
or the pixel anomalous, and by the bin of its score (`streaming.py`). Any threshold at the edge of a bin can then be
applied afterwards, exactly: one forward pass serves threshold, closed and open figures. The threshold itself is known
to one bin, so open figures have a bound like the others; closed ones are exact.

Memory: 2 folds x K classes x 3 x bins x 8 bytes (19 MB for 6 classes), however many scenes. With `keep_scenes` the
counts of each scene are kept besides, 8 bytes for each cell that it fills, at most one a pixel: for intervals over
scenes (`benchmarks/scene_intervals.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.errors import BadInput
from xadflow.metrics.open_set import (
    FoldFigures,
    Scene,
    check_scene,
    half_size,
    iou,
    open_ids,
    stray_error,
    stray_pixels,
    weighted_by_images,
)
from xadflow.metrics.pixels import PerImageFigures, PerImageMean, check_recall
from xadflow.metrics.ranks import Floats
from xadflow.metrics.streaming import (
    Bins,
    Bounded,
    RangeWatch,
    StreamedFigures,
    binned_figures,
    count_cells,
    passing_bin,
)

Counts = NDArray[np.int64]
RIGHT, WRONG, ANOMALOUS = range(3)  # what a pixel's predicted class is; void pixels are none of them
NO_OPEN_SET = "each of two folds needs anomalous pixels at half size and a labelled inlier"


@dataclass(frozen=True)
class StreamedOpenSet:
    """As `OpenSetFigures`; `closed_miou` is exact, the others bounded. `folds` have the values at the edge
    of the bin.
    """

    open_miou: Bounded
    closed_miou: float
    gap: Bounded
    anomaly_iou: Bounded
    folds: tuple[FoldFigures, FoldFigures]


@dataclass(frozen=True)
class SceneSummary:
    """Figures of `images` scenes: `pooled` over all pixels, `open_set` across folds, and `per_image` where asked for.

    `open_set` is None where a fold lacks anomalous pixels or labelled inliers; `without_open_set` then says so.
    """

    images: int
    pooled: StreamedFigures
    open_set: StreamedOpenSet | None
    without_open_set: str | None
    per_image: PerImageFigures | None

    def as_metrics(self) -> dict[str, float]:
        """Every figure under a flat name; `<name>_bound` is how far the exact one can be from it. What is None is left
        out.
        """
        bounded = {
            name: getattr(self.pooled, name) for name in ("average_precision", "auroc", "fpr_at_95_tpr", "threshold")
        }
        metrics: dict[str, float] = {
            name: float(getattr(self.pooled, name)) for name in ("anomalous", "inliers", "below", "above")
        }
        metrics["images"] = float(self.images)
        if self.open_set is not None:
            metrics["closed_miou"] = self.open_set.closed_miou
            bounded |= {
                "open_miou": self.open_set.open_miou,
                "open_set_gap": self.open_set.gap,
                "anomaly_iou": self.open_set.anomaly_iou,
            }
        for name, figure in bounded.items():
            metrics |= {name: figure.value, f"{name}_bound": figure.error}
        if self.per_image is not None:
            for name, value in vars(self.per_image).items():
                if value is not None:
                    metrics[f"per_image_{name}"] = float(value)
        return metrics


class SceneCounts(NamedTuple):
    """What is kept of one scene: its fold, the cells [C] that it fills and how often [C] (cell = (class * 3 + kind) *
    bins + bin), and its labelled inlier pixels by class [K].
    """

    fold: int
    cells: NDArray[np.int32]
    pixels: NDArray[np.int32]
    labelled: Counts


class SceneFigures:
    """Collects scenes in batches; `summary` may be asked for at any time.

    Adding does not wait for the device, except with `keep_scenes` or `per_image` (whose figures are exact: each image
    is sorted by itself).
    """

    def __init__(
        self,
        num_classes: int,
        bins: Bins,
        *,
        device: torch.device | str = "cpu",
        tpr: float = 0.95,
        strict: bool = True,
        keep_scenes: bool = False,
        per_image: bool = False,
    ) -> None:
        """Of `num_classes` known classes; bins, `tpr` and `strict` as in `streaming` and `pixels`. Raises BadInput."""
        check_recall(tpr, strict)
        if num_classes < 1:
            raise BadInput("scenes need known classes", seen=num_classes, next_step="pass the number of known classes")
        self.num_classes, self.bins, self.tpr, self.strict = num_classes, bins, tpr, strict
        self.counts = torch.zeros(2, num_classes * 3 * bins.count, dtype=torch.int64, device=device)
        self.labelled = torch.zeros(2, num_classes, dtype=torch.int64, device=device)
        self.half = torch.zeros(2, bins.count, dtype=torch.int64, device=device)  # anomalous pixels at half size
        self.strays = torch.zeros((), dtype=torch.int64, device=device)
        self.images = [0, 0]
        self.watch = RangeWatch(bins, device)
        self.scenes: list[SceneCounts] | None = [] if keep_scenes else None
        self.mean = PerImageMean(tpr=tpr, strict=strict) if per_image else None

    def add(
        self, scores: Tensor, classes: Tensor, labels: Tensor, anomaly: Tensor, fold: int | Sequence[int] = 0
    ) -> None:
        """One batch on this object's device.

        Args:
            scores: raw float [B,H,W], higher is more anomalous.
            classes: integer [B,H,W], the likeliest known class of each pixel, anomalous or not.
            labels: uint8 [B,H,W], a known class, or VOID (255) for a pixel that is in no figure.
            anomaly: bool [B,H,W]; an anomalous pixel counts as such whatever its label.
            fold: 0 or 1 ("town"), of the batch or of each image.

        Raises:
            BadInput: other shapes, types or folds. Labels, classes and scores outside their range: from `summary`.
        """
        scene = Scene(scores.detach(), classes, labels, anomaly)
        check_scene(scene)
        size = scores.shape[0]
        folds = [fold] * size if isinstance(fold, int) else list(fold)
        if len(folds) != size or not set(folds) <= {0, 1}:
            raise BadInput("each image is in fold 0 or 1", seen=(fold, size), next_step="pass one fold an image")
        for number in sorted(set(folds)):
            chosen = [place for place, own in enumerate(folds) if own == number]
            part = scene if len(chosen) == size else Scene(*(tensor[chosen] for tensor in scene))
            self._add_fold(part, number)

    def _add_fold(self, scene: Scene, fold: int) -> None:
        ids = open_ids(scene.labels, scene.anomaly, self.num_classes)
        kept = ids <= self.num_classes
        strays = stray_pixels(scene, self.num_classes)
        self.strays += strays.sum()
        self.watch.add(scene.scores, kept)
        kept = kept & ~strays  # refused in the end; until then they must not fall into other cells
        classes = scene.classes.long()
        kind = torch.where(ids == self.num_classes, ANOMALOUS, torch.where(ids == classes, RIGHT, WRONG))
        cells = (classes * 3 + kind) * self.bins.count + self.bins.of(scene.scores)
        count_cells(self.counts[fold], cells, kept)
        inlier = kept & (ids < self.num_classes)
        count_cells(self.labelled[fold], ids, inlier)
        small, small_ids = half_size(scene.scores, ids, self.num_classes)
        count_cells(self.half[fold], self.bins.of(small), small_ids == self.num_classes)
        self.images[fold] += ids.shape[0]
        for place in range(ids.shape[0]):
            chosen = kept[place]
            if self.scenes is not None:
                found, pixels = torch.unique(cells[place][chosen], return_counts=True)
                labelled = torch.bincount(ids[place][inlier[place]], minlength=self.num_classes)
                self.scenes.append(
                    SceneCounts(fold, found.int().cpu().numpy(), pixels.int().cpu().numpy(), labelled.cpu().numpy())
                )
            if self.mean is not None:
                self.mean.add_pixels(scene.scores[place][chosen], scene.anomaly[place][chosen])

    def summary(self) -> SceneSummary:
        """Figures of all scenes so far. Waits for the device.

        Raises:
            BadInput: labels or classes outside the known ones, no anomalous pixel, or no inlier.
            NotFinite: a score was not finite on a pixel that is not void.
        """
        if strays := int(self.strays):
            raise stray_error(strays, self.num_classes)
        table = self.table()
        pooled = table.sum((0, 1))  # (3, bins)
        found = binned_figures(
            pooled[ANOMALOUS], pooled[RIGHT] + pooled[WRONG], self.watch, tpr=self.tpr, strict=self.strict
        )
        cuts = self.cuts()
        opened = None if cuts is None else self._open_set(table, cuts)
        mean = None if self.mean is None else self.mean.figures()
        return SceneSummary(sum(self.images), found, opened, NO_OPEN_SET if opened is None else None, mean)

    def table(self) -> Counts:
        """Pixels int64 [2,K,3,bins] by fold, predicted class, kind (RIGHT, WRONG, ANOMALOUS) and bin."""
        return np.asarray(self.counts.view(2, self.num_classes, 3, -1).cpu().numpy(), dtype=np.int64)

    def cuts(self) -> tuple[int, int] | None:
        """Bin from which on upwards pixels of fold 0 and 1 are rejected: each fitted on the other. None
        without a fit.
        """
        half, labelled = self.half.cpu().numpy(), self.labelled.cpu().numpy()
        if not (half.any(1).all() and labelled.any(1).all()):
            return None
        return passing_bin(half[1], self.tpr, self.strict), passing_bin(half[0], self.tpr, self.strict)

    def _open_set(self, table: Counts, cuts: tuple[int, int]) -> StreamedOpenSet:
        labelled = self.labelled.cpu().numpy()
        value, low, high = (
            [self._fold(table[fold], labelled[fold], cuts[fold], fold, ends) for fold in (0, 1)]
            for ends in ((0, 0), (0, 1), (1, 0))
        )
        best, least, most = (weighted_by_images(*folds) for folds in (value, low, high))
        return StreamedOpenSet(
            open_miou=Bounded(best.open_miou, least.open_miou, most.open_miou),
            closed_miou=best.closed_miou,
            gap=Bounded(best.gap, most.gap, least.gap),
            anomaly_iou=Bounded(best.anomaly_iou, least.anomaly_iou, most.anomaly_iou),
            folds=best.folds,
        )

    def _fold(self, table: Counts, labelled: Counts, cut: int, fold: int, ends: tuple[int, int]) -> FoldFigures:
        """Figures of a fold [K,3,bins]. The bin `cut` itself may in truth be accepted or not: `ends` says for how many
        bins more than those below it hits and false positives are accepted.
        """
        total = table.sum(-1)
        hits, false = (table[..., : cut + more].sum(-1) for more in ends)
        accepted = np.stack([hits[:, RIGHT], false[:, WRONG], false[:, ANOMALOUS]], axis=-1)
        # of anomaly, a hit is a rejected pixel: the bound of its hits is the accepted bound of the false positives
        rejected = total - np.stack([hits[:, RIGHT], hits[:, WRONG], false[:, ANOMALOUS]], axis=-1)
        opened, closed = open_iou(accepted, labelled), closed_iou(total, labelled)
        return FoldFigures(
            self.images[fold],
            self.bins.edge(cut),
            float(np.nanmean(opened)),
            float(np.nanmean(closed)),
            float(anomaly_iou(rejected, total)),
            tuple(opened.tolist()),
            tuple(closed.tolist()),
        )


def open_iou(accepted: Counts, labelled: Counts) -> Floats:
    """IoU [...,K] of the known classes, of accepted pixels [...,K,3] and labelled inlier pixels [...,K]; NaN if in
    neither.
    """
    return iou(accepted[..., RIGHT], labelled + accepted[..., WRONG] + accepted[..., ANOMALOUS])


def closed_iou(total: Counts, labelled: Counts) -> Floats:
    """As :func:`open_iou` without rejection and without anomalous pixels; `total` [...,K,3] are all pixels."""
    return iou(total[..., RIGHT], labelled + total[..., WRONG])


def anomaly_iou(rejected: Counts, total: Counts) -> Floats:
    """IoU [...] of anomaly, of rejected and all pixels [...,K,3]."""
    return iou(
        rejected[..., ANOMALOUS].sum(-1), total[..., ANOMALOUS].sum(-1) + rejected[..., :ANOMALOUS].sum((-1, -2))
    )
