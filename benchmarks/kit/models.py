"""Detectors and generators that are trained once and kept in a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.study import kept
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.detectors.base import WEIGHTS, Detector, load_detector
from xadflow.digests import sha256_file
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.trained import GeneratorRun

TOOK = "took.json"  # in a generator's folder: what its training took
FALSE_ALARMS = 0.05
SMALL: dict[str, Any] = {"preparation": "standard", "epochs": 0.01, "batch_size": 64}  # networks of a few convolutions
AUTOENCODER: dict[str, Any] = {**SMALL, "network": "cnn28", "crop_px": 0, "min_steps": 300, "learning_rate": 3e-3}
NETWORK: dict[str, Any] = {**SMALL, "anomalies": ("known", "synthetic"), "min_steps": 200, "learning_rate": 1e-3}


def training_data(
    train: NDArray[np.uint8], held: NDArray[np.uint8], calibrating: Any = None, outliers: Any = None
) -> TrainingData:
    """Of arrays [N,C,H,W], without known defects."""
    none = torch.zeros(0, *train.shape[1:], dtype=torch.uint8)
    given = (none if one is None else torch.from_numpy(one) for one in (calibrating, outliers))
    return TrainingData(torch.from_numpy(train), torch.from_numpy(held), none, None, *given)


def fitted(method: str, settings: Mapping[str, Any], seed: int, data: TrainingData, device: str = "cpu") -> Detector:
    """Trained in seconds or minutes, so a killed training starts over."""
    detector = build_detector(method, **settings)
    with tempfile.TemporaryDirectory() as scratch:
        detector.fit(data, FitRun(Path(scratch), seed, FALSE_ALARMS, device))
    return detector


def kept_detector(
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    seed: int,
    data: Callable[[], TrainingData],
    device: str = "cpu",
) -> Detector:
    """Trained where it is not kept."""
    return load_detector(kept(folder, lambda: fitted(method, settings, seed, data(), device)))


@dataclass(frozen=True)
class _Trained:
    explainer: DiverseExplainer
    took: dict[str, Any]

    def save(self, folder: Path) -> None:
        self.explainer.save(folder)
        (folder / TOOK).write_text(json.dumps(self.took))


def kept_generator(
    folder: Path,
    detector: Path,
    settings: Mapping[str, Any],
    learnt: Callable[[Detector], tuple[Tensor, Tensor]],
    guided: Callable[[DiverseExplainer, Path], Any] | None = None,
) -> DiverseExplainer:
    """The explainer `diverse` for the detector in a folder; `learnt` gives normals and anomalies. A training that was
    killed goes on.
    """

    def make() -> _Trained:
        started, busy = time.perf_counter(), time.process_time()
        explainer, explained = DiverseExplainer(**settings), load_detector(detector)
        scratch = folder.with_name(f"{folder.name}-run")
        scratch.mkdir(parents=True, exist_ok=True)
        run = GeneratorRun(scratch, explainer.seed, folder.name, torch.device("cpu"))
        guidance = {} if guided is None else {"guidance": guided(explainer, scratch)}
        weights = sha256_file(detector / WEIGHTS)
        trained = explainer.fit(explained, weights, *learnt(explained), run, *guidance.values())
        took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
        return _Trained(explainer, took | {"resumed_from": trained.resumed_from})

    found = DiverseExplainer.load(kept(folder, make))
    shutil.rmtree(folder.with_name(f"{folder.name}-run"), ignore_errors=True)
    return found
