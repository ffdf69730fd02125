"""The trainings of `python -m benchmarks.counterfactuals_elpv`, each kept in a folder and not done twice.

Twins differ in `robust` alone: method, network, seed, steps, data and batches are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.counterfactuals_elpv_kit.cells import cells
from benchmarks.kit.models import AUTOENCODER, NETWORK, kept_detector, kept_generator
from benchmarks.study import Study
from xadflow.detectors.base import Detector
from xadflow.detectors.one_class.inputs import RobustSettings
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.lineage import GENERATOR_CODE
from xadflow.work.week.explainer_training import training_anomalies

TWINS = ("plain", "robust")
METHOD = "bce"
DETECTOR: dict[str, Any] = {**NETWORK, "network": "cnn224"}
ROBUST = {"radius_normals": 0.15, "radius_anomalies": 0.3, "steps": 2}  # as at 3x32x32 values, see RobustSettings
# Judges: they explain nothing and nothing is trained against them. Name: method, seed, settings.
HELD_OUT: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "fcdd": ("fcdd", 100, {"trunk": "lite0"}),
    "hsc": ("hsc", 101, {**DETECTOR, "network": "cnn32_s"}),
}
STEPS, QUICK_STEPS = 400, 100
GENERATOR = {"concepts": 2, "images": 8, "learning_rate": 1e-3, "precision": "bfloat16"}
STUDY = Study("counterfactuals-elpv", GENERATOR_CODE, ("counterfactuals_elpv.py", "counterfactuals_elpv_kit", "kit"))


def twin_settings(twin: str) -> dict[str, Any]:
    """Settings of one of TWINS."""
    return {**DETECTOR, "robust": ROBUST if twin == "robust" else None}


def inner_radius(values: int) -> float:
    """e1: how far normal images were moved in the robust twin's training, l2 on [0,1] values."""
    return float(RobustSettings(**ROBUST).radii(torch.tensor([False]), values)[0])


def twin_folder(kind: str, seed: int) -> Path:
    """Where a twin is kept."""
    return _folder(f"{METHOD}-{kind}", METHOD, seed, twin_settings(kind))


@cache
def twin(kind: str, seed: int) -> Detector:
    """An explained detector, trained where it is not kept."""
    return _kept(f"{METHOD}-{kind}", METHOD, seed, twin_settings(kind))


@cache
def held_out(name: str) -> Detector:
    """One of the judges."""
    method, seed, settings = HELD_OUT[name]
    return _kept(f"judge-{name}", method, seed, settings)


@cache
def autoencoder() -> Detector:
    """Whose reconstructions are the baseline `autoencoder`."""
    return _kept("autoencoder", "ae", 0, AUTOENCODER)


def generator_folder(kind: str, seed: int, steps: int) -> Path:
    """Where the generator of a twin is kept."""
    settings, of = _generator_settings(seed, steps), twin_folder(kind, seed).name
    return STUDY.trained(f"generator-{kind}-{seed}", settings=settings, detector=of)


def generator(kind: str, seed: int, steps: int) -> DiverseExplainer:
    """The explainer `diverse` of a twin, trained where it is not kept; a training that was killed goes on."""

    def learnt(detector: Detector) -> tuple[Tensor, Tensor]:
        data = cells().data
        return data.normals, training_anomalies(detector, data, seed)[0]

    twin(kind, seed)
    settings = _generator_settings(seed, steps)
    return kept_generator(generator_folder(kind, seed, steps), twin_folder(kind, seed), settings, learnt)


def _folder(name: str, method: str, seed: int, settings: Mapping[str, Any]) -> Path:
    return STUDY.trained(f"detector-{name}-{seed}", method=method, settings=settings)


def _kept(name: str, method: str, seed: int, settings: Mapping[str, Any]) -> Detector:
    return kept_detector(_folder(name, method, seed, settings), method, settings, seed, lambda: cells().data)


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
