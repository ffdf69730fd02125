"""Where sparse counterfactuals of robustly trained detectors change an image: `python -m benchmarks.robust [--quick]`.

Real brick with generated defects and exact masks (xadflow/datasets/sources/textures.py). A detector is trained twice
for each seed, with the setting `robust` and without, all else equal. Explained are the test defects that both twins
flag. The search may change any pixel (no direction mask), so that where it goes is the detector's doing. The share of
the change inside the exact mask is compared with the mask's share of the image (chance) and between the twins.

Acceptance (the method's page): the robust twin loses at most 3 points of clean AUROC, and its changes lie more within
the mask. Network, steps and rates were chosen on train normals that were held out and 40 other defects of the train
band, one seed; the radii are those of bench-counterfactuals-elpv.

A cell (twin, seed) is kept in var/bench-robust and is not done twice while settings and code are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kit.judging import attacked_scores, gap, scores_of
from benchmarks.kit.models import fitted
from benchmarks.study import Study, kept
from benchmarks.textures import Texture, texture_of
from xadflow.detectors.base import Detector
from xadflow.detectors.one_class.inputs import RobustSettings
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.images import as_float
from xadflow.lineage import EXPLAINER_CODE
from xadflow.metrics.ranks import auroc

TEXTURE, RUNG, KNOWN, SEEDS = "brick", "easy", 20, (0, 1, 2)
TWINS, METHOD = ("plain", "robust"), "bce"
DETECTOR: dict[str, Any] = {
    "network": "cnn224",
    "preparation": "standard",
    "anomalies": ("known", "synthetic"),
    "epochs": 0.01,
    "min_steps": 150,
    "batch_size": 32,
    "learning_rate": 1e-3,
}
ROBUST = {"radius_normals": 0.15, "radius_anomalies": 0.3, "steps": 2}  # as at 3x32x32 values, see RobustSettings
SPARSE = {"heat_share": 0.999, "dilation": 0.5}  # the direction mask is the whole image
STUDY = Study("robust", EXPLAINER_CODE, ("robust.py", "textures.py"))
AT_ONCE = 20


@dataclass(frozen=True, eq=False)
class Cell:
    """One twin of one seed: raw scores of the test images [N], of attacked ones, and the changes [D,H,W] of its
    defects.
    """

    threshold: float
    scores: NDArray[np.float64]
    attacked: NDArray[np.float64]
    changes: NDArray[np.int16]
    flipped: NDArray[np.bool_]


def main() -> None:
    """Train and explain what is missing, print the table, write benchmarks/results/robust.json."""
    quick = STUDY.start(__doc__, "one seed").quick
    torch.set_num_threads(1)
    texture, seeds = texture_of(TEXTURE, RUNG, KNOWN), SEEDS[:1] if quick else SEEDS
    cells = {(twin, seed): _cell(texture, twin, seed) for seed in seeds for twin in TWINS}
    figures = figures_of(cells, texture, seeds) | {
        "texture": TEXTURE,
        "rung": RUNG,
        "method": METHOD,
        "detector": DETECTOR,
        "robust": ROBUST,
        "known": KNOWN,
        "radius": _radius(texture),
    }
    STUDY.write(figures, seeds)


def figures_of(cells: Mapping[tuple[str, int], Cell], texture: Texture, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Each twin's AUROC, clean and attacked, and where its changes lie; robust minus plain with intervals."""
    defects = texture.labels == 1
    masks = texture.masks[defects]
    chance = masks.mean(axis=(1, 2))
    shares: dict[tuple[str, int], NDArray[np.float64]] = {}
    rows: dict[str, dict[str, Any]] = {twin: {} for twin in TWINS}
    for seed in seeds:
        both = np.logical_and.reduce([_flagged(cells[twin, seed])[defects] for twin in TWINS])
        for twin in TWINS:
            cell = cells[twin, seed]
            share = share_inside(cell.changes, masks)
            shares[twin, seed] = np.where(both, share, np.nan)
            rows[twin][str(seed)] = {
                "auroc": auroc(cell.scores, texture.labels),
                "auroc_attacked": auroc(cell.attacked, texture.labels),
                "explained": int(both.sum()),
                "flagged_normals": float(_flagged(cell)[~defects].mean()),
                "flipped": float(cell.flipped[both].mean()),
                "inside": float(np.nanmean(shares[twin, seed])),
                "chance": float(chance[both].mean()),
                "l2": float(np.sqrt((cell.changes[both].astype(np.float64) ** 2).sum(axis=(1, 2))).mean() / 255),
            }
    apart = np.stack([shares["robust", seed] - shares["plain", seed] for seed in seeds])
    beyond = {twin: np.stack([shares[twin, seed] - chance for seed in seeds]) for twin in TWINS}
    return {
        "rows": rows,
        "robust_minus_plain": gap(apart),
        "minus_chance": {twin: gap(one) for twin, one in beyond.items()},
    }


def share_inside(changes: NDArray[np.int16], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each change [D,H,W] the share of its sum of absolute values inside the mask [D,H,W]; NaN where nothing
    changed.
    """
    size = np.abs(changes.astype(np.int64))
    total = size.sum(axis=(1, 2))
    inside = (size * masks).sum(axis=(1, 2))
    return np.where(total > 0, inside / np.maximum(total, 1), np.nan)


def _flagged(cell: Cell) -> NDArray[np.bool_]:
    return cell.scores > cell.threshold


def _radius(texture: Texture) -> float:
    """How far images are moved by the attack, l2 on [0,1] values."""
    return float(RobustSettings(**ROBUST).radii(torch.tensor([False]), texture.test[0].numel())[0])


def _cell(texture: Texture, twin: str, seed: int) -> Cell:
    settings = {**DETECTOR, "robust": ROBUST if twin == "robust" else None}
    path = STUDY.path(f"{twin}-{seed}.npz", settings=settings)
    found = kept(path, lambda: _measured(texture, settings, seed))
    STUDY.note(f"{twin}, seed {seed}")
    return Cell(**{**found, "threshold": float(found["threshold"])})


def _measured(texture: Texture, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    detector = fitted(METHOD, settings, seed, texture.data)
    images, labels = texture.test.numpy(), texture.labels
    attacked = np.empty(len(images))
    for label, sign in ((0, -1.0), (1, 1.0)):
        attacked[labels == label] = attacked_scores(detector, images[labels == label], _radius(texture), sign)
    changes, flipped = _changes(detector, texture.test[torch.from_numpy(labels == 1)])
    return {
        "threshold": detector.calibration.threshold,
        "scores": scores_of(detector, images),
        "attacked": attacked,
        "changes": changes,
        "flipped": flipped,
    }


def _changes(detector: Detector, defects: torch.Tensor) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Of uint8 [D,1,H,W]: stored counterfactual minus original [D,H,W], and whether the detector calls it normal."""
    explainer, changes, flipped = SparseExplainer(**SPARSE), [], []
    for part in defects.split(AT_ONCE):
        for original, row in zip(part.numpy(), explainer.explain(detector, as_float(part)), strict=True):
            (one,) = row.counterfactuals
            changes.append((one.image.astype(np.int16) - original)[0])
            flipped.append(one.is_normal)
    return np.stack(changes), np.array(flipped)


if __name__ == "__main__":
    main()
