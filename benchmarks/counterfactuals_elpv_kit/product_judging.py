"""Figures of the product's explainers on real defects: `made` uint8 [N,K,C,H,W] of `originals` uint8 [N,C,H,W]."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.judging import by_judge, features_of, gap
from benchmarks.counterfactuals_elpv_kit.training import scores_of
from xadflow.detectors.base import Detector
from xadflow.metrics.realism import kernel_distance, normalised_frechet

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
    count, concepts = made.shape[:2]
    own = (
        scores_of(detector, made.reshape(-1, *made.shape[2:])).reshape(count, concepts)
        <= detector.calibration.threshold
    )
    judged = by_judge(judge, originals, made)
    features = features_of(union(made)), features_of(normals), features_of(originals)
    return {
        "share_normal": own.mean(axis=0).tolist(),
        "transfer": float(np.nanmean(judged["transfer"])),
        "drop": float(np.nanmean(judged["drop"])),
        "judge_flagged": int(np.isfinite(judged["drop"]).sum()),
        "frechet": normalised_frechet(*features),
        "kid": 100.0 * kernel_distance(*features[:2]) / kernel_distance(features[2], features[1]),
        "changed": float((np.abs(made.astype(np.int64) - originals[:, None]) > CHANGED).any(axis=2).mean()),
        **_between(originals, made),
    }


def change_of_normals(kept: Pixels, normals: Pixels, made: Pixels, originals: Pixels) -> dict[str, float]:
    """Mean |change| of normals, as a share of that of the anomalies."""
    return {"change_of_normals": _change(kept, normals) / max(_change(made, originals), 1e-9)}


def union(made: Pixels) -> Pixels:
    """One alternative an image in turn, so that all sets of a distance have about one size."""
    return made[np.arange(len(made)), np.arange(len(made)) % made.shape[1]]


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


def _between(originals: Pixels, made: Pixels) -> dict[str, float]:
    """`likeness`: largest cosine of two edits, `apart`: least mean |difference| of two alternatives; means
    over images.
    """
    if made.shape[1] < 2:
        return {}
    values = made.reshape(*made.shape[:2], -1).astype(np.float64) / 255.0
    edits = values - originals.reshape(len(originals), 1, -1) / 255.0
    pairs = list(combinations(range(made.shape[1]), 2))
    norms = np.linalg.norm(edits, axis=2)
    cosines = np.stack(
        [(edits[:, a] * edits[:, b]).sum(axis=1) / np.maximum(norms[:, a] * norms[:, b], 1e-12) for a, b in pairs]
    )
    apart = np.stack([np.abs(values[:, a] - values[:, b]).mean(axis=1) for a, b in pairs])
    return {"likeness": float(cosines.max(axis=0).mean()), "apart": float(apart.min(axis=0).mean())}


def _change(made: Pixels, originals: Pixels) -> float:
    return float(np.abs(made.astype(np.float64) - originals[:, None]).mean() / 255.0)
