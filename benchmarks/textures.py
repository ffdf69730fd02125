"""Localisation on real textures with generated defects: `python -m benchmarks.textures [--quick]`.

Brick, grass and gravel, 96 px crops of disjoint bands of one picture each, defects of the ladder's middle rung with exact
masks (xadflow/data/sources/textures.py). The ladder was fixed before any detector was run on it. Defects of the test are
drawn by code and from textures that no training sees; five known defects (semi-supervised rows) come from the train band.

Rows: two floors (statistics of the grey values; PaDiM on the same features as `fcdd`), FCDD on a frozen pretrained trunk,
and FCDD trained end to end with the paper's confetti; each without and with the masks of five known defects. Pixel
AUROC pools all pixels of a texture's test images, normal ones included, as the paper does on MVTec-AD; AUPRO up to 30 %
false positives. Each figure is the mean over textures and training seeds; intervals are bootstraps over test images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.results import write_results
from xadflow.data.manifest import Split
from xadflow.data.sources import Candidate, open_source
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.fcdd import FCDD
from xadflow.images import decode_png
from xadflow.metrics.intervals import bootstrap_interval
from xadflow.metrics.localisation import aupro, pixel_auroc
from xadflow.metrics.ranks import auroc
from xadflow.settings import DatasetSettings

TEXTURES = ("brick", "grass", "gravel")
RUNG, KNOWN = "middle", 5
TARGETS = {"unsupervised": 0.92, "semi-supervised": 0.96}  # the paper's MVTec-AD means: another data set
TRUNK = {"stages": (1, 2, 3), "level": "pixel"}
CONV = {"synthesiser": "confetti", "level": "pixel", "epochs": 60.0}
BINS, BOOTSTRAP = 2048, 1000

Score = Callable[[Tensor], tuple[Tensor, Tensor]]  # float images [B,1,H,W] to raw scores [B] and maps [B,H,W]


@dataclass(frozen=True)
class Texture:
    """One texture: what may be learned from, and its test images uint8 [N,1,H,W], labels [N], masks bool [N,H,W]."""

    data: TrainingData
    test: Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """Figures of one detector on one texture; `draws` are bootstrapped pixel AUROCs."""

    image_auroc: float
    pixel_auroc: float
    aupro: float
    draws: NDArray[np.float64]
    image_draws: tuple[float, float]


def main() -> None:
    """Measure every row and write benchmarks/results/textures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one texture, one seed, the frozen trunk only")
    parser.add_argument("--frozen-only", action="store_true", help="without the rows that are trained end to end")
    parser.add_argument("--seeds", type=int, default=3, help="how many; default 3")
    arguments = parser.parse_args()
    quick, frozen_only = arguments.quick, arguments.quick or arguments.frozen_only
    started = time.perf_counter()
    seeds = tuple(range(1 if quick else arguments.seeds))
    rows: dict[str, list[list[Measured]]] = {}  # row -> texture -> seed
    for name in TEXTURES[:1] if quick else TEXTURES:
        for row, measured in _rows(_texture(name), seeds, frozen_only=frozen_only):
            rows.setdefault(row, []).append(measured)
            print(f"{time.perf_counter() - started:5.0f} s  {name:<7} {row:<40} "
                  f"image {np.mean([one.image_auroc for one in measured]):.3f}  "
                  f"pixel {np.mean([one.pixel_auroc for one in measured]):.3f}  "
                  f"aupro {np.mean([one.aupro for one in measured]):.3f}", flush=True)  # fmt: skip
    figures = {"rung": RUNG, "known": KNOWN, "textures": list(TEXTURES[:1] if quick else TEXTURES), "targets": TARGETS,
               "rows": {row: _figures(textures) for row, textures in rows.items()}}  # fmt: skip
    write_results("textures", figures, seeds=list(seeds), seconds=time.perf_counter() - started, quick=quick)


def _texture(name: str) -> Texture:
    settings = DatasetSettings(source="textures", options={"texture": name, "rung": RUNG, "known": KNOWN})
    offered = [one for one in open_source(f"textures-{name}", settings).candidates() if isinstance(one, Candidate)]
    parts = {split: [one for one in offered if one.split == split] for split in Split}
    images = {split: _stacked([one.content for one in part]) for split, part in parts.items() if part}
    known_masks = _stacked([one.mask for one in parts[Split.KNOWN]])[:, 0] > 0
    test = parts[Split.TEST]
    blank = np.zeros((96, 96), dtype=bool)
    masks = np.stack([blank if one.mask is None else decode_png(bytes(one.mask))[0] > 0 for one in test])  # type: ignore[arg-type]
    data = TrainingData(images[Split.TRAIN], images[Split.VAL], images[Split.KNOWN], known_masks, images[Split.VAL][:0])
    return Texture(data, images[Split.TEST], np.array([int(bool(one.label)) for one in test]), masks)


def _stacked(files: Sequence[bytes | Path | None]) -> Tensor:
    return torch.from_numpy(np.stack([decode_png(bytes(one)) for one in files]))  # type: ignore[arg-type]


def _rows(texture: Texture, seeds: Sequence[int], *, frozen_only: bool) -> Iterator[tuple[str, list[Measured]]]:
    """Each row and its measures, one a seed."""
    yield "grey-value statistics", [_measured(texture, _statistics(texture.data.normals))]
    fitted = [_fitted("fcdd", texture, seed, TRUNK, known=False) for seed in seeds]
    yield "PaDiM, same features", [_measured(texture, _padim(fitted[0]))]
    yield "FCDD, frozen trunk, unsupervised", [_measured(texture, _scored(one)) for one in fitted]
    arms = [("FCDD, frozen trunk, 5 masks", "fcdd", TRUNK, True)]
    if not frozen_only:
        arms += [("FCDD end to end, confetti, unsupervised", "fcdd_conv", CONV, False),
                 ("FCDD end to end, confetti and 5 masks", "fcdd_conv", CONV, True)]  # fmt: skip
    for row, method, settings, known in arms:
        yield row, [_measured(texture, _scored(_fitted(method, texture, seed, settings, known=known))) for seed in seeds]


