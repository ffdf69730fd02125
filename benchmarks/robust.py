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

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.judging import attacked_scores, gap
from benchmarks.counterfactuals_elpv_kit.training import scores_of
from benchmarks.results import write_results
from benchmarks.textures import Texture, texture_of
from xadflow.detectors import FitRun, as_float, build_detector
from xadflow.detectors.base import Detector
from xadflow.detectors.one_class.inputs import RobustSettings
from xadflow.digests import sha256_json
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.lineage import code_digest
from xadflow.metrics.ranks import auroc
from xadflow.settings import Home

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
FALSE_ALARMS, AT_ONCE = 0.05, 20
CODE = (
    "detectors",
    "networks",
    "training",
    "calibration.py",
    "defects/drawn.py",
    "datasets/sources/textures.py",
    "explainers/sparse/explainer.py",
    "explainers/sparse/frank_wolfe.py",
    "explainers/sparse/oracle.py",
)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    started, home, texture = time.perf_counter(), Home.find(), texture_of(TEXTURE, RUNG, KNOWN)
    seeds = SEEDS[:1] if quick else SEEDS
    cells = {(twin, seed): _cell(home, texture, twin, seed) for seed in seeds for twin in TWINS}
    figures = figures_of(cells, texture, seeds) | {
        "texture": TEXTURE,
        "rung": RUNG,
        "method": METHOD,
        "detector": DETECTOR,
        "robust": ROBUST,
        "known": KNOWN,
        "radius": _radius(texture),
    }
    _show(figures)
    path = write_results("robust", figures, seeds=seeds, seconds=time.perf_counter() - started, quick=quick)
    print(f"\n{time.perf_counter() - started:.0f} s; written to benchmarks/results/{path.name}")


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


def _cell(home: Home, texture: Texture, twin: str, seed: int) -> Cell:
    settings = {**DETECTOR, "robust": ROBUST if twin == "robust" else None}
    key = sha256_json(
        {
            "settings": settings,
            "texture": [TEXTURE, RUNG, KNOWN],
            "sparse": SPARSE,
            "method": METHOD,
            "radius": _radius(texture),
            "code": code_digest(*CODE),
        }
    )[:12]
    path = home.state / "bench-robust" / f"{twin}-{seed}-{key}.npz"
    if not path.is_file():
        started = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **_measured(texture, settings, seed))  # type: ignore[arg-type]
        partial.replace(path)
        print(f"  {twin}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    with np.load(path) as kept:
        return Cell(float(kept["threshold"]), kept["scores"], kept["attacked"], kept["changes"], kept["flipped"])


def _measured(texture: Texture, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    detector = build_detector(METHOD, **settings)
    with tempfile.TemporaryDirectory() as scratch:
        detector.fit(texture.data, FitRun(Path(scratch), seed, FALSE_ALARMS, "cpu"))
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


def _show(figures: Mapping[str, Any]) -> None:
    for twin, seeds in figures["rows"].items():
        for seed, one in seeds.items():
            print(
                f"{twin:<7} seed {seed}  AUROC {one['auroc']:.3f}  attacked {one['auroc_attacked']:.3f}  "
                f"explained {one['explained']}  flipped {one['flipped']:.2f}  inside {one['inside']:.3f} "
                f"(chance {one['chance']:.3f})  l2 {one['l2']:.2f}"
            )
    for name, one in (("robust - plain", figures["robust_minus_plain"]), *figures["minus_chance"].items()):
        print(f"{name:<15} inside {one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]")


if __name__ == "__main__":
    main()
