"""Images and trainings of `python -m benchmarks.counterfactuals_elpv_product`, each kept in a folder and not done
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.elpv import row_of
from benchmarks.kit.judging import told
from benchmarks.kit.models import AUTOENCODER, FALSE_ALARMS, TOOK, kept_detector, kept_generator
from benchmarks.study import Study, read
from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.sources.base import Candidate
from xadflow.datasets.sources.elpv import Elpv
from xadflow.datasets.stages import carve
from xadflow.detectors import FitRun, TrainingData
from xadflow.detectors.base import Detector
from xadflow.detectors.scoring import score_images
from xadflow.digests import sha256_file
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.reconstruction import ReconstructionExplainer
from xadflow.explainers.transplant.bank import DonorBank
from xadflow.images import as_float, load_input
from xadflow.lineage import GENERATOR_CODE
from xadflow.settings import Settings
from xadflow.work.week.explainer_guidance import guidance, rows_of_donors
from xadflow.work.week.explainer_training import training_anomalies

Pixels = NDArray[np.uint8]
JUDGE: tuple[str, dict[str, Any]] = ("padim", {"trunk": "mobilenet_v2"})  # no trunk of the detector or of a companion
QUIET = 0.8  # donors score below this quantile of the train normals, as the product chooses them
STUDY = Study(
    "counterfactuals-elpv-product",
    GENERATOR_CODE,
    ("counterfactuals_elpv_product.py", "counterfactuals_elpv_kit", "kit"),
)


@dataclass(frozen=True)
class Cells:
    """Images uint8 [N,C,H,W] of each split in the order of image_id; `labels` [N] of the test images,
    `rows` of train.
    """

    train: Pixels
    val: Pixels
    known: Pixels
    test: Pixels
    labels: NDArray[np.int64]
    rows: tuple[ManifestRow, ...]
    known_used: int
    symmetries: Any

    def training(self) -> TrainingData:
        """What a detector learns from, as xadflow.datasets.loading gives it."""
        known = torch.from_numpy(self.known)
        return TrainingData(
            torch.from_numpy(self.train),
            torch.from_numpy(self.val),
            known[: self.known_used],
            None,
            known[self.known_used :],
            known[:0],
        )

    @property
    def donors(self) -> Pixels:
        """Train normals that may give pixels."""
        return self.train[rows_of_donors(self.rows)]

    @property
    def judged(self) -> Pixels:
        """Train normals that the judge is fitted on: the others."""
        rows = set(rows_of_donors(self.rows))
        return self.train[[row for row in range(len(self.train)) if row not in rows]]


def product_cells(settings: Settings, name: str) -> Cells:
    """The data set as params.yaml says; gate is carved out of test and not read."""
    dataset = settings.dataset(name)
    rows = []
    for one in Elpv(name, dataset.options).candidates():
        if isinstance(one, Candidate):
            path = Path(str(one.content))
            rows.append(row_of(one, sha256_file(path), str(path)))
    carved = sorted(carve(rows, dataset), key=lambda row: row.image_id)
    split = {
        kind: [row for row in carved if row.split == kind] for kind in (Split.TRAIN, Split.VAL, Split.KNOWN, Split.TEST)
    }
    size = (dataset.size_px, dataset.size_px)
    images = [np.stack([load_input(Path(row.path), size, dataset.channels) for row in split[kind]]) for kind in split]
    return Cells(
        *images,
        np.array([row.label for row in split[Split.TEST]]),
        tuple(split[Split.TRAIN]),
        dataset.known_used,
        dataset.symmetries,
    )


def companion_rows(cells: Cells) -> list[int]:
    """Train normals that companions are fitted on: those that the judge is not."""
    return rows_of_donors(cells.rows)


def detector_of(settings: Settings, cells: Cells, name: str, seed: int) -> tuple[Detector, Path]:
    """The product's detector of a seed, and where it is kept."""
    chosen = settings.detector(name)
    folder = _folder(name, chosen.method, chosen.settings, seed)
    return kept_detector(folder, chosen.method, chosen.settings, seed, cells.training), folder


def judge_of(cells: Cells) -> Detector:
    """The judge: fitted on its half of the normals, calibrated on val."""

    def own() -> TrainingData:
        data = cells.training()
        nothing = data.known[:0]
        normals = torch.from_numpy(cells.judged)
        return TrainingData(normals, data.val_normals, nothing, None, nothing, data.outliers)

    method, settings = JUDGE
    return kept_detector(_folder("judge", method, settings, 0), method, settings, 0, own)


def bank_of(detector: Detector, cells: Cells) -> DonorBank:
    """Donors of transplants: the quiet ones of their half, all of them."""
    donors = torch.from_numpy(cells.donors)
    scores = score_images(detector, donors, 64, torch.device("cpu"))
    rows = np.flatnonzero(scores <= min(np.quantile(scores, QUIET), detector.calibration.threshold))
    ids = [cells.rows[row].image_id for row in companion_rows(cells)]
    with torch.no_grad():
        maps = [detector.score(as_float(part)).map for part in torch.from_numpy(cells.val).split(64)]
    mean = None if maps[0] is None else torch.cat([one for one in maps if one is not None]).mean(dim=0)
    return DonorBank(tuple(ids[row] for row in rows), donors[rows], cells.symmetries, aligned=True, mean_map=mean)


def generator_of(
    cells: Cells, detector: Detector, folder: Path, given: Mapping[str, Any], seed: int
) -> tuple[DiverseExplainer, dict[str, Any]]:
    """The product's generator for a detector, and what its training took; a training that was killed goes on."""
    settings = DiverseExplainer(**{**given, "seed": seed}).settings.model_dump(mode="json")
    saved = STUDY.trained(f"generator-{seed}", settings=settings, detector=folder.name)
    data = cells.training()

    def guided(explainer: DiverseExplainer, scratch: Path) -> Any:
        if explainer.wanted is None:
            return None
        run, apart = FitRun(scratch, seed, FALSE_ALARMS, "cpu"), companion_rows(cells)
        bank = bank_of(detector, cells)
        return guidance(explainer.wanted, detector, data, run, bank=bank, symmetries=cells.symmetries, apart=apart)

    def learnt(_: Detector) -> tuple[torch.Tensor, torch.Tensor]:
        return data.normals, training_anomalies(detector, data, seed)[0]

    generator = kept_generator(saved, folder, settings, learnt, guided)
    return generator, read(saved / TOOK)


def autoencoder(cells: Cells) -> Detector:
    """Whose reconstructions are a baseline."""
    return kept_detector(_folder("autoencoder", "ae", AUTOENCODER, 0), "ae", AUTOENCODER, 0, cells.training)


def expert(settings: Settings, cells: Cells, images: Pixels) -> Pixels:
    """What the second stage of `utad`, trained as params.yaml says, makes of images; uint8 [N,1,C,H,W]."""
    chosen = settings.detector("utad")
    folder = _folder("utad", chosen.method, chosen.settings, 0)
    detector = kept_detector(folder, chosen.method, chosen.settings, 0, cells.training)
    return told(ReconstructionExplainer(sheet=False), detector, images)


def _folder(name: str, method: str, given: Mapping[str, Any], seed: int) -> Path:
    return STUDY.trained(f"detector-{name}-{seed}", method=method, settings=dict(given))
