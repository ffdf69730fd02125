"""Small training data on which a shortcut is the only thing to learn, and a detector that takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as bundled
from torch import Tensor

from xadflow.calibration import calibrate
from xadflow.detectors import FitReport, FitRun, Scores, TrainingData, as_float
from xadflow.work.probe.watermark import Watermark

SIDE = 32
MARK = Watermark()


def gravel(count: int, seed: int) -> Tensor:
    """uint8 [count,1,32,32] crops of a photographed gravel, halved in size."""
    wall = torch.from_numpy(bundled.gravel().copy())
    generator = torch.Generator().manual_seed(seed)
    tops, lefts = (torch.randint(wall.shape[0] - 2 * SIDE, (count,), generator=generator).tolist() for _ in range(2))
    crops = [wall[top : top + 2 * SIDE : 2, left : left + 2 * SIDE : 2] for top, left in zip(tops, lefts, strict=True)]
    return torch.stack(crops)[:, None].contiguous()


class TemplateDetector:
    """Its score is an inner product with what distinguishes the mean outlier from the mean normal where they differ
    most.

    Outliers and normals of `same_kind` come from one picture, so there is nothing to find but the mark.
    """

    method = "template"

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        return ("outliers",)

    def __init__(self) -> None:
        self.template: Tensor | None = None

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        difference = as_float(data.outliers).mean(0) - as_float(data.normals).mean(0)
        self.template = torch.where(difference.abs() > 0.7 * difference.abs().max(), difference, 0.0)
        self._calibration = calibrate(
            self._of(data.val_normals), self._of(data.outliers), run.false_alarm_rate, "known"
        )
        return FitReport(0.0, 1, 0)

    def score(self, images: Tensor) -> Scores:
        products = ((images - 0.5) * self.template).sum(1)
        return Scores(products.sum((1, 2)), products.clamp_min(0))

    def _of(self, images: Tensor) -> np.ndarray:
        return self.score(as_float(images)).image.double().numpy()


@pytest.fixture
def same_kind() -> TrainingData:
    """Normals and outliers that are crops of one picture."""
    none = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
    return TrainingData(gravel(300, 1), gravel(40, 2), none, None, none, gravel(300, 3))


@pytest.fixture
def run_here(tmp_path: Path) -> FitRun:
    return FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu")
