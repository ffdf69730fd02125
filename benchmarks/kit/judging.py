"""What can be said of counterfactuals of any data: judged by detectors, by sets of features, by the size of the edits.

`made` are uint8 [N,K,C,H,W], the K counterfactuals of each of N `originals` [N,C,H,W]. A judge is a detector that
explains nothing: it calls an image normal at or below its own threshold, which its held-out normals gave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from benchmarks.kit.concept_accuracy import concept_accuracy
from xadflow.detectors.base import Detector
from xadflow.detectors.one_class.inputs import worst_images
from xadflow.explainers.base import Explainer
from xadflow.images import as_float
from xadflow.metrics.edits import edit_cosines, edit_sizes, pairwise_distances
from xadflow.metrics.explanation import flip_rate
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import kernel_distance, normalised_frechet
from xadflow.metrics.stability import noise_stability, noisy_copies
from xadflow.networks.pretrained import Trunk
from xadflow.work.week.generator_figures import SMALLEST_PX

KERNEL_SETS, AT_ONCE = 1000, 64
FEATURES = "mobilenet_v2"  # whose features distances of real pictures are in: no trunk of what is explained
ATTACK_STEPS, BOOTSTRAP = 10, 4000
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def scores_of(detector: Detector, images: Pixels) -> Floats:
    """Raw scores [N] of uint8 [N,C,H,W], by way of the normal logit, which forms no heatmap."""
    calibration = detector.calibration
    with torch.no_grad():
        logits = torch.cat([detector.normal_logit(as_float(part)) for part in torch.from_numpy(images).split(128)])
    return np.asarray(calibration.threshold - calibration.temperature * logits.double().numpy())


def flat(made: Pixels) -> Pixels:
    """[N*K,C,H,W]."""
    return made.reshape(-1, *made.shape[2:])


def scores_of_made(detector: Detector, made: Pixels) -> Floats:
    """Raw scores [N,K]."""
    return scores_of(detector, flat(made)).reshape(made.shape[:2])


def told(explainer: Explainer, detector: Detector, images: Pixels) -> Pixels:
    """What the explainer stores, [N,K,C,H,W]; an alternative that it does not have is its first one again."""
    found: list[list[Pixels]] = []
    for part in torch.from_numpy(images).split(AT_ONCE):
        found += [[one.image for one in row.counterfactuals] for row in explainer.explain(detector, as_float(part))]
    most = max(map(len, found))
    return np.stack([np.stack([*row, *([row[0]] * (most - len(row)))]) for row in found])


def normality(normal_scores: ArrayLike, made_scores: ArrayLike) -> float:
    """AUROC in percent of a detector between normal test images and counterfactuals; arXiv 2402.14469, section 4.

    50 is ideal: the detector cannot tell them apart. Above, they are still anomalous; below, more normal than normal,
    which is what images look like that were made to please this detector. A detector they were not made for is the
    stricter judge, and still no proof of realism: blobs have been seen to please both.

    >>> normality([0.0, 1.0], [0.0, 1.0])
    50.0
    """
    normal, made = np.asarray(normal_scores, np.float64), np.asarray(made_scores, np.float64)
    return 100.0 * auroc(np.concatenate([normal, made]), np.repeat([0, 1], [len(normal), len(made)]))


def judged_by(judge: Detector, normals: Pixels, made: Pixels) -> dict[str, Any]:
    """Whether a detector tells counterfactuals from normal images, all of them and by concept."""
    scores, own = scores_of_made(judge, made), scores_of(judge, normals)
    return {
        "normality": normality(own, scores.ravel()),
        "normality_each": [normality(own, scores[:, k]) for k in range(made.shape[1])],
        "flipped": flip_rate(scores <= judge.calibration.threshold),
    }


def by_judge(judge: Detector, originals: Pixels, made: Pixels) -> dict[str, Floats]:
    """Of each image [N], mean over its counterfactuals: `transfer`, is it normal to the judge, and `drop` of its score
    in standard deviations of its held-out normals. NaN for an image that the judge called normal in the first place.
    """
    before, after = scores_of(judge, originals), scores_of_made(judge, made)
    threshold, spread = judge.calibration.threshold, float(np.std(judge.calibration.normal_scores))
    found = {"transfer": (after <= threshold).mean(axis=1), "drop": ((before[:, None] - after) / spread).mean(axis=1)}
    return {name: np.where(before > threshold, values, np.nan) for name, values in found.items()}


def distances(made: Floats, normals: Floats, anomalies: Floats) -> dict[str, Any]:
    """Of features [N,K,D] to those of normals [M,D], as a share of how far anomalies [L,D] are."""
    union, drawn = made.reshape(-1, made.shape[-1]), np.random.default_rng(0)
    sets = [rows[drawn.permutation(len(rows))[:KERNEL_SETS]] for rows in (union, normals, anomalies)]
    return {
        "fid_n": normalised_frechet(union, normals, anomalies),
        "fid_n_each": [normalised_frechet(made[:, k], normals, anomalies) for k in range(made.shape[1])],
        "kid_n": kernel_share(*sets),
    }


def kernel_share(made: Floats, normals: Floats, anomalies: Floats) -> float:
    """Kernel distance to normals in % of that of anomalies."""
    return 100.0 * kernel_distance(made, normals) / kernel_distance(anomalies, normals)


def union(made: Any) -> Any:
    """One alternative an image in turn, so that all sets of a distance have about one size."""
    return made[np.arange(len(made)), np.arange(len(made)) % made.shape[1]]


@torch.no_grad()
def features_of(images: Pixels) -> Floats:
    """Spatial means of the stages of FEATURES, [N,D], of images enlarged as the gate enlarges them."""
    found = []
    for part in torch.from_numpy(images).split(32):
        scale = max(1.0, SMALLEST_PX / min(part.shape[2:]))
        pixels = F.interpolate(as_float(part), scale_factor=scale, mode="bilinear", align_corners=False)
        found.append(_trunk().trunk_features(pixels).mean(dim=(2, 3)).double())
    return np.asarray(torch.cat(found).numpy())


@cache
def _trunk() -> Trunk:
    return Trunk(FEATURES)


def between_concepts(originals: Pixels, made: Pixels, seed: int) -> dict[str, float]:
    """How far the concepts of an image are apart, and whether they can be told; nothing of one alone."""
    if made.shape[1] < 2:
        return {}
    return {
        "apart": float(pairwise_distances(originals, made).mean()),
        "cosine": float(np.nanmean(edit_cosines(originals, made))),
        "concept_accuracy": concept_accuracy(originals, made, seed),
    }


def worst_pairs(originals: Pixels, made: Pixels) -> dict[str, float]:
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


def mean_sizes(originals: Pixels, made: Pixels) -> list[float]:
    """Mean L1 of each concept's edits."""
    sizes: list[float] = edit_sizes(originals, made).mean(axis=0).tolist()
    return sizes


