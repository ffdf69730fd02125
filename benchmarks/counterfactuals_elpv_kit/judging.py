"""Figures of counterfactuals of ELPV's defects, and the difference of the twins with its interval.

`made` are uint8 [N,K,1,64,64] of `originals` uint8 [N,1,64,64]. A judge is a held-out detector: it calls an image
normal at or below its own threshold, which its held-out normals gave it, and is asked of the images alone whose
original it flags; drops of its score are in units of the spread of those normals.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.cells import cells
from benchmarks.counterfactuals_elpv_kit.training import scores_of
from xadflow.detectors.base import Detector
from xadflow.detectors.one_class.inputs import worst_images
from xadflow.images import as_float
from xadflow.metrics.explanation import flip_rate, l1_l2_changed
from xadflow.metrics.normality import normality
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import kernel_distance, normalised_frechet
from xadflow.networks.pretrained import Trunk
from xadflow.work.week.generator_figures import SMALLEST_PX

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
FEATURES = "mobilenet_v2"  # no trunk and no judge of this benchmark
ATTACKED, ATTACK_STEPS = 200, 10
BOOTSTRAP = 4000


def by_judge(judge: Detector, originals: Pixels, made: Pixels) -> dict[str, Floats]:
    """Of each image [N], mean over its counterfactuals: `transfer`, is it normal to the judge, and `drop` of its score.

    NaN for an image that the judge called normal in the first place.
    """
    before, after = scores_of(judge, originals), _scores(judge, made)
    threshold, spread = judge.calibration.threshold, float(np.std(judge.calibration.normal_scores))
    found = {"transfer": (after <= threshold).mean(axis=1), "drop": ((before[:, None] - after) / spread).mean(axis=1)}
    return {name: np.where(before > threshold, values, np.nan) for name, values in found.items()}


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
    own = _scores(explained, made) <= explained.calibration.threshold
    sizes = np.array(
        [[l1_l2_changed(original, one) for one in row] for original, row in zip(originals, made, strict=True)]
    )
    l1, l2, changed = sizes.reshape(-1, 3).mean(axis=0)
    brighter = float((made.mean(dtype=np.float64) - originals.mean(dtype=np.float64)) / 255)
    union = made[np.arange(len(made)), np.arange(len(made)) % made.shape[1]]
    features = (features_of(union), *references)
    found = {
        "flipped": flip_rate(own),
        "l1": float(l1),
        "l2": float(l2),
        "changed_fraction": float(changed),
        "brighter": brighter,
        "normality": normality(scores_of(explained, normals), _scores(explained, made).ravel()),
        "fid_n": normalised_frechet(*features),
        "kid_n": 100.0 * kernel_distance(*features[:2]) / kernel_distance(features[2], features[1]),
        "judges": {},
    }
    for name, judge in judges.items():
        each = by_judge(judge, originals, made)
        agreed = np.where(
            np.isfinite(each["drop"])[:, None], _scores(judge, made) <= judge.calibration.threshold, np.nan
        )
        found["judges"][name] = {
            "transfer": float(np.nanmean(each["transfer"])),
            "drop": float(np.nanmean(each["drop"])),
            "flagged": int(np.isfinite(each["drop"]).sum()),
            "transfer_of_flipped": float(np.nanmean(agreed[own])) if np.isfinite(agreed[own]).any() else None,
            "normality": normality(scores_of(judge, normals), _scores(judge, made).ravel()),
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


def brightness_auroc() -> float:
    """AUROC of minus the mean grey value."""
    images = cells()
    return auroc(-images.test.mean(axis=(1, 2, 3)), images.labels)


def gap(values: Floats, bootstrap: int = BOOTSTRAP, seed: int = 0) -> dict[str, Any]:
    """Mean difference of the twins with a 95 % interval, from [S,N] differences of each seed and image, NaN: not
    explained.

    The point is the mean over seeds of each seed's mean. A draw takes seeds and images with replacement, an image with
    all its seeds, since the same picture is no new evidence. Three seeds are few, so the interval of the seeds as they
    are is beside.
    """
    known = np.isfinite(values)
    rng = np.random.default_rng(seed)
    count, images = values.shape
    often = rng.multinomial(images, np.full(images, 1.0 / images), size=bootstrap).astype(np.float64)  # (B, N)
    means = (often @ np.where(known, values, 0.0).T) / np.maximum(often @ known.T.astype(np.float64), 1.0)  # (B, S)
    drawn = np.take_along_axis(means, rng.integers(0, count, (bootstrap, count)), axis=1).mean(axis=1)
    each = np.nanmean(values, axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    fixed = np.quantile(means.mean(axis=1), (0.025, 0.975))
    return {
        "value": float(each.mean()),
        "low": float(low),
        "high": float(high),
        "low_of_these_seeds": float(fixed[0]),
        "high_of_these_seeds": float(fixed[1]),
        "each_seed": each.tolist(),
    }


def across_seeds(each: Mapping[int, tuple[NDArray[np.intp], Floats]]) -> Floats:
    """[S,N] of values given seed by seed with the rows they are of; N are all rows of any seed, NaN where a seed has
    none.
    """
    rows = np.unique(np.concatenate([of for of, _ in each.values()]))
    table = np.full((len(each), len(rows)), np.nan)
    for number, (of, values) in enumerate(each.values()):
        table[number, np.searchsorted(rows, of)] = values
    return table


@torch.no_grad()
def features_of(images: Pixels) -> Floats:
    """Spatial means of the stages of FEATURES, [N,D], of images enlarged as the gate enlarges them."""
    found = []
    for part in torch.from_numpy(images).split(32):
        pixels = F.interpolate(
            as_float(part),
            scale_factor=max(1.0, SMALLEST_PX / min(part.shape[2:])),
            mode="bilinear",
            align_corners=False,
        )
        found.append(_trunk().trunk_features(pixels).mean(dim=(2, 3)).double())
    return np.asarray(torch.cat(found).numpy())


@cache
def _trunk() -> Trunk:
    return Trunk(FEATURES)


def _scores(detector: Detector, made: Pixels) -> Floats:
    """[N,K]."""
    return scores_of(detector, made.reshape(-1, *made.shape[2:])).reshape(made.shape[:2])
