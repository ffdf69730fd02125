"""Detection on ELPV, two splits, FCDD beside its floors: `python -m benchmarks.elpv [--quick]`.

Image AUROC of raw scores on `peer-0` (random; other libraries report on it) and on the five `blocks` folds (contiguous
rows; what a plant would see). Splits, the carving of validation normals and the order of known defects are those of
the product (xadflow.datasets); 60 drawn defects are out of every test set whatever k is. Intervals: 95 % percentile
bootstrap over test images, of the mean over training seeds (and over folds); "vs PaDiM" is paired on the same draws.

What was visible while choosing: the settings come from docs/explanation/methods.md, "Solar cells", which was searched
with part of these test images in sight; the few variants tried here (192 px, 64 outputs, learning rate, epochs,
pooling, shrinkage; none adopted) were looked at on blocks-0 and blocks-1; `blocks 2-4` is the mean of the folds that no
choice of ours has seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.study import Study
from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.sources.base import Candidate
from xadflow.datasets.sources.elpv import Elpv
from xadflow.datasets.stages import carve
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors import FitRun
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.detectors.fcdd.feature_bank import FeatureBank, features_of, flipped
from xadflow.detectors.fcdd.heads import Whitening
from xadflow.detectors.losses import pooled
from xadflow.digests import sha256_file
from xadflow.images import load_input
from xadflow.metrics.intervals import resampled_tables
from xadflow.metrics.ranks import auroc, auroc_of, rank
from xadflow.networks.pretrained import Trunk
from xadflow.settings import DatasetSettings
from xadflow.training.seeds import seeded

SEEDS = (0, 1, 2)
BLOCKS = tuple(f"blocks-{fold}" for fold in range(5))
UNSEEN = BLOCKS[2:]
PROTOCOLS = ("peer-0", *BLOCKS)
TARGETS = {"peer-0": 0.93, "blocks": 0.83}
AIMS = {"peer-0": 0.95, "blocks": 0.88}
MAIN, PADIM = "FCDD learned Mahalanobis, k=20", "PaDiM, same features"
BOOTSTRAP = 2000
VAL_SHARE = 0.15  # as params.yaml
SCALAR = {"head": "scalar", "hidden": 128}
Row = dict[str, list[np.ndarray]]  # protocol -> scores [N] of each seed


@dataclass(frozen=True)
class Size:
    """What is run at one input size: known-defect counts, and the settings that differ from the defaults."""

    px: int
    known: tuple[int, ...]
    settings: dict[str, object]


FULL = Size(128, (0, 5, 20, 60), {})
QUICK = Size(128, (0, 20), {"flips": "known", "synthetic_rounds": 1})


@dataclass(frozen=True)
class Protocol:
    """Rows (into the list of all used images) of each part, test labels and cell types."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    types: np.ndarray


def protocols(names: tuple[str, ...]) -> tuple[list[Path], dict[str, Protocol]]:
    """Files of all images that some protocol uses, and each protocol as rows into them, val carved out as in use."""
    numbers: dict[Path, int] = {}
    digests: dict[Path, str] = {}
    found = {}
    for name in names:
        offered = [c for c in Elpv("elpv", {"protocol": name}).candidates() if isinstance(c, Candidate)]
        rows = []
        for candidate in offered:
            path = Path(str(candidate.content))
            at = str(numbers.setdefault(path, len(numbers)))
            rows.append(row_of(candidate, digests.setdefault(path, sha256_file(path)), at))
        carved = carve(rows, DatasetSettings(source="elpv", val_share=VAL_SHARE))
        parts = {
            kind: sorted((row for row in carved if row.split in kind), key=lambda row: row.image_id)
            for kind in ((Split.TRAIN,), (Split.VAL,), (Split.TEST, Split.GATE), (Split.KNOWN,))
        }
        train, val, test, known = parts.values()
        found[name] = Protocol(
            *(np.array([int(row.path) for row in part]) for part in (train, val, test, known)),
            np.array([row.label for row in test]),
            np.array([row.category for row in test]),
        )
    return list(numbers), found


