"""Rank metrics of raw anomaly scores: AUROC, average precision, FPR at a recall, and the share of tied pairs.

Every formula reads one table: how many anomalies and normals have each distinct score, from the highest score down.
The same formulas therefore serve the test set itself and, with a leading axis, thousands of resamples of it. Scores are
taken as float64 and never clamped, squashed or rescaled: a sigmoid makes distances of size 50 equal, and an AUROC .5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Figure = Callable[[Counts, Counts], Floats]


@dataclass(frozen=True)
class Ranked:
    """A checked set of scores with two classes.

    `levels` [K] are the distinct scores, highest first; `level_of` [N] is the index into them of each image;
    `is_anomaly` [N] is the label.
    """

    levels: Floats
    level_of: Counts
    is_anomaly: NDArray[np.bool_]

    def table(self) -> tuple[Counts, Counts]:
        """Anomalies [K] and normals [K] at each distinct score, highest first."""
        size = self.levels.size
        return (
            np.bincount(self.level_of[self.is_anomaly], minlength=size),
            np.bincount(self.level_of[~self.is_anomaly], minlength=size),
        )


def finite_scores(scores: ArrayLike) -> Floats:
    """Scores as float64, any shape. Raises BadInput when one is not finite, or there is none."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise BadInput("a metric needs scores", seen="0 scores", next_step="look at the split that was scored")
    if not np.isfinite(values).all():
        odd = values[~np.isfinite(values)]
        raise BadInput(
            "scores must be finite numbers",
            seen=f"{odd.size} of {values.size}, e.g. {odd.flat[0]}",
            next_step="look at the images or the weights that gave them",
        )
    return values


def rank(scores: ArrayLike, labels: ArrayLike) -> Ranked:
    """Check scores [N] and labels [N] (0 normal, 1 anomalous) and group equal scores.

    Raises:
        BadInput: other shapes, other labels, a score that is not finite, or one class only.
    """
    values, marks = finite_scores(scores), np.asarray(labels)
    if values.ndim != 1 or marks.shape != values.shape:
        raise BadInput(
            "scores and labels must be two vectors of one length",
            seen=(values.shape, marks.shape),
            next_step="pass one score and one label an image",
        )
    if not np.isin(marks, (0, 1)).all():
        raise BadInput(
            "labels must be 0 (normal) or 1 (anomalous)",
            seen=np.unique(marks)[:5].tolist(),
            next_step="leave out images whose label is unknown",
        )
    is_anomaly = marks.astype(np.bool_)
    anomalies = int(is_anomaly.sum())
    if anomalies in (0, marks.size):
        raise BadInput(
            "a rank metric needs normals and anomalies",
            seen=f"{marks.size - anomalies} normals and {anomalies} anomalies",
            next_step="evaluate on a split that holds both",
        )
    levels, level_of = np.unique(-values, return_inverse=True)
    return Ranked(-levels, level_of.astype(np.int64), is_anomaly)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Chance that an anomaly scores above a normal, ties counting one half (Mann-Whitney U / nm). Raises BadInput.

    >>> auroc([1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1])
    0.875
    """
    return float(auroc_of(*rank(scores, labels).table()))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum of (recall step x precision) over distinct scores, no interpolation. Raises BadInput.

    Depends on the share of anomalies in the set: compare it only between detectors on the same images.
    """
    return float(average_precision_of(*rank(scores, labels).table()))


def fpr_at_tpr(scores: ArrayLike, labels: ArrayLike, tpr: float = 0.95) -> float:
    """Smallest share of normals flagged by any cut that flags at least `tpr` of the anomalies. Raises BadInput."""
    if not 0.0 < tpr <= 1.0:
        raise BadInput("a recall lies in (0, 1]", seen=tpr, next_step="pass e.g. 0.95")
    return float(fpr_at_tpr_of(*rank(scores, labels).table(), tpr=tpr))


