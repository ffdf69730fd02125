"""What every detector of the one-class family keeps, with any network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from xadflow.detectors import Detector, FitRun


def run_in(folder: Path, kill_at: int | None = None) -> FitRun:
    """A short run on the CPU, killed at a step."""

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if kill_at == done:
            raise KeyboardInterrupt

    return FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu", progress=progress)


def check_scores(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    """Scores are finite and untied, and there is a finite map of the images' size, which is returned."""
    assert isinstance(detector, Detector)
    with torch.no_grad():
        scores = detector.score(images)
    assert scores.image.isfinite().all()
    assert len(scores.image.unique()) == len(images)
    assert scores.map is not None
    assert scores.map.shape == (len(images), *images.shape[2:])
    assert scores.map.isfinite().all()
    return scores.map


def check_same(detector: Detector, again: Detector, images: torch.Tensor) -> None:
    """Both give every score and map to the bit."""
    with torch.no_grad():
        before, after = detector.score(images), again.score(images)
    assert torch.equal(before.image, after.image)
    assert before.map is not None
    assert after.map is not None
    assert torch.equal(before.map, after.map)
