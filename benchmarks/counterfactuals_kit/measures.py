"""The figures of counterfactuals on Coloured-MNIST, by judges that took no part in their training.

`made` are uint8 [N,K,3,28,28] of the first N anomalies of the test digits; a baseline has K = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.factors import factor_figures
from benchmarks.counterfactuals_kit.images import CYAN, ONE, Coloured, random_train, test_images
from benchmarks.counterfactuals_kit.readers import Readers, perceptual, trained_readers
from benchmarks.counterfactuals_kit.training import (
    STUDY,
    anomaly_probability,
    explained,
    kept_outliers,
    normals,
    second_detector,
    substituted,
)
from benchmarks.kit.judging import (
    between_concepts,
    distances,
    flat,
    judged_by,
    mean_sizes,
    noise_figures,
    scores_of,
    told,
)
from xadflow.detectors.base import Detector
from xadflow.digests import sha256_json
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.metrics.edits import edit_sizes
from xadflow.metrics.ranks import auroc

EXPLAINED, SPAN = 1500, 3000  # anomalies that are explained; those whose distance from the normals is 100 % of FID_N
NOISY = 256  # anomalies whose counterfactuals are asked for again, five times with noise
SHOWN = 20_000


@cache
def readers() -> Readers:
    """The judges, trained once."""
    return trained_readers(STUDY.place / f"readers-{sha256_json(SHOWN)[:6]}.pt", lambda: random_train(SHOWN))


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

    method: str
    seed: int

    @property
    def detector(self) -> Detector:
        """The explained detector."""
        return explained(self.method, self.seed)


def detector_figures(judged: Judged) -> dict[str, Any]:
    """Whether there is anything to explain."""
    images, detector = test_images(), judged.detector
    scores = scores_of(detector, images.images)
    phi = anomaly_probability(judged.method, scores)
    kept = kept_outliers(judged.method, judged.seed)
    second = scores_of(second_detector(), images.images)
    return {
        "auroc": auroc(scores, ~images.is_normal),
        "accuracy": float(((phi > 0.5) != images.is_normal).mean()),
        "phi_anomalies": float(phi[~images.is_normal].mean()),
        "phi_normals": float(phi[images.is_normal].mean()),
        "exposure_kept": len(kept),
        "exposure_ones": float((kept.digits == ONE).mean()),
        "second_auroc": auroc(second, ~images.is_normal),
    }


def generator_figures(judged: Judged, explainer: DiverseExplainer) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Figures of a trained generator, and its counterfactuals [N,K,...] of the explained anomalies."""
    of, detector = anomalies(), judged.detector
    made = told(explainer, detector, of.images)
    figures = made_figures(judged, of, made) | noise_figures(
        detector, explainer, lambda scores: anomaly_probability(judged.method, scores), of.images[:NOISY], made[:NOISY]
    )
    normal = test_normals()
    unchanged = edit_sizes(normal.images, told(explainer, detector, normal.images))
    outliers = kept_outliers(judged.method, judged.seed)
    learnt = outliers.images[: len(normals()[0]) // made.shape[1]]  # as many counterfactuals as there were normals
    others = told(explainer, detector, learnt).reshape(-1, *learnt.shape[1:])
    substitute = substituted(judged.method, others, outliers, judged.seed)
    images = test_images()
    figures |= {
        "normals_l1": unchanged.mean(axis=0).tolist(),
        "normals_l1_coloured_ones": unchanged[normal.colours != CYAN].mean(axis=0).tolist(),
        "normals_l1_cyan": unchanged[normal.colours == CYAN].mean(axis=0).tolist(),
        "substitution_auroc": auroc(scores_of(substitute, images.images), ~images.is_normal),
    }
    return figures, made


def made_figures(judged: Judged, of: Coloured, made: NDArray[np.uint8]) -> dict[str, Any]:
    """Figures of any counterfactuals `made` of the anomalies `of`."""
    normal, detector = test_normals(), judged.detector
    judges = (("explained", detector), ("second", second_detector()))
    found: dict[str, Any] = {name: judged_by(judge, normal.images, made) for name, judge in judges}
    reader = readers()
    features = [reader.features(images) for images in (flat(made), normal.images, anomalies(SPAN).images)]
    read = factor_figures(reader.read(made), of.colours, of.digits, (CYAN, ONE))
    return (
        found
        | distances(features[0].reshape(*made.shape[:2], -1), *features[1:])
        | {
            "normal_by_definition": read.normal,
            "colour_only": read.first_only,
            "digit_only": read.second_only,
            "roles": read.roles,
            "strict": read.strict,
            "loose": read.loose,
            "l1": mean_sizes(of.images, made),
            "images": len(made),
            "perceptual": float(perceptual(reader.joint, of.images, made).mean()),
        }
        | between_concepts(of.images, made, judged.seed)
    )


def reader_figures() -> dict[str, float]:
    """How often the judges are right on all test digits, and on anomalies that a hand recoloured."""
    images = test_images()
    reading = readers().read(images.images[:, None])
    return {
        "digits": float((reading.second[:, 0] == images.digits).mean()),
        "colours": float((reading.first[:, 0] == images.colours).mean()),
        "illegible": float((~reading.legible).mean()),
    }
