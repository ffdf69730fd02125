"""A small detector that implements the protocol: a conv net with kept weights, and images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from xadflow.calibration import calibrate
from xadflow.detectors.base import Scores
from xadflow.images import as_float

SIDE = 24
TOY_WEIGHTS = Path(__file__).parent / "toy.safetensors"


class ToyDetector:
    """A detector around a network that gives a map [B,1,H,W] (or only scores [B] where `has_map` is off)."""

    def __init__(self, network, input_shape, calibration=None, has_map=True):
        self.network, self.input_shape, self.has_map = network, input_shape, has_map
        self._calibration = calibration
        self.forwards = 0

    @property
    def calibration(self):
        return self._calibration

    def score(self, images):
        self.forwards += len(images)
        heat = F.softplus(self.network(images)[:, 0])
        image = heat.flatten(1).topk(heat[0].numel() // 24, dim=1).values.mean(dim=1)
        return Scores(image, heat if self.has_map else None)

    def normal_logit(self, images):
        return (self._calibration.threshold - self.score(images).image) / self._calibration.temperature

    def to(self, device):
        self.network.to(device)
        return self


def patterned(count, seed):
    """uint8 [N,1,24,24]: soft stripes with noise, the toy product."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    stripes = 0.5 + 0.2 * np.sin(np.arange(SIDE) * 0.8 + phase)
    return torch.from_numpy(
        (np.clip(stripes + rng.normal(0, 0.03, (count, 1, SIDE, SIDE)), 0, 1) * 255).astype(np.uint8)
    )


def with_defects(images, seed):
    """The images with one dark or bright square of 5 to 8 px each, and the bool masks [N,H,W] of the squares."""
    rng = np.random.default_rng(seed)
    images = images.clone()
    masks = torch.zeros((len(images), SIDE, SIDE), dtype=torch.bool)
    for image, mask in zip(images, masks, strict=True):
        side = int(rng.integers(5, 9))
        y, x = rng.integers(0, SIDE - side, 2)
        mask[y : y + side, x : x + side] = True
        image[0][mask] = int(rng.choice([20, 235]))
    return images, masks


def toy_network():
    """The toy detector's network, its weights drawn."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )


@pytest.fixture(scope="session")
def trained():
    """A conv net that sees the squares, calibrated as real detectors are; the same weights everywhere (see
    toy_training.py).
    """
    network = toy_network()
    network.load_state_dict(load_file(TOY_WEIGHTS))
    detector = ToyDetector(network.eval(), (1, SIDE, SIDE))
    with torch.no_grad():
        normal_scores = detector.score(as_float(patterned(100, 4))).image.double().numpy()
        defect_scores = detector.score(as_float(with_defects(patterned(60, 5), 6)[0])).image.double().numpy()
    detector._calibration = calibrate(normal_scores, defect_scores, 0.05, "synthetic")
    return detector


@pytest.fixture(scope="session")
def defective():
    """24 defective images the toy detector never saw, uint8 [24,1,24,24], and the bool masks of their squares."""
    return with_defects(patterned(24, 7), 8)


@pytest.fixture
def anomalies(defective):
    return defective[0]


@pytest.fixture
def normals():
    return patterned(8, 9)


@pytest.fixture
def low_mapped(trained):
    """The toy detector with its map moved far below its threshold: only the hottest share is anomalous."""

    class LowMapped(ToyDetector):
        def score(self, images):
            scores = super().score(images)
            return Scores(scores.image, scores.map - 1000.0)

    return LowMapped(trained.network, trained.input_shape, trained.calibration)
