"""Figures of counterfactuals of ELPV's defects: `made` uint8 [N,K,1,64,64] of `originals` uint8 [N,1,64,64]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.cells import cells
from benchmarks.kit.judging import (
    attacked_scores,
    by_judge,
    features_of,
    kernel_share,
    normality,
    scores_of,
    scores_of_made,
    union,
)
from xadflow.detectors.base import Detector
from xadflow.metrics.explanation import flip_rate, l1_l2_changed
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import normalised_frechet

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
ATTACKED = 200


def figures_of(
    originals: Pixels,
    made: Pixels,
    explained: Detector,
    judges: Mapping[str, Detector],
    references: tuple[Floats, Floats],
) -> dict[str, Any]:
    """All figures of one explainer, one twin and one seed; `references` are features of test normals and of
    `originals`.
    """
    normals = cells().normals
    own = scores_of_made(explained, made) <= explained.calibration.threshold
    sizes = np.array(
        [[l1_l2_changed(original, one) for one in row] for original, row in zip(originals, made, strict=True)]
    )
    l1, l2, changed = sizes.reshape(-1, 3).mean(axis=0)
    brighter = float((made.mean(dtype=np.float64) - originals.mean(dtype=np.float64)) / 255)
    features = (features_of(union(made)), *references)
    found = {
        "flipped": flip_rate(own),
        "l1": float(l1),
        "l2": float(l2),
        "changed_fraction": float(changed),
        "brighter": brighter,
        "normality": normality(scores_of(explained, normals), scores_of_made(explained, made).ravel()),
        "fid_n": normalised_frechet(*features),
        "kid_n": kernel_share(*features),
        "judges": {},
    }
    for name, judge in judges.items():
        each = by_judge(judge, originals, made)
        agreed = np.where(
            np.isfinite(each["drop"])[:, None], scores_of_made(judge, made) <= judge.calibration.threshold, np.nan
        )
        found["judges"][name] = {
            "transfer": float(np.nanmean(each["transfer"])),
            "drop": float(np.nanmean(each["drop"])),
            "flagged": int(np.isfinite(each["drop"]).sum()),
            "transfer_of_flipped": float(np.nanmean(agreed[own])) if np.isfinite(agreed[own]).any() else None,
            "normality": normality(scores_of(judge, normals), scores_of_made(judge, made).ravel()),
        }
    return found


def detector_figures(detector: Detector, radius: float) -> dict[str, float]:
    """AUROC on the test images as they are, and on the first of each class moved against it by at most
    `radius` in l2.
    """
    images = cells()
    normals, defects = images.normals[:ATTACKED], images.defects[:ATTACKED]
    labels = np.repeat([0, 1], [len(normals), len(defects)])
    clean = [scores_of(detector, one) for one in (normals, defects)]
    moved = [attacked_scores(detector, normals, radius, -1.0), attacked_scores(detector, defects, radius, 1.0)]
    scores = scores_of(detector, images.test)
    flagged = scores > detector.calibration.threshold
    return {
        "auroc": auroc(scores, images.labels),
        "auroc_of_attacked_images": auroc(np.concatenate(clean), labels),
        "auroc_attacked": auroc(np.concatenate(moved), labels),
        "flagged_defects": float(flagged[images.labels == 1].mean()),
        "flagged_normals": float(flagged[images.labels == 0].mean()),
    }


def brightness_auroc() -> float:
    """AUROC of minus the mean grey value."""
    images = cells()
    return auroc(-images.test.mean(axis=(1, 2, 3)), images.labels)
