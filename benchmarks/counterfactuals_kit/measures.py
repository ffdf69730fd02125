"""The figures of counterfactuals on Coloured-MNIST, by judges that took no part in their training.

`made` are uint8 [N,K,3,28,28] of the first N anomalies of the test digits; a baseline has K = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.images import CYAN, ONE, Coloured, random_train, test_images
from benchmarks.counterfactuals_kit.readers import Readers, perceptual, trained_readers
from benchmarks.counterfactuals_kit.training import (
    anomaly_probability,
    explained,
    kept_outliers,
    normals,
    place,
    scores_of,
    second_detector,
    substituted,
)
from xadflow.detectors.base import Detector, as_float
from xadflow.digests import sha256_json
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.metrics.concept_accuracy import concept_accuracy
from xadflow.metrics.edits import edit_cosines, edit_sizes, pairwise_distances
from xadflow.metrics.explanation import flip_rate
from xadflow.metrics.factors import factor_figures
from xadflow.metrics.normality import normality
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import kernel_distance, normalised_frechet
from xadflow.metrics.stability import noise_stability, noisy_copies
from xadflow.settings import Home

MEASURES = 2  # change it when figures come to mean something else
EXPLAINED, SPAN = 1500, 3000  # anomalies that are explained; those whose distance from the normals is 100 % of FID_N
KERNEL_SETS = 1000
NOISY = 256  # anomalies whose counterfactuals are asked for again, five times with noise
SHOWN = 20_000
_EXPLAINED_AT_ONCE = 100


@cache
def readers(home: Home) -> Readers:
    """The judges, trained once."""
    return trained_readers(place(home) / f"readers-{sha256_json(SHOWN)[:6]}.pt", lambda: random_train(SHOWN))


def anomalies(count: int = EXPLAINED) -> Coloured:
    """The first so many anomalies of the test digits."""
    found = test_images()
    return found[np.flatnonzero(~found.is_normal)[:count]]


def test_normals() -> Coloured:
    """All normal test digits."""
    found = test_images()
    return found[np.flatnonzero(found.is_normal)]


@dataclass(frozen=True)
class Judged:
    """Whose anomalies: the explained detector's method and seed."""

    home: Home
    method: str
    seed: int

    @property
    def detector(self) -> Detector:
        """The explained detector."""
        return explained(self.home, self.method, self.seed)


def detector_figures(judged: Judged) -> dict[str, Any]:
    """Whether there is anything to explain."""
    images, detector = test_images(), judged.detector
    scores = scores_of(detector, images.images)
    phi = anomaly_probability(judged.method, scores)
    kept = kept_outliers(judged.home, judged.method, judged.seed)
    second = scores_of(second_detector(judged.home), images.images)
    return {
        "auroc": auroc(scores, ~images.is_normal), "accuracy": float(((phi > 0.5) != images.is_normal).mean()),
        "phi_anomalies": float(phi[~images.is_normal].mean()), "phi_normals": float(phi[images.is_normal].mean()),
        "exposure_kept": len(kept), "exposure_ones": float((kept.digits == ONE).mean()),
        "second_auroc": auroc(second, ~images.is_normal),
    }  # fmt: skip