def noise_figures(
    detector: Detector, explainer: Explainer, probability: Callable[[Floats], Floats], images: Pixels, made: Pixels
) -> dict[str, float]:
    """What noise on `images` does to their counterfactuals `made`; `probability` is phi of raw scores."""
    copies = noisy_copies(images, seed=0)
    noisy = told(explainer, detector, copies.reshape(-1, *images.shape[1:])).reshape(len(copies), *made.shape)
    phi = [
        probability(scores_of(detector, part.reshape(-1, *images.shape[1:]))).reshape(part.shape[:-3])
        for part in (made, noisy)
    ]
    found = noise_stability(made, noisy, phi[0], phi[1])
    return {"noise_pixels": found.pixels, "noise_probability": found.probability}


def attacked_scores(detector: Detector, images: Pixels, radius: float, sign: float) -> Floats:
    """Scores [N] after projected gradient steps that raise `sign` times the normal logit, in the l2 ball
    and pixel box.
    """
    calibration, found = detector.calibration, []
    for part in torch.from_numpy(images).split(64):
        x = as_float(part)
        worst = worst_images(lambda z: sign * detector.normal_logit(z), x, torch.full((len(x),), radius), ATTACK_STEPS)
        with torch.no_grad():
            found.append(detector.normal_logit(worst).double().numpy())
    return np.asarray(calibration.threshold - calibration.temperature * np.concatenate(found))


def gap(values: Floats, bootstrap: int = BOOTSTRAP, seed: int = 0) -> dict[str, Any]:
    """Mean of values [S,N] of each seed and image with a 95 % interval; NaN: not explained.

    The point is the mean over seeds of each seed's mean. A draw takes seeds and images with replacement, an image with
    all its seeds, since the same picture is no new evidence. Three seeds are few, so the interval of the seeds as they
    are is beside.
    """
    known, rng = np.isfinite(values), np.random.default_rng(seed)
    count, images = values.shape
    often = rng.multinomial(images, np.full(images, 1.0 / images), size=bootstrap).astype(np.float64)  # (B, N)
    means = (often @ np.where(known, values, 0.0).T) / np.maximum(often @ known.T.astype(np.float64), 1.0)  # (B, S)
    drawn = np.take_along_axis(means, rng.integers(0, count, (bootstrap, count)), axis=1).mean(axis=1)
    each = np.nanmean(values, axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    fixed = np.quantile(means.mean(axis=1), (0.025, 0.975)).tolist()
    ends = {"low": low, "high": high, "low_of_these_seeds": fixed[0], "high_of_these_seeds": fixed[1]}
    return {"value": float(each.mean()), **ends, "each_seed": each.tolist()}


def across_seeds(each: Mapping[int, tuple[NDArray[np.intp], Floats]]) -> Floats:
    """[S,N] of values given seed by seed with the rows they are of; N are all rows of any seed, NaN where a seed has
    none.
    """
    rows = np.unique(np.concatenate([of for of, _ in each.values()]))
    table = np.full((len(each), len(rows)), np.nan)
    for number, (of, values) in enumerate(each.values()):
        table[number, np.searchsorted(rows, of)] = values
    return table
