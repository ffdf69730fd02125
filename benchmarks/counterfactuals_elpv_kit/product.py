"""Images and trainings of `python -m benchmarks.counterfactuals_elpv_product`, each kept in a folder and not done
twice.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.sources.base import Candidate
from xadflow.datasets.sources.elpv import Elpv
from xadflow.datasets.stages import carve
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.base import CARD, WEIGHTS, Detector, load_detector
from xadflow.detectors.scoring import score_images
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.trained import GeneratorRun
from xadflow.explainers.transplant.bank import DonorBank
from xadflow.images import load_input
from xadflow.lineage import code_digest
from xadflow.settings import Home, Settings
from xadflow.work.week.explainer_guidance import guidance, rows_of_donors
from xadflow.work.week.explainer_training import training_anomalies

Pixels = NDArray[np.uint8]
JUDGE: tuple[str, dict[str, Any]] = ("padim", {"trunk": "mobilenet_v2"})  # no trunk of the detector or of a companion
AUTOENCODER: dict[str, Any] = {
    "network": "cnn28",
    "preparation": "standard",
    "crop_px": 0,
    "min_steps": 300,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "epochs": 0.01,
}
QUIET = 0.8  # donors score below this quantile of the train normals, as the product chooses them
FALSE_ALARMS = 0.05
_DETECTOR_CODE = ("detectors", "networks", "training", "calibration.py", "defects/drawn.py")
_GENERATOR_CODE = (*_DETECTOR_CODE, "explainers/diverse", "explainers/transplant", "work/week/explainer_guidance.py")


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


def place(home: Home) -> Path:
    """Where everything of this benchmark is kept."""
    return home.state / "bench-counterfactuals-elpv-product"


def product_cells(home: Home, settings: Settings, name: str) -> Cells:
    """The data set as params.yaml says; gate is carved out of test and not read."""
    dataset = settings.dataset(name)
    rows = []
    for one in Elpv(name, dataset.options).candidates():
        if isinstance(one, Candidate):
            path = Path(str(one.content))
            rows.append(
                ManifestRow(
                    sha256_file(path),
                    str(path),
                    str(one.split),
                    one.label,
                    one.category,
                    one.defect,
                    None,
                    300,
                    300,
                    one.source,
                    one.licence,
                )
            )
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


def detector_of(home: Home, settings: Settings, cells: Cells, name: str, seed: int) -> tuple[Detector, Path]:
    """The product's detector of a seed, and where it is kept."""
    chosen = settings.detector(name)
    folder = _kept(home, name, chosen.method, chosen.settings, seed, cells.training())
    return load_detector(folder), folder


def judge_of(home: Home, cells: Cells) -> Detector:
    """The judge: fitted on its half of the normals, calibrated on val."""
    data = cells.training()
    own = TrainingData(
        torch.from_numpy(cells.judged), data.val_normals, data.known[:0], None, data.known[:0], data.outliers
    )
    return load_detector(_kept(home, "judge", *JUDGE, 0, own))


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
    home: Home, cells: Cells, detector: Detector, folder: Path, given: Mapping[str, Any], seed: int
) -> tuple[DiverseExplainer, dict[str, Any]]:
    """The product's generator for a detector, and what its training took; a training that was killed goes on."""
    explainer = DiverseExplainer(**{**given, "seed": seed})
    key = sha256_json(
        {
            "settings": explainer.settings.model_dump(mode="json"),
            "detector": folder.name,
            "code": code_digest(*_GENERATOR_CODE),
        }
    )[:12]
    saved = place(home) / f"generator-{seed}-{key}"
    if not saved.is_dir():
        run_folder = saved.with_name(f"{saved.name}-run")
        run_folder.mkdir(parents=True, exist_ok=True)
        started, busy = time.perf_counter(), time.process_time()
        data = cells.training()
        anomalies, _ = training_anomalies(detector, data, seed)
        bank = bank_of(detector, cells)
        given_to = (
            None
            if explainer.wanted is None
            else guidance(
                explainer.wanted,
                detector,
                data,
                FitRun(run_folder, seed, FALSE_ALARMS, "cpu"),
                bank=bank,
                symmetries=cells.symmetries,
                apart=companion_rows(cells),
            )
        )
        run = GeneratorRun(run_folder, seed, saved.name, torch.device("cpu"))
        trained = explainer.fit(detector, sha256_file(folder / WEIGHTS), data.normals, anomalies, run, given_to)
        partial = saved.with_name(f"{saved.name}-partial")
        explainer.save(partial)
        took = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - busy,
            "resumed_from": trained.resumed_from,
        }
        (partial / "took.json").write_text(json.dumps(took))
        partial.replace(saved)
        shutil.rmtree(run_folder)
    return DiverseExplainer.load(saved), json.loads((saved / "took.json").read_text())


def reconstructed(home: Home, cells: Cells, images: Pixels) -> Pixels:
    """What an autoencoder of the train normals makes of images, uint8 [N,1,C,H,W]."""
    folder = _kept(home, "autoencoder", "ae", AUTOENCODER, 0, cells.training())
    response: Any = load_detector(folder)
    prepare, network = response.response.prepare, response.response.network
    with torch.no_grad():
        black, white = (prepare(torch.full((1, *images.shape[1:]), value)) for value in (0.0, 1.0))
        made = torch.cat([network(prepare(as_float(part))) for part in torch.from_numpy(images).split(100)])
        shown = (made - black) / (white - black)  # the preparation is a scale and a shift of each channel
    found: Pixels = (shown * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()[:, None]
    return found


def _kept(home: Home, name: str, method: str, given: Mapping[str, Any], seed: int, data: TrainingData) -> Path:
    key = sha256_json({"method": method, "settings": dict(given), "code": code_digest(*_DETECTOR_CODE)})[:12]
    folder = place(home) / f"detector-{name}-{seed}-{key}"
    if not (folder / CARD).is_file():
        detector = build_detector(method, **given)
        with tempfile.TemporaryDirectory() as scratch:
            detector.fit(data, FitRun(Path(scratch), seed, FALSE_ALARMS, "cpu"))
        partial = folder.with_name(f"{folder.name}-partial")
        detector.save(partial)
        partial.replace(folder)
    return folder