def _fitted(method: str, texture: Texture, seed: int, settings: dict[str, object], *, known: bool) -> FCDD:
    data = texture.data
    if not known:
        data = TrainingData(data.normals, data.val_normals, data.known[:0], None, data.calibration_defects)
    detector = build_detector(method, **settings)
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(data, FitRun(Path(folder), seed, 0.05, "auto", None))
    return detector  # type: ignore[return-value]


def _scored(detector: FCDD) -> Score:
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        found = detector.score(images)
        assert found.map is not None
        return found.image, found.map

    return score


def _padim(detector: FCDD) -> Score:
    """Mahalanobis distance of each cell by the detector's own features and statistics, nothing learned.

    Defard et al., "PaDiM", ICPR 2020 (arXiv 2011.08785); upsampled and pooled as the detector does.
    """
    fitted = detector.fitted

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        z = fitted.head.whitening(fitted.trunk.trunk_features(images))  # (B, P, C)
        cells = z.float().square().mean(-1).sqrt()
        most = max(1, round(detector.settings.pool() * cells.shape[1]))
        return cells.topk(most, dim=1).values.mean(1), fitted.upsampling(fitted.on_grid(cells))

    return score


def _statistics(normals: Tensor) -> Score:
    """What grey values alone tell: local mean, spread and edge strength of a 9 px box, in standard deviations of normals."""

    def local(images: Tensor) -> Tensor:
        def box(values: Tensor) -> Tensor:
            return F.avg_pool2d(F.pad(values, (4,) * 4, mode="reflect"), 9, stride=1)

        mean = box(images)
        spread = (box(images.square()) - mean.square()).clamp_min(0.0).sqrt()
        steps = F.pad(images, (1, 0, 1, 0), mode="replicate")
        edges = box((steps[..., 1:, 1:] - steps[..., :-1, 1:]).abs() + (steps[..., 1:, 1:] - steps[..., 1:, :-1]).abs())
        return torch.cat([mean, spread, edges], dim=1)  # (B, 3, H, W)

    known = local(as_float(normals)).transpose(0, 1).flatten(1)
    centre, scale = known.mean(1)[None, :, None, None], known.std(1)[None, :, None, None]

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        maps = ((local(images) - centre) / scale).square().sum(1).sqrt()  # (B, H, W)
        return maps.flatten(1).topk(maps[0].numel() // 100, dim=1).values.mean(1), maps

    return score


def _measured(texture: Texture, score: Score) -> Measured:
    with torch.no_grad():
        parts = [score(as_float(batch)) for batch in texture.test.split(32)]
    images = torch.cat([image for image, _ in parts]).double().cpu().numpy()
    maps = torch.cat([one for _, one in parts]).float().cpu().numpy()
    interval = bootstrap_interval(images, texture.labels, bootstrap=BOOTSTRAP)
    return Measured(auroc(images, texture.labels), pixel_auroc(maps, texture.masks), aupro(maps, texture.masks),
                    _resampled(maps, texture.masks), (interval.low, interval.high))  # fmt: skip


def _resampled(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixel AUROCs [BOOTSTRAP] of test images drawn with replacement, of values in 2,048 bins of equal count."""
    edges = np.quantile(maps, np.linspace(0, 1, BINS + 1)[1:-1])
    levels = np.searchsorted(edges, maps.reshape(len(maps), -1))
    truth = masks.reshape(len(masks), -1)
    rows = levels + np.arange(len(maps))[:, None] * BINS
    tables = [np.bincount(rows[where], minlength=rows.shape[0] * BINS).reshape(-1, BINS) for where in (truth, ~truth)]
    draws = np.random.default_rng(0).multinomial(len(maps), np.full(len(maps), 1 / len(maps)), BOOTSTRAP)
    defect, normal = (draws @ table for table in tables)  # (BOOTSTRAP, BINS), lowest value first
    wins = (defect * (normal.cumsum(1) - 0.5 * normal)).sum(1)
    return np.asarray(wins / (defect.sum(1) * normal.sum(1)), dtype=np.float64)


def _figures(textures: Sequence[Sequence[Measured]]) -> dict[str, object]:
    """Means over textures and seeds, the interval of the pixel AUROC's mean, and each texture's own."""

    def mean(name: str) -> float:
        return float(np.mean([np.mean([getattr(one, name) for one in seeds]) for seeds in textures]))

    draws = np.mean([np.mean([one.draws for one in seeds], axis=0) for seeds in textures], axis=0)
    low, high = np.quantile(draws, (0.025, 0.975))
    by_seed = [np.mean([seeds[number].pixel_auroc for seeds in textures]) for number in range(len(textures[0]))]
    return {
        "pixel_auroc": mean("pixel_auroc"), "low": float(low), "high": float(high), "aupro": mean("aupro"),
        "image_auroc": mean("image_auroc"), "seed_sd": float(np.std(by_seed)), "seeds": len(by_seed),
        "pixel_auroc_each": [float(np.mean([one.pixel_auroc for one in seeds])) for seeds in textures],
        "aupro_each": [float(np.mean([one.aupro for one in seeds])) for seeds in textures],
    }  # fmt: skip


if __name__ == "__main__":
    main()