def generator_figures(judged: Judged, explainer: DiverseExplainer) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Figures of a trained generator, and its counterfactuals [N,K,...] of the explained anomalies."""
    of, detector = anomalies(), judged.detector
    made = counterfactuals(explainer, detector, of.images)
    figures = made_figures(judged, of, made) | noise_figures(judged, explainer, of.images[:NOISY], made[:NOISY])
    normal = test_normals()
    unchanged = edit_sizes(normal.images, counterfactuals(explainer, detector, normal.images))
    outliers = kept_outliers(judged.home, judged.method, judged.seed)
    learnt = outliers.images[: len(normals()[0]) // made.shape[1]]  # as many counterfactuals as there were normals
    others = counterfactuals(explainer, detector, learnt).reshape(-1, *learnt.shape[1:])
    substitute = substituted(judged.method, others, outliers, judged.seed)
    images = test_images()
    figures |= {
        "normals_l1": unchanged.mean(axis=0).tolist(),
        "normals_l1_coloured_ones": unchanged[normal.colours != CYAN].mean(axis=0).tolist(),
        "normals_l1_cyan": unchanged[normal.colours == CYAN].mean(axis=0).tolist(),
        "substitution_auroc": auroc(scores_of(substitute, images.images), ~images.is_normal),
    }  # fmt: skip
    return figures, made


def made_figures(judged: Judged, of: Coloured, made: NDArray[np.uint8]) -> dict[str, Any]:
    """Figures of any counterfactuals `made` of the anomalies `of`."""
    normal, detector = test_normals(), judged.detector
    flat = made.reshape(-1, *made.shape[2:])
    found: dict[str, Any] = {}
    for name, judge in (("explained", detector), ("second", second_detector(judged.home))):
        scores = scores_of(judge, flat).reshape(made.shape[:2])
        own = scores_of(judge, normal.images)
        found[name] = {
            "normality": normality(own, scores.ravel()),
            "normality_each": [normality(own, scores[:, k]) for k in range(made.shape[1])],
            "flipped": flip_rate(scores <= judge.calibration.threshold),
        }  # fmt: skip
    reader = readers(judged.home)
    features = [reader.features(images) for images in (flat, normal.images, anomalies(SPAN).images)]
    drawn = np.random.default_rng(0)
    sets = [rows[drawn.permutation(len(rows))[:KERNEL_SETS]] for rows in features]
    read = factor_figures(reader.read(made), of.colours, of.digits, (CYAN, ONE))
    sizes = edit_sizes(of.images, made)
    found |= {
        "fid_n": normalised_frechet(*features),
        "fid_n_each": [normalised_frechet(features[0].reshape(*made.shape[:2], -1)[:, k], *features[1:])
                       for k in range(made.shape[1])],
        "kid_n": 100.0 * kernel_distance(*sets[:2]) / kernel_distance(sets[2], sets[1]),
        "normal_by_definition": read.normal, "colour_only": read.first_only, "digit_only": read.second_only,
        "roles": read.roles, "strict": read.strict, "loose": read.loose,
        "l1": sizes.mean(axis=0).tolist(), "images": len(made),
        "perceptual": float(perceptual(reader.joint, of.images, made).mean()),
    }  # fmt: skip
    if made.shape[1] > 1:
        cosines = edit_cosines(of.images, made)
        found |= {"apart": float(pairwise_distances(of.images, made).mean()), "cosine": float(np.nanmean(cosines)),
                  "concept_accuracy": concept_accuracy(of.images, made, judged.seed)}  # fmt: skip
    return found


def noise_figures(
    judged: Judged, explainer: DiverseExplainer, images: NDArray[np.uint8], made: NDArray[np.uint8]
) -> dict[str, float]:
    """What noise on `images` does to their counterfactuals `made`."""
    detector, copies = judged.detector, noisy_copies(images, seed=0)
    noisy = counterfactuals(explainer, detector, copies.reshape(-1, *images.shape[1:])).reshape(len(copies), *made.shape)
    phi = [anomaly_probability(judged.method, scores_of(detector, part.reshape(-1, *images.shape[1:]))).reshape(part.shape[:-3])
           for part in (made, noisy)]  # fmt: skip
    found = noise_stability(made, noisy, phi[0], phi[1])
    return {"noise_pixels": found.pixels, "noise_probability": found.probability}


def counterfactuals(explainer: DiverseExplainer, detector: Detector, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the explainer stores, uint8 [N,K,3,28,28]."""
    told = []
    for part in torch.from_numpy(images).split(_EXPLAINED_AT_ONCE):
        told += [[one.image for one in row.counterfactuals] for row in explainer.explain(detector, as_float(part))]
    return np.array(told, dtype=np.uint8)


def reader_figures(home: Home) -> dict[str, float]:
    """How often the judges are right on all test digits, and on anomalies that a hand recoloured."""
    images = test_images()
    reading = readers(home).read(images.images[:, None])
    return {
        "digits": float((reading.second[:, 0] == images.digits).mean()),
        "colours": float((reading.first[:, 0] == images.colours).mean()),
        "illegible": float((~reading.legible).mean()),
    }


def kept_npz(path: Path) -> dict[str, Any]:
    """Arrays of a kept cell."""
    with np.load(path) as found:
        return dict(found)
