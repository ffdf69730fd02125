"""One evaluation of a detector on labelled images: the figures, how sure they are, and a refusal to print wrong ones.

The formulas are in `ranks.py`, the intervals and paired tests in `intervals.py`; both are offered here too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput
from xadflow.metrics.intervals import (
    Interval,
    PairedTest,
    Rate,
    bootstrap_interval,
    delong_paired,
    paired_bootstrap,
    wilson_rate,
)
from xadflow.metrics.ranks import (
    Ranked,
    auroc,
    average_precision,
    finite_scores,
    fpr_at_tpr,
    rank,
    tied_share,
    tied_share_of,
)

__all__ = [
    "MAX_TIED_SHARE",
    "DetectionSummary",
    "Interval",
    "PairedTest",
    "Rate",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "delong_paired",
    "fpr_at_tpr",
    "paired_bootstrap",
    "rates_at",
    "summarise_detection",
    "tied_share",
    "wilson_rate",
]

# Ties of this share of the (anomaly, normal) pairs can move AUROC by +-.01, the default gate's own tolerance. Float
# scores of different images do not tie; more than this means that something saturated, rounded or squashed them.
MAX_TIED_SHARE = 0.02


@dataclass(frozen=True)
class DetectionSummary:
    """How well raw scores separate labelled normals from anomalies.

    `auroc_low`, `auroc_high`: 95 % bootstrap over test images. `n_unique` distinct scores; `tied_share` of (anomaly,
    normal) pairs. `recall` and `false_alarm_rate` at `threshold` (score > threshold) are None without one. `by_defect`:
    AUROC of that defect's anomalies against all normals; `by_category`: AUROC inside the category; both only where
    there are both classes.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    average_precision: float
    fpr_at_95_tpr: float
    normals: int
    anomalies: int
    n_unique: int
    tied_share: float
    threshold: float | None
    recall: Rate | None
    false_alarm_rate: Rate | None
    by_defect: Mapping[str, float]
    by_category: Mapping[str, float]

    def as_metrics(self) -> dict[str, float]:
        """Every finite figure under a flat name that MLflow accepts, e.g. `auroc`, `recall_low`, `auroc_defect.crack`.

        Other characters than letters, digits, `_`, `-`, `.` become `_`; names that meet so get `_2`, `_3`.
        """
        metrics = {
            name: float(getattr(self, name))
            for name in (
                "auroc",
                "auroc_low",
                "auroc_high",
                "average_precision",
                "fpr_at_95_tpr",
                "normals",
                "anomalies",
                "n_unique",
                "tied_share",
            )
        }
        if self.threshold is not None:
            metrics["threshold"] = self.threshold
        for name, rate in (("recall", self.recall), ("false_alarm_rate", self.false_alarm_rate)):
            if rate is not None:
                metrics |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
        for kind, parts in (("defect", self.by_defect), ("category", self.by_category)):
            for part, value in parts.items():
                metrics[_free(f"auroc_{kind}.{_plain(part)}", metrics)] = value
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


def summarise_detection(
    scores: ArrayLike,
    labels: ArrayLike,
    threshold: float | None = None,
    *,
    defects: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
    seed: int = 0,
    bootstrap: int = 2000,
    max_tied_share: float = MAX_TIED_SHARE,
) -> DetectionSummary:
    """Evaluate raw scores [N] against labels [N] (0 normal, 1 anomalous).

    Args:
        threshold: a raw cut fixed before these images were seen, from held-out normals.
        defects: [N], name of each anomaly's defect; entries of normals are not read.
        categories: [N], name of each image's category (product, cell type); None for none.
        max_tied_share: share of tied (anomaly, normal) pairs above which the figures are refused.

    Many parameters: what images are known by, and how their interval is drawn; all but the first two are optional.

    Raises:
        BadInput: one class only, a score that is not finite, lengths that differ, or too many ties: the scores were
            clamped, rounded or squashed on the way and no rank figure of them can be trusted.
    """
    ranked = rank(scores, labels)
    values, is_anomaly = finite_scores(scores), ranked.is_anomaly
    ties = tolerable_ties(ranked, max_tied_share)
    interval = bootstrap_interval(values, is_anomaly, bootstrap=bootstrap, seed=seed)
    return DetectionSummary(
        auroc=auroc(values, is_anomaly),
        auroc_low=interval.low,
        auroc_high=interval.high,
        average_precision=average_precision(values, is_anomaly),
        fpr_at_95_tpr=fpr_at_tpr(values, is_anomaly),
        normals=int((~is_anomaly).sum()),
        anomalies=int(is_anomaly.sum()),
        n_unique=ranked.levels.size,
        tied_share=ties,
        threshold=threshold,
        recall=None if threshold is None else _share_above(values[is_anomaly], threshold),
        false_alarm_rate=None if threshold is None else _share_above(values[~is_anomaly], threshold),
        by_defect=_auroc_of_parts(values, is_anomaly, defects, against_all_normals=True),
        by_category=_auroc_of_parts(values, is_anomaly, categories, against_all_normals=False),
    )


def rates_at(threshold: float, scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """What images of one class alone tell, under the names of :meth:`DetectionSummary.as_metrics`.

    Counts of `normals` and `anomalies`, and of the class that is there the share above the threshold with its interval.
    """
    values, is_anomaly = finite_scores(scores), np.asarray(labels) == 1
    found = {"normals": float((~is_anomaly).sum()), "anomalies": float(is_anomaly.sum()), "threshold": threshold}
    for name, chosen in (("recall", is_anomaly), ("false_alarm_rate", ~is_anomaly)):
        if chosen.any():
            rate = _share_above(values[chosen], threshold)
            found |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
    return found


def tolerable_ties(ranked: Ranked, limit: float) -> float:
    """Share of (anomaly, normal) pairs that are tied. Raises BadInput when it is above `limit`."""
    anomalies, normals = ranked.table()
    share = float(tied_share_of(anomalies, normals))
    if share > limit:
        raise BadInput(
            f"more than {limit:g} of the (anomaly, normal) pairs have equal scores, so a rank metric would be wrong",
            seen=f"{share:.3f} tied, {ranked.levels.size} distinct of {ranked.level_of.size}",
            next_step="pass raw scores: no sigmoid, clamp, min-max or rounding before the metric",
        )
    return share


def _share_above(values: NDArray[np.float64], threshold: float) -> Rate:
    return wilson_rate(int((values > threshold).sum()), values.size)


def _auroc_of_parts(
    values: NDArray[np.float64],
    is_anomaly: NDArray[np.bool_],
    parts: Sequence[str | None] | None,
    *,
    against_all_normals: bool,
) -> dict[str, float]:
    if parts is None:
        return {}
    if len(parts) != values.size:
        raise BadInput("one name an image is needed", seen=(len(parts), values.size), next_step="use None for no name")
    named = np.array([name or "" for name in parts], dtype=np.str_)
    figures = {}
    for name in np.unique(named[is_anomaly & (named != "")]).tolist():
        chosen = (named == name) & is_anomaly
        chosen |= ~is_anomaly if against_all_normals else named == name
        if not is_anomaly[chosen].all():
            figures[str(name)] = auroc(values[chosen], is_anomaly[chosen])
    return figures


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] or "_"


def _free(name: str, taken: Mapping[str, float]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
