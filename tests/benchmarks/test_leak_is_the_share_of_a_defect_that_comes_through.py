"""Figures of reconstructions in `make bench-utad`, of detectors for which they are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.utad import DEFAULT, TRAININGS, reconstruction_figures, settings_of
from benchmarks.utad_sets import NAMES
from xadflow.detectors import build_detector


class Painter:
    """Its impression is always grey, its expert copies half of the image, its naive impression all of it."""

    def __init__(self) -> None:
        self.fitted = SimpleNamespace(expert=SimpleNamespace(copy=lambda x: x.clone()))

    def reconstructions(self, x: torch.Tensor, samples: int) -> SimpleNamespace:
        return SimpleNamespace(impression=torch.full_like(x, 0.5), expert_mean=0.5 * x, naive_mean=x)


def test_a_copy_leaks_all_a_constant_nothing_and_half_the_image_a_half():
    images = torch.randint(0, 256, (12, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    of = SimpleNamespace(test=images, labels=np.array([0] * 8 + [1] * 4))
    found = reconstruction_figures(Painter(), of, 0)  # type: ignore[arg-type]
    expected = {"m": (0.0, 0.0), "x_hat": (0.5, 0.25), "x_rec": (1.0, 1.0), "m_hat": (1.0, 1.0)}
    for name, (leak, sharpness) in expected.items():
        assert found[name]["leak"] == pytest.approx(leak, abs=1e-6)
        assert found[name]["sharpness"] == pytest.approx(sharpness, abs=1e-6)
    assert found["x_rec"]["fidelity"] == found["x_rec"]["missing_inside"] == 0.0
    assert found["x_hat"]["fidelity"] == pytest.approx(0.5 * images[:8].float().mean().item() / 255, rel=1e-5)


def test_every_training_and_map_of_the_benchmark_can_be_built_and_the_default_is_the_default():
    for training in TRAININGS:
        for of_map in training.maps.values():
            for name in NAMES:
                build_detector("utad", **settings_of(name, training, of_map))
    default = build_detector("utad", **settings_of(NAMES[0], TRAININGS[0], TRAININGS[0].maps[DEFAULT]))
    assert default.settings == build_detector("utad", sheets=0).settings  # type: ignore[attr-defined]
