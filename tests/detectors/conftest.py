"""Small training data and a small fitted detector, made once for all tests of detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from skimage import data as bundled

from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import FitRun, TrainingData
from xadflow.detectors.fcdd.detector import FCDD

pytest.register_assert_rewrite("family_contract", "tests.detectors.family_contract")  # its failures show their values

SIDE = 64
SMALL = {"stages": (2,), "min_steps": 12, "epochs": 1.0, "batch_normals": 16, "batch_synthetic": 16}
"""Stage 2 of Lite0 alone: 40 channels on an 8x8 grid, so that a fit takes about a second."""


def texture_crops(count: int, seed: int, rows: slice, channels: int = 1) -> torch.Tensor:
    """uint8 [count,channels,64,64] crops of a brick wall, from the given rows of the picture."""
    wall = torch.from_numpy(bundled.brick()[rows].copy())
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(wall.shape[0] - SIDE, (count,), generator=generator)
    lefts = torch.randint(wall.shape[1] - SIDE, (count,), generator=generator)
    crops = [wall[top : top + SIDE, left : left + SIDE] for top, left in zip(tops, lefts, strict=True)]
    return torch.stack(crops)[:, None].repeat(1, channels, 1, 1)


@pytest.fixture(scope="session")
def small_data() -> TrainingData:
    """48 train normals, 24 validation normals of the same picture, 6 known defects with masks."""
    defects, masks = synthetic_defects(texture_crops(6, 3, slice(0, 256)), torch.Generator().manual_seed(0))
    return TrainingData(
        normals=texture_crops(48, 1, slice(0, 256)),
        val_normals=texture_crops(24, 2, slice(0, 256)),
        known=defects,
        known_masks=masks,
        calibration_defects=torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8),
    )


@pytest.fixture(scope="session")
def unseen_crops() -> torch.Tensor:
    """40 crops of the other half of the picture."""
    return texture_crops(40, 4, slice(256, 512))


@pytest.fixture(scope="session")
def fitted(small_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> FCDD:
    """An FCDD with the default head, fitted on the CPU."""
    detector = FCDD(**SMALL)
    folder: Path = tmp_path_factory.mktemp("fit")
    detector.fit(small_data, FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu"))
    return detector
