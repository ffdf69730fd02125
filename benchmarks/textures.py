"""Localisation on real textures with generated defects: `python -m benchmarks.textures [--quick]`.

Brick, grass and gravel, 96 px crops of disjoint bands of one picture each, defects with exact masks on the three rungs
of a ladder of contrast and size (xadflow/datasets/sources/textures.py). The ladder was fixed before any detector was
run on it. Defects of the test are drawn by code and from textures that no training sees; the five known defects of the
semi-supervised rows come from the train band, on the rung that is tested.

Rows: two floors (statistics of the grey values; PaDiM on the same features as `fcdd`), FCDD on a frozen pretrained
trunk, and on the middle rung FCDD trained end to end; each without and with the masks of five known defects. Pixel
AUROC pools all pixels of a texture's test images, normal ones included, as the paper does on MVTec-AD; AUPRO up to 30 %
false positives. Figures are means over textures and training seeds; intervals, also of the difference to PaDiM, are
paired bootstraps over test images.

Each cell (texture, row, seed) is kept in var/bench-textures/ and is not measured twice while settings and code are the
same: stop it and start it again as you like. Settings of the end-to-end rows were chosen on grass and gravel, middle
rung, one seed, test images in sight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.kit.models import fitted
from benchmarks.study import Study, kept
from xadflow.datasets.manifest import Split
from xadflow.datasets.sources import Candidate, open_source
from xadflow.detectors import TrainingData
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.images import as_float, decode_png
from xadflow.metrics.localisation import aupro, pixel_auroc
from xadflow.metrics.ranks import auroc
from xadflow.settings import DatasetSettings

TEXTURES = ("brick", "grass", "gravel")
RUNGS, MIDDLE, KNOWN = ("easy", "middle", "hard"), "middle", 5
TARGETS = {"unsupervised": 0.92, "semi-supervised": 0.96}  # the paper's MVTec-AD means: another data set
TRUNK: dict[str, object] = {"stages": (1, 2, 3), "level": "pixel"}
CONV: dict[str, object] = {
    "level": "pixel",
    "preparation": "standard",
    "batch_size": 32,
    "epochs": 0.01,
    "min_steps": 300,
}
BINS, BOOTSTRAP = 2048, 1000

STUDY = Study("textures", own=("textures.py",))
Score = Callable[[Tensor], tuple[Tensor, Tensor]]  # float images [B,1,H,W] to raw scores [B] and maps [B,H,W]


@dataclass(frozen=True, eq=False)
class Row:
    """One detector of the table; without a `method` a floor, of the detector `settings` where it says `padim`."""

    title: str
    method: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    known: bool = False
    rungs: tuple[str, ...] = RUNGS
    trained: bool = True  # a floor is the same for every seed


PADIM = Row("PaDiM, same features", "fcdd", {**TRUNK, "padim": True}, trained=False)
ROWS = (
    Row("grey-value statistics", trained=False),
    PADIM,
    Row("FCDD, frozen trunk, unsupervised", "fcdd", TRUNK),
    Row("FCDD, frozen trunk, 5 masks", "fcdd", TRUNK, known=True),
    Row("FCDD end to end, drawn defects, unsupervised", "fcdd_conv", CONV, rungs=(MIDDLE,)),
    Row("FCDD end to end, drawn defects and 5 masks", "fcdd_conv", CONV, known=True, rungs=(MIDDLE,)),
    Row("FCDD end to end, confetti, unsupervised", "fcdd_conv", {**CONV, "synthesiser": "confetti"}, rungs=(MIDDLE,)),
)


@dataclass(frozen=True)
class Texture:
    """One texture: what may be learned from, and its test images uint8 [N,1,H,W], labels [N], masks bool [N,H,W]."""

    data: TrainingData
    test: Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


Measured = dict[str, NDArray[np.float64]]  # image_auroc, pixel_auroc, aupro: scalars; draws: bootstrapped pixel AUROCs


def main() -> None:
    """Measure what is missing, then write benchmarks/results/textures.json."""
    given = STUDY.start(
        __doc__,
        "brick, one seed, the frozen trunk only",
        seeds={"type": int, "default": 3, "help": "of the rows on a frozen trunk; default 3"},
        end_to_end_seeds={"type": int, "default": 3, "help": "of the others; default 3, 0 leaves them out"},
    )
    end_to_end, frozen = (0, 1) if given.quick else (given.end_to_end_seeds, given.seeds)
    seeds = {row: range((end_to_end if row.method == "fcdd_conv" else frozen) if row.trained else 1) for row in ROWS}
    rows = [row for row in ROWS if seeds[row]]
    textures, spent = TEXTURES[:1] if given.quick else TEXTURES, 0.0
    found: dict[tuple[str, str, str, int], Measured] = {}  # rung, texture, row, seed
    for name, row, seed in [(name, one, seed) for name in textures for one in rows for seed in seeds[one]]:
        for rung, one in _cell(name, row, seed).items():
            found[rung, name, row.title, seed] = one
            spent += float(one["seconds"])
            STUDY.note(f"{name:<7} {rung:<7} seed {seed}  {row.title:<46} pixel {one['pixel_auroc']:.3f}")
    by_rung = {}
    for rung in RUNGS:
        table = {
            row.title: [[found[rung, name, row.title, seed] for seed in seeds[row]] for name in textures]
            for row in rows
            if rung in row.rungs
        }
        by_rung[rung] = {title: figures_of(cells, table[PADIM.title]) for title, cells in table.items()}
    figures = {"known": KNOWN, "textures": list(textures), "targets": TARGETS, "target_rung": MIDDLE, "rungs": by_rung}
    STUDY.write(figures, range(max(end_to_end, frozen)), spent)


def _cell(name: str, row: Row, seed: int) -> dict[str, Measured]:
    """Each rung's figures of one detector on one texture, kept in a file."""

    def make() -> Measured:
        found: Measured = {}
        score: Score | None = None
        for rung in row.rungs:
            begun = time.perf_counter()
            texture = texture_of(name, rung)
            if score is None or row.known:  # known defects are those of the rung; all else is the same on each
                score = score_of(row, texture, seed)
            found |= {f"{rung} {key}": value for key, value in measured(texture, score).items()}
            found[f"{rung} seconds"] = np.asarray(time.perf_counter() - begun)
        return found

    found = kept(STUDY.path(f"{name}-{seed}.npz", row=asdict(row), known=KNOWN), make)
    return {
        rung: {key.removeprefix(f"{rung} "): value for key, value in found.items() if key.startswith(f"{rung} ")}
        for rung in row.rungs
    }


