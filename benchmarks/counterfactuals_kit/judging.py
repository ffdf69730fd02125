"""What can be said of counterfactuals of any data: judged by detectors, by sets of features, by the size of the edits.

`made` are uint8 [N,K,C,H,W], the K counterfactuals of each of N images [N,C,H,W].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xadflow.detectors.base import Detector
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.images import as_float
from xadflow.metrics.concept_accuracy import concept_accuracy
from xadflow.metrics.edits import edit_cosines, edit_sizes, pairwise_distances
from xadflow.metrics.explanation import flip_rate
from xadflow.metrics.normality import normality
from xadflow.metrics.realism import kernel_distance, normalised_frechet
from xadflow.metrics.stability import noise_stability, noisy_copies

KERNEL_SETS = 1000
_EXPLAINED_AT_ONCE = 100
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def scores_of(detector: Detector, images: Pixels) -> Floats:
    """Raw scores [N] of uint8 [N,C,H,W], by way of the normal logit, which forms no heatmap."""
    calibration = detector.calibration
    with torch.no_grad():
        logits = torch.cat([detector.normal_logit(as_float(part)) for part in torch.from_numpy(images).split(500)])
    return np.asarray(calibration.threshold - calibration.temperature * logits.double().numpy())


def judged_by(judge: Detector, normals: Pixels, made: Pixels) -> dict[str, Any]:
    """Whether a detector tells counterfactuals from normal images, all of them and by concept."""
    scores = scores_of(judge, made.reshape(-1, *made.shape[2:])).reshape(made.shape[:2])
    own = scores_of(judge, normals)
    return {
        "normality": normality(own, scores.ravel()),
        "normality_each": [normality(own, scores[:, k]) for k in range(made.shape[1])],
        "flipped": flip_rate(scores <= judge.calibration.threshold),
    }


def distances(made: Floats, normals: Floats, anomalies: Floats) -> dict[str, Any]:
    """Of features [N,K,D] to those of normals [M,D], as a share of how far anomalies [L,D] are."""
    flat = made.reshape(-1, made.shape[-1])
    drawn = np.random.default_rng(0)
    sets = [rows[drawn.permutation(len(rows))[:KERNEL_SETS]] for rows in (flat, normals, anomalies)]
    return {
        "fid_n": normalised_frechet(flat, normals, anomalies),
        "fid_n_each": [normalised_frechet(made[:, k], normals, anomalies) for k in range(made.shape[1])],
        "kid_n": 100.0 * kernel_distance(*sets[:2]) / kernel_distance(sets[2], sets[1]),
    }


def between_concepts(originals: Pixels, made: Pixels, seed: int) -> dict[str, float]:
    """How far the concepts of an image are apart, and whether they can be told; nothing of one alone."""
    if made.shape[1] < 2:
        return {}
    cosines = edit_cosines(originals, made)
    return {
        "apart": float(pairwise_distances(originals, made).mean()),
        "cosine": float(np.nanmean(cosines)),
        "concept_accuracy": concept_accuracy(originals, made, seed),
    }


def mean_sizes(originals: Pixels, made: Pixels) -> list[float]:
    """Mean L1 of each concept's edits."""
    sizes: list[float] = edit_sizes(originals, made).mean(axis=0).tolist()
    return sizes


def noise_figures(
    detector: Detector,
    explainer: DiverseExplainer,
    probability: Callable[[Floats], Floats],
    images: Pixels,
    made: Pixels,
) -> dict[str, float]:
    """What noise on `images` does to their counterfactuals `made`; `probability` is phi of raw scores."""
    copies = noisy_copies(images, seed=0)
    noisy = counterfactuals(explainer, detector, copies.reshape(-1, *images.shape[1:])).reshape(
        len(copies), *made.shape
    )
    phi = [
        probability(scores_of(detector, part.reshape(-1, *images.shape[1:]))).reshape(part.shape[:-3])
        for part in (made, noisy)
    ]
    found = noise_stability(made, noisy, phi[0], phi[1])
    return {"noise_pixels": found.pixels, "noise_probability": found.probability}


def counterfactuals(explainer: DiverseExplainer, detector: Detector, images: Pixels) -> Pixels:
    """What the explainer stores, uint8 [N,K,C,H,W]."""
    told: list[Sequence[Pixels]] = []
    for part in torch.from_numpy(images).split(_EXPLAINED_AT_ONCE):
        told += [[one.image for one in row.counterfactuals] for row in explainer.explain(detector, as_float(part))]
    return np.array(told, dtype=np.uint8)
