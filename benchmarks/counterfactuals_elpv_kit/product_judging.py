"""Figures of the product's explainers on real defects: `made` uint8 [N,K,C,H,W] of `originals` uint8 [N,C,H,W]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit.judging import by_judge, features_of, gap, kernel_share, scores_of_made, union, worst_pairs
from xadflow.detectors.base import Detector
from xadflow.metrics.realism import normalised_frechet

if TYPE_CHECKING:
    from benchmarks.counterfactuals_elpv_kit.product import Cells

GENERATOR = "diverse"
HALVES = 100  # halves of the images that an interval of a Frechet distance is drawn from
CHANGED = 2  # grey levels of 255 that a changed pixel differs by, and more
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def figures_of(originals: Pixels, made: Pixels, detector: Detector, judge: Detector, normals: Pixels) -> dict[str, Any]:
    """Figures that the gate asks for, transfer to the judge, and how much is changed; `normals` are for the
    distances.
    """
    own = scores_of_made(detector, made) <= detector.calibration.threshold
    judged = by_judge(judge, originals, made)
    features = features_of(union(made)), features_of(normals), features_of(originals)
    return {
        "share_normal": own.mean(axis=0).tolist(),
        "transfer": float(np.nanmean(judged["transfer"])),
        "drop": float(np.nanmean(judged["drop"])),
        "judge_flagged": int(np.isfinite(judged["drop"]).sum()),
        "frechet": normalised_frechet(*features),
        "kid": kernel_share(*features),
        "changed": float((np.abs(made.astype(np.int64) - originals[:, None]) > CHANGED).any(axis=2).mean()),
        **worst_pairs(originals, made),
    }


def change_of_normals(kept: Pixels, normals: Pixels, made: Pixels, originals: Pixels) -> dict[str, float]:
    """Mean |change| of normals, as a share of that of the anomalies."""
    return {"change_of_normals": _change(kept, normals) / max(_change(made, originals), 1e-9)}


def share_interval(judge: Detector, each: Sequence[tuple[Pixels, Pixels]]) -> dict[str, Any]:
    """Transfer with its interval over seeds and images; images of different seeds count as different ones."""
    values = [by_judge(judge, originals, made)["transfer"] for originals, made in each]
    table = np.full((len(values), max(map(len, values))), np.nan)
    for row, one in enumerate(values):
        table[row, : len(one)] = one
    return gap(table)


def frechet_interval(each: Sequence[tuple[Pixels, Pixels]], cells: Cells, halves: int = HALVES) -> dict[str, float]:
    """Normalised Frechet distance, mean of the seeds, and 1.96 standard deviations over random halves of the images.

    A bootstrap would count images twice, which shrinks a covariance; the spread over halves drawn without replacement
    is that of the whole set's estimate (delete-half jackknife). The normals stay as they are.
    """
    normals = features_of(cells.test[cells.labels == 0])
    features = [(features_of(union(made)), features_of(originals)) for originals, made in each]
    value = float(np.mean([normalised_frechet(made, normals, anomalies) for made, anomalies in features]))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(halves):
        found = []
        for made, anomalies in features:
            rows = rng.permutation(len(made))[: max(2, len(made) // 2)]
            found.append(normalised_frechet(made[rows], normals, anomalies[rows]))
        drawn.append(np.mean(found))
    spread = 1.96 * float(np.std(drawn))
    return {"value": value, "low": value - spread, "high": value + spread}


def _change(made: Pixels, originals: Pixels) -> float:
    return float(np.abs(made.astype(np.float64) - originals[:, None]).mean() / 255.0)