def tied_share(scores: ArrayLike, labels: ArrayLike | None = None) -> float:
    """Share of pairs with equal scores: of all pairs, or with labels of (anomaly, normal) pairs only.

    The second is what AUROC rests on: breaking its ties one way or the other moves AUROC by at most +-share/2.
    One score alone has no pair: 0. Raises BadInput.

    >>> tied_share([1.0, 2.0, 2.0]), tied_share([1.0, 2.0, 2.0], [0, 1, 1])
    (0.3333333333333333, 0.0)
    """
    if labels is not None:
        return float(tied_share_of(*rank(scores, labels).table()))
    values = finite_scores(scores).ravel()
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    pairs = values.size * (values.size - 1)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


def auroc_of(anomalies: Counts, normals: Counts) -> Floats:
    """AUROC of tables [..., K], highest score first."""
    below = normals.sum(-1, keepdims=True) - normals.cumsum(-1)  # normals under each level
    wins = (anomalies * (below + 0.5 * normals)).sum(-1)
    return np.asarray(wins / (anomalies.sum(-1) * normals.sum(-1)), dtype=np.float64)


def tied_share_of(anomalies: Counts, normals: Counts) -> Floats:
    """Share of (anomaly, normal) pairs with equal scores, of tables [..., K]."""
    return np.asarray((anomalies * normals).sum(-1) / (anomalies.sum(-1) * normals.sum(-1)), dtype=np.float64)


def average_precision_of(anomalies: Counts, normals: Counts) -> Floats:
    """Average precision of tables [..., K], highest score first."""
    flagged = anomalies.cumsum(-1)
    total = flagged + normals.cumsum(-1)
    precision = flagged / np.maximum(total, 1)  # a resample may leave the first levels empty
    return np.asarray((anomalies * precision).sum(-1) / anomalies.sum(-1), dtype=np.float64)


def fpr_at_tpr_of(anomalies: Counts, normals: Counts, tpr: float = 0.95, strict: bool = False) -> Floats:
    """False-positive rate at the first level whose recall reaches `tpr`, or passes it (`strict`), of tables
    [..., K].
    """
    recall = anomalies.cumsum(-1) / anomalies.sum(-1, keepdims=True)
    reached = recall > tpr if strict else recall >= tpr - 1e-12  # 19/20 must count as .95
    first = reached.argmax(-1)[..., None]
    alarms = np.take_along_axis(normals.cumsum(-1), first, -1)[..., 0]
    return np.asarray(alarms / normals.sum(-1), dtype=np.float64)


def tpr_at_fpr_of(anomalies: Counts, normals: Counts, fpr: Floats) -> Floats:
    """Recall [..., G] at each false-positive rate of `fpr` [G], on the ROC polygon of tables [..., K].

    The polygon joins the points of neighbouring levels by straight lines (the trapezoid whose area is the AUROC);
    where it rises at one FPR, its upper end is taken.
    """
    recall = np.atleast_2d(anomalies.cumsum(-1) / anomalies.sum(-1, keepdims=True))
    alarms = np.atleast_2d(normals.cumsum(-1) / normals.sum(-1, keepdims=True))
    rows = [_upper_polygon(x, y, fpr) for x, y in zip(alarms, recall, strict=True)]
    return np.asarray(np.stack(rows).reshape(*anomalies.shape[:-1], fpr.size), dtype=np.float64)


def _upper_polygon(alarms: Floats, recall: Floats, fpr: Floats) -> Floats:
    last = np.append(alarms[1:] > alarms[:-1], True)  # the upper end of each vertical piece
    x, y = alarms[last], recall[last]
    return np.asarray(np.interp(fpr, np.append(0.0, x), np.append(y[0] if x[0] == 0.0 else 0.0, y)), dtype=np.float64)


FIGURES: dict[str, Figure] = {
    "auroc": auroc_of,
    "average_precision": average_precision_of,
    "fpr_at_95_tpr": partial(fpr_at_tpr_of, tpr=0.95),
}