def score_of(row: Row, texture: Texture, seed: int) -> Score:
    """The row's detector, trained on this texture."""
    data = texture.data
    if row.method is None:
        return _statistics(data.normals)
    settings = {key: value for key, value in row.settings.items() if key != "padim"}
    detector: Any = fitted(row.method, settings, seed, data if row.known else without_known(data), "auto")
    if "padim" in row.settings:
        return _padim(detector)

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        found = detector.score(images)
        return found.image, found.map

    return score


def without_known(data: TrainingData) -> TrainingData:
    """Normals alone."""
    return TrainingData(data.normals, data.val_normals, data.known[:0], None, data.calibration_defects)


def texture_of(name: str, rung: str, known: int = KNOWN) -> Texture:
    """Images of one rung, with so many known defects of the train band."""
    settings = DatasetSettings(source="textures", options={"texture": name, "rung": rung, "known": known})
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
    """What grey values alone tell: local mean, spread and edge strength of a 9 px box, in standard deviations of
    normals.
    """

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


def measured(texture: Texture, score: Score) -> Measured:
    """Figures on the test images."""
    with torch.no_grad():
        parts = [score(as_float(batch)) for batch in texture.test.split(32)]
    images = torch.cat([image for image, _ in parts]).double().cpu().numpy()
    maps = torch.cat([one for _, one in parts]).float().cpu().numpy()
    figures = {
        "image_auroc": auroc(images, texture.labels),
        "pixel_auroc": pixel_auroc(maps, texture.masks),
        "aupro": aupro(maps, texture.masks),
        "draws": _resampled(maps, texture.masks),
    }
    return {name: np.asarray(value, dtype=np.float64) for name, value in figures.items()}


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


def figures_of(cells: Sequence[Sequence[Measured]], floor: Sequence[Sequence[Measured]]) -> dict[str, object]:
    """Of cells [texture][seed]: means, the interval of the mean pixel AUROC and of its difference to `floor`'s.

    Resampled images are the same for every row of a texture, so differences are paired.
    """

    def each(name: str) -> list[float]:
        return [float(np.mean([one[name] for one in seeds])) for seeds in cells]

    def drawn(of: Sequence[Sequence[Measured]]) -> NDArray[np.float64]:
        return np.asarray(np.mean([np.mean([one["draws"] for one in seeds], axis=0) for seeds in of], axis=0))

    low, high = np.quantile(drawn(cells), (0.025, 0.975))
    less, more = np.quantile(drawn(cells) - drawn(floor), (0.025, 0.975))
    by_seed = [np.mean([seeds[number]["pixel_auroc"] for seeds in cells]) for number in range(len(cells[0]))]
    above = float(
        np.mean(each("pixel_auroc")) - np.mean([np.mean([one["pixel_auroc"] for one in seeds]) for seeds in floor])
    )
    return {
        "pixel_auroc": float(np.mean(each("pixel_auroc"))),
        "low": float(low),
        "high": float(high),
        "above_padim": {"mean": above, "low": float(less), "high": float(more)},
        "aupro": float(np.mean(each("aupro"))),
        "image_auroc": float(np.mean(each("image_auroc"))),
        "seed_sd": float(np.std(by_seed)),
        "seeds": len(by_seed),
        "pixel_auroc_each": each("pixel_auroc"),
        "aupro_each": each("aupro"),
    }


if __name__ == "__main__":
    main()
