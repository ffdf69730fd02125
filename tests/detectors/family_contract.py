"""What every detector of the one-class family keeps, with any network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

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


def check_gradient(detector: Detector, image: torch.Tensor) -> torch.Tensor:
    """The gradient of the score at float32 [1,C,H,W] is that of differences to both sides; it is returned, in float32.

    Differences are taken in float64: a step has to be too short to run over a kink of |.|, ReLU, maximum pooling or the
    hottest pixels, and float32 loses so short a step in its rounding. How near an image is to the next kink hangs on
    what a training became, which is another thing on every processor.
    """
    exact = copy.deepcopy(detector)
    for part in vars(exact).values():
        if isinstance(part, nn.Module):
            part.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)  # scores are float32 on purpose, but not here
        precise = image.double().requires_grad_()
        here = exact.score(precise).image
        assert here.dtype == torch.float64
        (gradient,) = torch.autograd.grad(here.sum(), precise)
        direction, step = torch.sign(gradient) * (gradient.abs() > gradient.abs().median()), 1e-8
        slope = (gradient * direction).sum().item()
        assert slope > 0
        for sign in (1, -1):
            with torch.no_grad():
                there = exact.score(precise + sign * step * direction).image
            assert (there - here).item() / (sign * step) == pytest.approx(slope, rel=1e-3)
    single = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(detector.score(single).image.sum(), single)
    assert found.dtype == torch.float32
    assert (found - gradient).norm() < 0.01 * gradient.norm()
    return found