def row_of(one: Candidate, digest: str, path: str) -> ManifestRow:
    """A cell's row of the manifest, as the stages of the data set write it."""
    told = (one.label, one.category, one.defect, None, 300, 300, one.source, one.licence)
    return ManifestRow(digest, path, str(one.split), *told)


class Caches:
    """Trunk features of all images at one size, computed once for all protocols, heads and seeds."""

    def __init__(self, paths: list[Path], found: dict[str, Protocol], size: Size, seeds: tuple[int, ...]) -> None:
        settings = FCDD(**size.settings).settings
        self.trunk = Trunk(settings.trunk, settings.stages)
        images = torch.stack([torch.tensor(load_input(path, (size.px, size.px), 1)) for path in paths])
        self.brightness = images.double().mean(dim=(1, 2, 3)).numpy()
        self.plain = self._features(images, "images")
        normals = np.unique(np.concatenate([protocol.train for protocol in found.values()]))
        known = np.unique(np.concatenate([protocol.known for protocol in found.values()]))
        self.normal_at = {int(row): place for place, row in enumerate(normals)}
        self.known_at = {int(row): place for place, row in enumerate(known)}
        self.mirrored = (
            self._features(images[normals].flip(-1), "mirrored normals") if settings.normal_copies == 2 else None
        )
        self.known = [
            self._features(part, "known defects")
            for part in flipped(images[known], settings.known_copies).chunk(settings.known_copies)
        ]
        self.rounds = settings.synthetic_rounds
        self.synthetic = {}
        for seed in seeds:
            drawn, _ = synthetic_rounds(
                images[normals], settings.synthesiser, self.rounds, 32, torch.device("cpu"), seeded(seed, "synthetic")
            )
            self.synthetic[seed] = self._features(drawn, f"synthetic defects, seed {seed}").chunk(self.rounds)

    def _features(self, images: Tensor, what: str) -> Tensor:
        started = time.perf_counter()
        features = features_of(self.trunk, images, 32, torch.device("cpu"))
        print(f"  {len(images):5d} {what} at {images.shape[-1]} px: {time.perf_counter() - started:.0f} s", flush=True)
        return features


def run_protocol(caches: Caches, protocol: Protocol, size: Size, seeds: tuple[int, ...]) -> dict[str, list[np.ndarray]]:
    """Scores [N] of the test images for each row and seed."""
    settings = FCDD(**size.settings).settings
    places = np.array([caches.normal_at[int(row)] for row in protocol.train])
    normals = caches.plain[protocol.train]
    if caches.mirrored is not None:
        normals = torch.cat([normals, caches.mirrored[places]])
    whitening = Whitening(
        caches.trunk.channels,
        (normals.shape[2], normals.shape[3]),
        "location",
        settings.whitening_floor,
        settings.shrinkage,
    )
    whitening.fit(normals)
    z_normals, z_test = whitening.in_half(normals), whitening.in_half(caches.plain[protocol.test])
    known = np.array([caches.known_at[int(row)] for row in protocol.known])
    z_known = [whitening.in_half(part[known]) for part in caches.known]
    rows = {"brightness": [-caches.brightness[protocol.test]], PADIM: [_padim(z_test, settings.pool())]}
    kinds = [(f"FCDD learned Mahalanobis, k={k}", k, {}) for k in size.known]
    kinds += [(f"FCDD published scalar head, k={k}", k, SCALAR) for k in (0, 20)]
    for seed in seeds:
        z_synthetic = torch.cat([whitening.in_half(part[places]) for part in caches.synthetic[seed]])
        none = torch.zeros(0, size.px, size.px, dtype=torch.bool)  # masks: not used at image level
        for name, k, more in kinds:
            bank = FeatureBank(z_normals, z_synthetic, none, torch.cat([part[:k] for part in z_known]), none)
            detector = FCDD(**{**size.settings, **more})
            with tempfile.TemporaryDirectory() as folder:
                run = FitRun(Path(folder), seed, 0.05, "cpu")
                detector.fit_head(caches.trunk, whitening, bank, (1, size.px, size.px), run, f"{name} {seed}")
            with torch.no_grad():
                maps = [detector.fitted.head.response(part.float()) for part in torch.split(z_test, 128)]
            rows.setdefault(name, []).append(pooled(torch.cat(maps), detector.settings.pool()).double().numpy())
    return rows


