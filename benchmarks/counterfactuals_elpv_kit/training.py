"""The trainings of `python -m benchmarks.counterfactuals_elpv`, each kept in a folder and not done twice.

Twins differ in `robust` alone: method, network, seed, steps, data and batches are the same.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.cells import cells
from xadflow.detectors import FitRun, as_float, build_detector
from xadflow.detectors.base import CARD, WEIGHTS, Detector, load_detector
from xadflow.detectors.one_class.inputs import RobustSettings
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import GeneratorRun
from xadflow.lineage import code_digest
from xadflow.settings import Home
from xadflow.work.week.explainer_training import training_anomalies

TWINS = ("plain", "robust")
METHOD = "bce"
DETECTOR: dict[str, Any] = {
    "network": "cnn224",
    "preparation": "standard",
    "anomalies": ("known", "synthetic"),
    "epochs": 0.01,
    "min_steps": 200,
    "batch_size": 64,
    "learning_rate": 1e-3,
}
ROBUST = {"radius_normals": 0.15, "radius_anomalies": 0.3, "steps": 2}  # as at 3x32x32 values, see RobustSettings
# Judges: they explain nothing and nothing is trained against them. Name: method, seed, settings.
HELD_OUT: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "fcdd": ("fcdd", 100, {"trunk": "lite0"}),
    "hsc": ("hsc", 101, {**DETECTOR, "network": "cnn32_s"}),
}
AUTOENCODER = {
    "network": "cnn28",
    "preparation": "standard",
    "crop_px": 0,
    "epochs": 0.01,
    "min_steps": 300,
    "batch_size": 64,
    "learning_rate": 3e-3,
}
STEPS, QUICK_STEPS = 400, 100
GENERATOR = {"concepts": 2, "images": 8, "learning_rate": 1e-3, "precision": "bfloat16"}
FALSE_ALARMS = 0.05
_DETECTOR_CODE = ("detectors", "networks", "training", "calibration.py", "defects/drawn.py")
_GENERATOR_CODE = (
    *_DETECTOR_CODE,
    *(f"explainers/diverse/{name}.py" for name in ("losses", "networks", "game", "training")),
)


def place(home: Home) -> Path:
    """Where everything of this benchmark is kept."""
    return home.state / "bench-counterfactuals-elpv"


def twin_settings(twin: str) -> dict[str, Any]:
    """Settings of one of TWINS."""
    return {**DETECTOR, "robust": ROBUST if twin == "robust" else None}


def inner_radius(values: int) -> float:
    """e1: how far normal images were moved in the robust twin's training, l2 on [0,1] values."""
    return float(RobustSettings(**ROBUST).radii(torch.tensor([False]), values)[0])


@cache
def twin(home: Home, kind: str, seed: int) -> Detector:
    """An explained detector, trained where it is not kept."""
    return _kept(home, f"{METHOD}-{kind}", METHOD, seed, twin_settings(kind))


@cache
def held_out(home: Home, name: str) -> Detector:
    """One of the judges."""
    method, seed, settings = HELD_OUT[name]
    return _kept(home, f"judge-{name}", method, seed, settings)


@cache
def autoencoder(home: Home) -> Detector:
    """Whose reconstructions are the baseline `autoencoder`."""
    return _kept(home, "autoencoder", "ae", 0, AUTOENCODER)


def twin_folder(home: Home, kind: str, seed: int) -> Path:
    """Where a twin is kept."""
    return _folder(home, f"{METHOD}-{kind}", METHOD, seed, twin_settings(kind))


def generator_folder(home: Home, kind: str, seed: int, steps: int) -> Path:
    """Where the generator of a twin is kept."""
    key = sha256_json(
        {
            "settings": _generator_settings(seed, steps),
            "detector": twin_folder(home, kind, seed).name,
            "code": code_digest(*_GENERATOR_CODE),
        }
    )[:12]
    return place(home) / f"generator-{kind}-{seed}-{key}"


def generator(home: Home, kind: str, seed: int, steps: int) -> DiverseExplainer:
    """The explainer `diverse` of a twin, trained where it is not kept; a training that was killed goes on."""
    folder = generator_folder(home, kind, seed, steps)
    if not folder.is_dir():
        detector, data = twin(home, kind, seed), cells().training()
        anomalies, _ = training_anomalies(detector, data, seed)
        explainer = DiverseExplainer(**_generator_settings(seed, steps))
        run = GeneratorRun(folder.with_name(folder.name + "-run"), seed, folder.name, torch.device("cpu"))
        explainer.fit(detector, sha256_file(twin_folder(home, kind, seed) / WEIGHTS), data.normals, anomalies, run)
        partial = folder.with_name(f"{folder.name}-partial")
        explainer.save(partial)
        partial.replace(folder)
        shutil.rmtree(run.folder)
    return DiverseExplainer.load(folder)


def scores_of(detector: Detector, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Raw scores [N] of uint8 [N,C,H,W], by way of the normal logit, which forms no heatmap."""
    calibration = detector.calibration
    with torch.no_grad():
        logits = torch.cat([detector.normal_logit(as_float(part)) for part in torch.from_numpy(images).split(128)])
    return np.asarray(calibration.threshold - calibration.temperature * logits.double().numpy())


def described() -> dict[str, Any]:
    """Settings for the results file."""
    return {
        "method": METHOD,
        "detector": DETECTOR,
        "robust": ROBUST,
        "held_out": {
            name: {"method": method, "seed": seed, "settings": settings}
            for name, (method, seed, settings) in HELD_OUT.items()
        },
        "autoencoder": AUTOENCODER,
        "generator": _generator_settings(0, STEPS),
    }


def _generator_settings(seed: int, steps: int) -> dict[str, Any]:
    return DiverseSettings(**GENERATOR, steps=steps, seed=seed).model_dump(mode="json")


def _folder(home: Home, name: str, method: str, seed: int, settings: Mapping[str, Any]) -> Path:
    key = sha256_json({"method": method, "settings": settings, "code": code_digest(*_DETECTOR_CODE)})[:12]
    return place(home) / f"detector-{name}-{seed}-{key}"


def _kept(home: Home, name: str, method: str, seed: int, settings: Mapping[str, Any]) -> Detector:
    folder = _folder(home, name, method, seed, settings)
    if not (folder / CARD).is_file():
        detector = build_detector(method, **settings)
        with tempfile.TemporaryDirectory() as scratch:
            detector.fit(cells().training(), FitRun(Path(scratch), seed, FALSE_ALARMS, "cpu"))
        partial = folder.with_name(f"{folder.name}-partial")
        detector.save(partial)
        partial.replace(folder)
    return load_detector(folder)
