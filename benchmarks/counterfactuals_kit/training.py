"""The trainings of `python -m benchmarks.counterfactuals`, each kept in a folder and not done twice.

The detector learns in two rounds of the same length. Outlier exposure is train digits recoloured to any other colour than
cyan, without a label; one in nine is a 1 and therefore normal. The first round's detector sorts out what it calls normal
itself (mostly those ones), the second learns against the rest; so does the generator. Knowing that cyan alone is to be
recoloured is nearly supervision: 89 of 100 are true anomalies.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.counterfactuals_kit.images import Coloured, random_train, recoloured, train_normals
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.base import WEIGHTS, Detector, load_detector
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import GeneratorRun
from xadflow.lineage import code_digest
from xadflow.settings import Home

DETECTOR = {
    "network": "cnn28", "preparation": "standard", "anomalies": ("outliers",), "flip": False, "crop_px": 1,
    "epochs": 0.01, "min_steps": 300, "batch_size": 128, "learning_rate": 3e-3,
}  # fmt: skip
SECOND = {**DETECTOR, "network": "cnn32", "min_steps": 200}
SECOND_SEED = 100
PROBABILITY = {"bce": "logit", "hsc": "exponential"}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {}, "no-hinge": {"diversity": 0.0}, "no-discriminator": {"adversarial": 0.0}, "cycle": {"cycle": 5.0},
}  # fmt: skip
STEPS, QUICK_STEPS = 1500, 700
VAL_SHARE, OUTLIERS, CALIBRATING = 0.2, 16_000, 500
KEPT = "kept.npy"
DETECTOR_CODE = ("detectors", "engine", "calibration.py", "data/colours.py")
GENERATOR_CODE = (*DETECTOR_CODE, *(f"explainers/diverse/{name}.py" for name in ("losses", "networks", "training")))


@dataclass(frozen=True)
class Cell:
    """One row and seed of the table; `variant` is one of VARIANTS, or `baselines`."""

    method: str
    variant: str
    seed: int
    steps: int = STEPS

    def __str__(self) -> str:
        return f"{self.method} {self.variant:<16} seed {self.seed}"


@cache
def normals() -> tuple[Coloured, Coloured]:
    """To learn from, and held out for the threshold."""
    found = train_normals()
    val = round(VAL_SHARE * len(found))
    return found[val:], found[:val]


@cache
def exposure() -> tuple[Coloured, Coloured]:
    """Recoloured digits: to learn against, and those that set the temperature."""
    found = recoloured(OUTLIERS + CALIBRATING)
    return found[:OUTLIERS], found[OUTLIERS:]


def place(home: Home) -> Path:
    """Where everything of this benchmark is kept."""
    return home.state / "bench-counterfactuals"


def detector_folder(home: Home, method: str, seed: int) -> Path:
    """The folder of one explained detector."""
    key = sha256_json({"settings": DETECTOR, "outliers": [OUTLIERS, CALIBRATING], "code": code_digest(*DETECTOR_CODE)})[:12]
    return place(home) / f"detector-{method}-{seed}-{key}"


def explained(home: Home, method: str, seed: int) -> Detector:
    """The detector to explain, trained in two rounds where it is not kept."""
    folder = detector_folder(home, method, seed)
    if not (folder / KEPT).is_file():
        outliers, calibrating = exposure()
        first = _fitted(method, DETECTOR, seed, outliers, calibrating)
        kept, kept_too = (anomaly_probability(method, scores_of(first, one.images)) > 0.5 for one in (outliers, calibrating))
        _write(_fitted(method, DETECTOR, seed, outliers[kept], calibrating[kept_too]), folder, kept)
    return load_detector(folder)


def kept_outliers(home: Home, method: str, seed: int) -> Coloured:
    """What the first round left of the exposure."""
    return exposure()[0][np.load(detector_folder(home, method, seed) / KEPT)]


def second_detector(home: Home) -> Detector:
    """A judge that explains nothing and trains nothing: another network, seed and exposure (true anomalies of train digits)."""
    key = sha256_json({"settings": SECOND, "code": code_digest(*DETECTOR_CODE)})[:12]
    folder = place(home) / f"second-{key}"
    if not (folder / KEPT).is_file():
        drawn = random_train(OUTLIERS)
        true = drawn[np.flatnonzero(~drawn.is_normal)]
        found = _fitted("bce", SECOND, SECOND_SEED, true[CALIBRATING:], true[:CALIBRATING])
        _write(found, folder, np.ones(len(true) - CALIBRATING, np.bool_))
    return load_detector(folder)


def generator_settings(cell: Cell) -> dict[str, Any]:
    """Settings of the explainer `diverse` for a cell, defaults and all."""
    chosen = {"probability": PROBABILITY[cell.method], "steps": cell.steps, "seed": cell.seed, "precision": "bfloat16"}
    return DiverseSettings(**chosen, **VARIANTS[cell.variant]).model_dump(mode="json")


def generator_folder(home: Home, cell: Cell) -> Path:
    """The folder of one generator."""
    key = sha256_json({"settings": generator_settings(cell), "detector": detector_folder(home, cell.method, cell.seed).name,
                       "code": code_digest(*GENERATOR_CODE)})[:12]  # fmt: skip
    return place(home) / f"generator-{cell.method}-{cell.variant}-{cell.seed}-{key}"


def generator(home: Home, cell: Cell) -> DiverseExplainer:
    """The explainer of a cell, trained where it is not kept; a training that was killed goes on."""
    folder = generator_folder(home, cell)
    if not folder.is_dir():
        detector = explained(home, cell.method, cell.seed)
        weights = sha256_file(detector_folder(home, cell.method, cell.seed) / WEIGHTS)
        explainer = DiverseExplainer(**generator_settings(cell))
        run = GeneratorRun(folder.with_name(folder.name + "-run"), cell.seed, folder.name, torch.device("cpu"))
        explainer.fit(detector, weights, torch.from_numpy(normals()[0].images),
                      torch.from_numpy(kept_outliers(home, cell.method, cell.seed).images), run)  # fmt: skip
        partial = folder.with_name(f"{folder.name}-partial")
        explainer.save(partial)
        partial.replace(folder)
        shutil.rmtree(run.folder)
    return DiverseExplainer.load(folder)


def substituted(method: str, made: NDArray[np.uint8], outliers: Coloured, seed: int) -> Detector:
    """A detector whose train normals are counterfactuals uint8 [N,3,28,28], all else as for the explained one."""
    labels = np.zeros(len(made), np.int64)
    learnt = Coloured(made, labels, labels)
    return _fitted(method, DETECTOR, seed, outliers, exposure()[1][:0], learnt)


def scores_of(detector: Detector, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Raw scores [N] of uint8 [N,3,28,28], by way of the normal logit, which forms no heatmap."""
    calibration = detector.calibration
    with torch.no_grad():
        logits = torch.cat([detector.normal_logit(as_float(part)) for part in torch.from_numpy(images).split(500)])
    return np.asarray(calibration.threshold - calibration.temperature * logits.double().numpy())


