"""One small utad detector, trained once for this folder on crops of a real texture."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.detectors.conftest import texture_crops
from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import FitRun, TrainingData
from xadflow.detectors.utad.detector import Utad

NONE = torch.zeros(0, 1, 32, 32, dtype=torch.uint8)
SMALL = {
    "impression": {"width": 4, "code": 8, "min_steps": 120, "batch_size": 16},
    "expert": {"width": 16, "min_steps": 60, "batch_size": 8},
}
TINY = {
    "impression": {"width": 2, "code": 4, "min_steps": 12, "batch_size": 4, "adversarial": 0.1, "dropout": 0.2},
    "expert": {"width": 4, "min_steps": 9, "batch_size": 4},
    "sheets": 1,
}


def crops(count: int, seed: int, channels: int = 1) -> torch.Tensor:
    """uint8 [count,channels,32,32]: a brick wall at half its size."""
    return texture_crops(count, seed, slice(0, 512), channels)[:, :, ::2, ::2].contiguous()


@functools.cache
def training_data(channels: int = 1) -> TrainingData:
    """96 train normals, 40 held-out ones."""
    none = NONE.expand(0, channels, 32, 32)
    return TrainingData(crops(96, 1, channels), crops(40, 2, channels), none, None, none)


def run_in(folder: Path, kill_at: int | None = None) -> FitRun:
    """A run on the CPU, killed after so many steps."""

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if kill_at == done:
            raise KeyboardInterrupt

    return FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu", progress=progress)


@pytest.fixture(scope="session")
def small_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Utad, Path]:
    """A detector that has learned something, and the folder of its training."""
    folder, detector = tmp_path_factory.mktemp("utad"), Utad(**SMALL)
    detector.fit(training_data(), run_in(folder))
    return detector, folder


@pytest.fixture(scope="session")
def trained(small_fit: tuple[Utad, Path]) -> Utad:
    return small_fit[0]


@pytest.fixture(scope="session")
def defective() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """48 unseen normals uint8, a copy of each with a drawn defect, and the masks."""
    normals = crops(48, 7)
    return normals, *synthetic_defects(normals, torch.Generator().manual_seed(3), ("squares",))
