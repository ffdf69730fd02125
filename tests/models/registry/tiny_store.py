"""What the registry tests share: a detector small enough to log, and the arguments of one training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from xadflow.calibration import Calibration
from xadflow.detectors import Scores
from xadflow.models.registry import Registry
from xadflow.models.versions import ModelRef

MODEL = "xad.tiny-set.tiny"
DIGEST = "d41d8cd98f00b204e9800998ecf8427e"


class TinyDetector:
    """Score = weighted mean of the pixels; enough to be saved, registered, loaded and served."""

    input_shape = (1, 8, 8)

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight
        self.calibration = Calibration(0.5, 0.1, 0.2, np.linspace(0.0, 0.6, 7), 0.01, "known")

    def score(self, images: torch.Tensor) -> Scores:
        return Scores((images * self.weight).mean(dim=(1, 2, 3)))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight}, folder / "weights.safetensors")
        (folder / "detector.json").write_text(json.dumps({"method": "tiny"}))

    @classmethod
    def load(cls, folder: Path) -> TinyDetector:
        return cls(load_file(folder / "weights.safetensors")["weight"])


class TinyExplainer:
    """What a trained explainer has to be to be put into service: it is fitted, and its files are read."""

    def fit(self) -> None:
        """Nothing to learn."""

    @classmethod
    def load(cls, folder: Path) -> TinyExplainer:
        load_file(folder / "generator.safetensors")
        return cls()


@dataclass(frozen=True)
class Store:
    """The store, the detector that was registered, and the version it became."""

    registry: Registry
    state: Path
    detector: TinyDetector
    saved: Path
    ref: ModelRef


def training(saved: Path, figure: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of one log_training."""
    frame = pd.DataFrame({"image_id": ["a", "b"], "label": pd.array([0, None], dtype="Int32"), "width": [8, 8]})
    history = [(step, name, 1.0 / (step + 1)) for step in range(600) for name in ("loss", "rate")]
    order: dict[str, Any] = {
        "model_name": MODEL,
        "folder": saved,
        "experiment": "xad.tiny-set",
        "params": {f"setting.{i:03d}": i for i in range(150)},
        "metrics": {"test.auroc": 0.91, "gate.flip_rate": 0.95},
        "history": history,
        "figures": {"roc": figure},
        "dataset_name": "tiny-set",
        "dataset_digest": DIGEST,
        "dataset_frame": frame,
        "input_shape": (1, 8, 8),
        "lineage": {"commit": "abc"},
        "tags": {"xadflow.training_key": "key-1", "xadflow.weights": "w"},
    }
    return {**order, **changes}
