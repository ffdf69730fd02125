"""Figures of anomalous regions rather than pixels, as SegmentMeIfYouCan defines them: sIoU, PPV and F1.

A component is a set of flagged (or labelled) pixels that touch, corners included. Let K be the labelled components of
an image and K' the predicted ones.

- sIoU of a labelled component k: |k and k'| / |(k or k') without A|, where k' is the union of all predicted components
  that touch k, and A the pixels of the other labelled components: one blob over two anomalies is not punished twice.
- PPV of a predicted component: the share of its pixels that are labelled anomalous.
- F1 at t: 2 TP / (2 TP + FN + FP). A labelled component is found (TP) with sIoU >= t, else missed (FN); a predicted one
  is false (FP) with PPV < t. Counts are summed over the set; the figure is the mean over t = .25, .30, ... .75.

Ignored pixels are in no component and in no count. Predicted components smaller than `min_predicted_px` are dropped.
Labelled ones smaller than `min_labelled_px` are ignored, with what is predicted on them: neither missed nor found.
As published: 500 and 100 px on RoadAnomaly21, 50 and 10 on RoadObstacle21, with the threshold of the best pixel F1
(fitted on the same images: say so where you do that).

Source: Chan et al., "SegmentMeIfYouCan", NeurIPS Datasets 2021 (arXiv 2104.14812), section 3.2; sizes, the cuts at
equality (the paper's text calls sIoU > t found) and the order of the steps as in their package road_anomaly_benchmark,
whose formulas are written anew here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from xadflow.errors import BadInput
from xadflow.metrics.ranks import Floats

CUTS = tuple(step / 100 for step in range(25, 80, 5))  # .25, .30, ... .75
TOUCHING = np.ones((3, 3), dtype=np.int64)  # corners included


@dataclass(frozen=True)
class ComponentFigures:
    """Figures of a set. `siou`: mean over its labelled components, None without one; `ppv`: over its predicted
    components.

    `f1`: mean over the cuts, None with neither. `f1_by_cut` has them one by one.
    """

    siou: float | None
    ppv: float | None
    f1: float | None
    f1_by_cut: tuple[float, ...]
    labelled: int
    predicted: int


@dataclass
class Components:
    """Collects the components of images, one at a time; keeps one number for each component."""

    min_predicted_px: int = 0
    min_labelled_px: int = 0
    siou: list[float] = field(default_factory=list)
    ppv: list[float] = field(default_factory=list)

    def add(
        self, flagged: NDArray[np.bool_], anomaly: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None
    ) -> None:
        """One image: bool [H,W] of flagged pixels, anomalous pixels and ignored pixels. Raises BadInput for others."""
        siou, ppv = component_overlaps(
            flagged, anomaly, ignored, min_predicted_px=self.min_predicted_px, min_labelled_px=self.min_labelled_px
        )
        self.siou += siou.tolist()
        self.ppv += ppv.tolist()

    def figures(self) -> ComponentFigures:
        """Figures of all images so far."""
        siou, ppv = np.array(self.siou), np.array(self.ppv)
        by_cut: tuple[float, ...] = ()
        if siou.size + ppv.size:
            found = [int((siou >= cut).sum()) for cut in CUTS]
            false = [int((ppv < cut).sum()) for cut in CUTS]
            missed = [siou.size - hits for hits in found]
            by_cut = tuple(2 * tp / (2 * tp + fn + fp) for tp, fn, fp in zip(found, missed, false, strict=True))
        return ComponentFigures(
            siou=float(siou.mean()) if siou.size else None,
            ppv=float(ppv.mean()) if ppv.size else None,
            f1=float(np.mean(by_cut)) if by_cut else None,
            f1_by_cut=by_cut,
            labelled=siou.size,
            predicted=ppv.size,
        )


def component_overlaps(
    flagged: NDArray[np.bool_],
    anomaly: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None = None,
    *,
    min_predicted_px: int = 0,
    min_labelled_px: int = 0,
) -> tuple[Floats, Floats]:
    """sIoU of each labelled and PPV of each predicted component of one image, bool [H,W]; either may be empty.

    Raises:
        BadInput: masks that are not bool [H,W] of one shape.
    """
    void = np.zeros_like(anomaly) if ignored is None else ignored
    if not (
        flagged.ndim == 2
        and flagged.shape == anomaly.shape == void.shape
        and flagged.dtype == anomaly.dtype == void.dtype == np.bool_
    ):
        raise BadInput(
            "components need bool masks [H,W] of one shape",
            seen=[(mask.shape, str(mask.dtype)) for mask in (flagged, anomaly, void)],
            next_step="cut the map at a threshold, image by image",
        )
    labelled, predicted = _components(anomaly & ~void), _components(flagged & ~void)
    predicted[np.bincount(predicted.ravel())[predicted] < min_predicted_px] = 0
    small = (labelled > 0) & (np.bincount(labelled.ravel())[labelled] < min_labelled_px)
    counted = ~(void | small)
    return _overlaps(labelled[counted], predicted[counted])


def _components(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the component of each pixel, 0 for none."""
    return np.asarray(ndimage.label(mask, structure=TOUCHING)[0], dtype=np.int64)


def _overlaps(labelled: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """sIoU and PPV from component numbers [P] of each pixel, 0 for none."""
    width = int(predicted.max(initial=0)) + 1
    pairs, shared = np.unique(labelled * width + predicted, return_counts=True)
    one, other = pairs // width, pairs % width  # the labelled and the predicted number of each pair that meets
    area_labelled = np.bincount(one, shared)
    area_predicted = np.bincount(other, shared, minlength=width)
    both = (one > 0) & (other > 0)
    on_labels = np.bincount(other[both], shared[both], minlength=width)  # px of each prediction on any label
    meets = np.bincount(one[both], shared[both], minlength=area_labelled.size)
    # Of the predictions that touch k: px outside every label, then k itself. The rest of them is A, left out of the
    # union.
    outside = np.bincount(one[both], (area_predicted - on_labels)[other[both]], minlength=area_labelled.size)
    siou = meets / np.maximum(area_labelled + outside, 1)
    ppv = on_labels / np.maximum(area_predicted, 1)
    return siou[1:][area_labelled[1:] > 0], ppv[1:][area_predicted[1:] > 0]
