"""Drawn scenes of three classes, negatives of another texture, and one small detector trained on them for
this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from xadflow.detectors import FitRun, TrainingData
from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.detector import DenseHybrid

SIDE = 64
CLASSES = ("lying stripes", "standing stripes", "disc")
NONE = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
SMALL: dict[str, Any] = {
    "closed": {"min_steps": 50, "batch_size": 8},
    "hybrid": {"min_steps": 50, "batch_size": 8},
    "paste": {"largest": 0.4},
}
TINY: dict[str, Any] = {
    "closed": {"min_steps": 7, "batch_size": 2},
    "hybrid": {"min_steps": 6, "batch_size": 2},
    "sheets": 1,
}


def scenes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [count,1,64,64] and labels: stripes lying beside stripes standing, a plain disc, and a void corner."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    border, row, column, phase = torch.rand(4, count, 1, 1, generator=g) * torch.tensor([24, 40, 40, 6]).view(
        4, 1, 1, 1
    )
    lying, standing = (((at + phase) % 6 < 3).float() for at in (y, x))
    labels = (x >= border + 20).long()
    disc = (y - row - 12).square() + (x - column - 12).square() < 100
    labels[disc] = 2
    images = torch.where(labels == 0, lying, standing) * 0.5 + 0.25
    images[disc] = 0.5
    images = images + 0.03 * torch.randn(images.shape, generator=g)
    labels[:, :4, :4] = VOID
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)[:, None], labels.to(torch.uint8)


def foreign(count: int, seed: int) -> torch.Tensor:
    """uint8 [count,1,64,64]: slanting stripes and checks, of other widths each."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    width, lean, phase = torch.rand(3, count, 1, 1, generator=g) * torch.tensor([6.0, 1.0, 8.0]).view(3, 1, 1, 1)
    slanting = ((x + (0.5 + lean) * y + phase) % (5 + width) < (5 + width) / 2).float()
    checks = ((x // (3 + width) + y // (3 + width)) % 2).float()
    images = torch.where(torch.arange(count).view(-1, 1, 1) % 2 == 0, slanting, checks) * 0.5 + 0.25
    images = images + 0.03 * torch.randn(images.shape, generator=g)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)[:, None]


@functools.cache
def training_data(count: int = 64) -> TrainingData:
    """So many train scenes, 24 held-out ones, 40 negatives."""
    images, labels = scenes(count, 1)
    val_images, val_labels = scenes(24, 2)
    return TrainingData(
        images, val_images, NONE, None, NONE, foreign(40, 3), labels=labels, val_labels=val_labels, classes=CLASSES
    )


def run_in(folder: Path, kill_at: int | None = None) -> FitRun:
    """A run on the CPU, killed after so many steps."""

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if kill_at == done:
            raise KeyboardInterrupt

    return FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu", progress=progress)


@pytest.fixture(scope="session")
def small_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[DenseHybrid, Path, Mapping[str, float]]:
    """A detector that has learned something, the folder of its training, and what its report says."""
    folder, detector = tmp_path_factory.mktemp("dense"), DenseHybrid(**SMALL)
    report = detector.fit(training_data(), run_in(folder))
    return detector, folder, report.figures


@pytest.fixture(scope="session")
def trained(small_fit: tuple[DenseHybrid, Path, Mapping[str, float]]) -> DenseHybrid:
    return small_fit[0]


@pytest.fixture(scope="session")
def foreign_scenes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """16 unseen scenes uint8, the same with a foreign square in each, and the masks bool."""
    images, _ = scenes(16, 11)
    masks = torch.zeros(16, SIDE, SIDE, dtype=torch.bool)
    for number, mask in enumerate(masks):
        mask[10 + number : 30 + number, 40 - number : 60 - number] = True
    return images, torch.where(masks[:, None], foreign(16, 12), images), masks