def _padim(z: Tensor, share: float) -> np.ndarray:
    """PaDiM's distance of each location, pooled as FCDD pools."""
    distance = torch.cat([part.float().square().mean(dim=-1).sqrt() for part in torch.split(z, 128)])
    return pooled(distance, share).double().numpy()


def _drawn(scores: list[np.ndarray], labels: np.ndarray, stream: int) -> np.ndarray:
    """Bootstrap draws [BOOTSTRAP] of the mean over seeds of AUROC; equal `stream` and labels give equal images."""
    per_seed = [
        np.concatenate([auroc_of(*tables) for tables in resampled_tables(rank(one, labels), BOOTSTRAP, stream)])
        for one in scores
    ]
    return np.mean(per_seed, axis=0)


def summarise(scores: Row, padim: Row, found: dict[str, Protocol]) -> dict[str, Any]:
    """Figures of one row: AUROC of each split and of the folds' mean, intervals, per cell type, paired with PaDiM."""
    folds = [name for name in scores if name in BLOCKS]
    point = {name: [auroc(one, found[name].labels) for one in scores[name]] for name in scores}
    drawn = {name: _drawn(scores[name], found[name].labels, PROTOCOLS.index(name)) for name in scores}
    beside = {name: _drawn(padim[name], found[name].labels, PROTOCOLS.index(name)) for name in scores}
    figures: dict[str, Any] = {}
    groups = {name: [name] for name in scores} | {"blocks": folds}
    if unseen := [name for name in folds if name in UNSEEN]:
        groups["blocks 2-4"] = unseen
    for group, members in groups.items():
        mean = float(np.mean([np.mean(point[name]) for name in members]))
        here = np.mean([drawn[name] for name in members], axis=0)
        gap = here - np.mean([beside[name] for name in members], axis=0)
        base = float(np.mean([auroc(padim[name][0], found[name].labels) for name in members]))
        side = min(int((gap <= 0).sum()), int((gap >= 0).sum()))
        figures[group] = {
            "auroc": mean,
            "low": float(np.quantile(here, 0.025)),
            "high": float(np.quantile(here, 0.975)),
            "seed_sd": float(np.std(np.mean([point[name] for name in members], axis=0))),
            "minus_padim": mean - base,
            "minus_padim_low": float(np.quantile(gap, 0.025)),
            "minus_padim_high": float(np.quantile(gap, 0.975)),
            "p_value": min(1.0, 2 * (side + 1) / (BOOTSTRAP + 1)),
        }
    peer = found["peer-0"]
    figures["by_type"] = {
        kind: float(np.mean([auroc(one[own], peer.labels[own]) for one in scores["peer-0"]]))
        for kind, own in ((kind, peer.types == kind) for kind in ("mono", "poly"))
    }
    return figures


def main() -> None:
    """Run everything, print the table and write benchmarks/results/elpv.json (elpv-quick.json with --quick)."""
    study = Study("elpv")
    quick = study.start(__doc__, "one seed, 128 px, peer-0 and two folds").quick
    seeds, size = (SEEDS[:1], QUICK) if quick else (SEEDS, FULL)
    paths, found = protocols(("peer-0", "blocks-1", "blocks-2") if quick else PROTOCOLS)
    caches = Caches(paths, found, size, seeds)
    by_row: dict[str, Row] = {}
    for name, protocol in found.items():
        for row, scores in run_protocol(caches, protocol, size, seeds).items():
            by_row.setdefault(row, {})[name] = scores
        study.note(name)
    figures = {row: summarise(scores, by_row[PADIM], found) for row, scores in by_row.items()}
    study.write(figures, seeds)
    reached = {group: figures[MAIN][group]["auroc"] for group in TARGETS}
    for group, value in reached.items():
        print(f"target {group} k=20: {value:.3f}, at least {TARGETS[group]}, aim {AIMS[group]}")
    if any(value < TARGETS[group] for group, value in reached.items()):
        sys.exit("the targets are not met")


if __name__ == "__main__":
    main()