def anomaly_probability(method: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """phi of raw scores, by the method's own form."""
    return np.asarray(1.0 / (1.0 + np.exp(-scores)) if method == "bce" else -np.expm1(-scores))


def _fitted(
    method: str, settings: dict[str, Any], seed: int, outliers: Coloured, calibrating: Coloured, learnt: Coloured | None = None
) -> Detector:
    """Trained in seconds, so a killed one starts over: in a folder of its own, for two cells may train the same detector."""
    train, held = normals()
    none = torch.zeros(0, *train.images.shape[1:], dtype=torch.uint8)
    data = TrainingData(_tensor(learnt or train), _tensor(held), none, None, _tensor(calibrating), _tensor(outliers))
    detector = build_detector(method, **settings)
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(data, FitRun(Path(folder), seed, 0.05, "cpu", None))
    return detector


def _write(detector: Detector, folder: Path, kept: NDArray[np.bool_]) -> None:
    """At once, and never over what another process wrote."""
    partial = folder.with_name(f"{folder.name}-partial-{np.random.default_rng().integers(1 << 32)}")
    detector.save(partial)
    np.save(partial / KEPT, kept)
    try:
        partial.replace(folder)
    except OSError:  # another cell of the same detector was quicker, with the same result
        shutil.rmtree(partial)


def _tensor(of: Coloured) -> Tensor:
    return torch.from_numpy(of.images)


def described() -> dict[str, Any]:
    """Settings for the results file."""
    return {"detector": DETECTOR, "second": SECOND, "variants": VARIANTS, "full": generator_settings(Cell("bce", "full", 0)),
            "sizes": {"train_normals": len(normals()[0]), "held_out_normals": len(normals()[1]), "exposure": OUTLIERS},
            "example": asdict(Cell("bce", "full", 0))}  # fmt: skip
