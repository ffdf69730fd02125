"""Detectors that are explained, the ones that judge, and two controls: without trained weights, and without a gradient.

Each is trained once and kept in a folder, by settings and code; the one without trained weights is made anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.counterfactuals_kit.single import detector_settings
from benchmarks.counterfactuals_kit.training import DETECTOR as OF_DIGITS
from benchmarks.kit.models import AUTOENCODER, NETWORK, fitted, kept_detector
from benchmarks.study import Study
from benchmarks.transplant_kit.sets import CLOTHES, COLOURED, tested_set
from xadflow.detectors import TrainingData
from xadflow.detectors.base import Detector, Scores
from xadflow.detectors.fcdd import detector as fcdd
from xadflow.images import as_float
from xadflow.lineage import EXPLAINER_CODE
from xadflow.networks.pretrained import Trunk
from xadflow.training.seeds import seeded

STUDY = Study("transplant", EXPLAINER_CODE, ("transplant.py", "transplant_kit", "kit"))
AT_ONCE = 64
JUDGES = ("padim", "network", "network-contrast")
JUDGE_SEED, AE_SEED = 100, 200
# The judge `network` and the autoencoder look at images of half the side, where that is at least 32.
SMALLEST_HALVED = 64
# Trained from nothing on drawn defects and, on ELPV, 20 known ones: no pretrained trunk, another kind of method than
# either.
NETWORK_JUDGE: dict[str, Any] = {**NETWORK, "network": "cnn32_s"}
HSC: dict[str, Any] = {**NETWORK_JUDGE, "network": "cnn224"}


@dataclass(frozen=True)
class Judge:
    """A detector that explains nothing; `is_halved`: it looks at images of half the side."""

    detector: Detector
    is_halved: bool

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw scores of uint8 [N,C,H,W]."""
        pixels = torch.from_numpy(images)
        return scores_of(self.detector, halved(pixels) if self.is_halved else pixels)

    @property
    def threshold(self) -> float:
        """Highest score that it calls normal, from its held-out normals."""
        return self.detector.calibration.threshold

    @property
    def spread(self) -> float:
        """Standard deviation of the scores of its held-out normals."""
        return float(np.std(self.detector.calibration.normal_scores))


@dataclass(frozen=True)
class BlackBox:
    """All that a transplant may ask of a detector: shape, calibration and one number an image; no map, no gradient."""

    inner: Detector

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of the images."""
        return self.inner.input_shape

    @property
    def calibration(self) -> Any:
        """Threshold and held-out scores."""
        return self.inner.calibration

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] alone."""
        with torch.no_grad():
            return Scores(self.inner.score(images.detach()).image.detach(), None)


def scores_of(detector: Detector, images: Tensor) -> NDArray[np.float64]:
    """Raw scores [N] of uint8 [N,C,H,W], without forming a heatmap where the detector can do without."""
    alone: Any = getattr(detector, "image_score", lambda part: detector.score(part).image)
    with torch.no_grad():
        found = torch.cat([alone(as_float(part)) for part in images.split(AT_ONCE)])
    return np.asarray(found.double().numpy())


def maps_of(detector: Detector, images: Tensor) -> NDArray[np.float32] | None:
    """Raw maps [N,H,W] of uint8 [N,C,H,W], None for a detector without."""
    found = []
    with torch.no_grad():
        for part in images.split(AT_ONCE):
            one = detector.score(as_float(part)).map
            if one is None:
                return None
            found.append(one.float())
    return np.asarray(torch.cat(found).numpy())


def halved(images: Tensor) -> Tensor:
    """uint8 [N,C,H,W] of half the side, by means of four pixels."""
    if len(images) == 0:
        return images
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def settings_of(set_name: str, method: str) -> dict[str, Any]:
    """Settings of an explained detector: those of params.yaml for `fcdd`, small networks for the others."""
    if set_name == COLOURED:
        return OF_DIGITS
    if set_name == CLOTHES:
        return detector_settings("fashion-mnist", method)
    return {} if method == "fcdd" else HSC


def folder_of(set_name: str, method: str, seed: int) -> Path:
    """The folder of an explained detector."""
    return _folder(set_name, method, seed, settings_of(set_name, method))


@cache
def explained(set_name: str, method: str, seed: int) -> Detector:
    """An explained detector, trained where it is not kept, on all train normals."""
    folder, settings = folder_of(set_name, method, seed), settings_of(set_name, method)
    return kept_detector(folder, method, settings, seed, lambda: tested_set(set_name).data)


def judge_folder(set_name: str, name: str) -> Path:
    """The folder of one of JUDGES."""
    return _folder(f"judge-{set_name}-{name}", *_judge_settings(set_name, name))


@cache
def judge(set_name: str, name: str) -> Judge:
    """One of JUDGES, trained where it is not kept, on the half of the train normals that gives no donors."""
    method, seed, settings = _judge_settings(set_name, name)
    data, small = tested_set(set_name).judged, name != "padim" and is_large(set_name)
    folder = judge_folder(set_name, name)
    return Judge(kept_detector(folder, method, settings, seed, lambda: all_halved(data) if small else data), small)


def autoencoder(set_name: str) -> tuple[Detector, bool]:
    """Whose reconstructions are the baseline `autoencoder`, trained on all train normals; True: at half the side."""
    data, small = tested_set(set_name).data, is_large(set_name)
    folder = _folder(f"autoencoder-{set_name}", "ae", AE_SEED, AUTOENCODER)
    return kept_detector(folder, "ae", AUTOENCODER, AE_SEED, lambda: all_halved(data) if small else data), small


def is_large(set_name: str) -> bool:
    """Whether half of the side is still enough for a network of a few convolutions."""
    return int(tested_set(set_name).test.shape[-1]) >= SMALLEST_HALVED


def all_halved(data: TrainingData) -> TrainingData:
    """The same images at half the side; without masks, which no judge learns from."""
    parts = (data.normals, data.val_normals, data.known)
    return TrainingData(*map(halved, parts), None, halved(data.calibration_defects), halved(data.outliers))


def untrained(set_name: str, seed: int) -> Detector:
    """FCDD with every weight drawn, its whitening and its threshold from normals all the same: it has seen no defect.

    He initialisation; batch normalisation starts as it is built. Whitening makes a Mahalanobis distance of drawn
    features, and the head is left as it is drawn, by a training of one step too short to move it.
    """
    settings = {"min_steps": 1, "epochs": 1e-6, "learning_rate": 1e-12, "weight_decay": 0.0, "synthetic_rounds": 1}
    with patch.object(fcdd, "Trunk", lambda *given: _drawn(Trunk(*given), seed)):
        return fitted("fcdd", settings, seed, tested_set(set_name).data)


@torch.no_grad()
def _drawn(trunk: Trunk, seed: int) -> Trunk:
    generator = seeded(seed, "drawn trunk")
    for part in trunk.modules():
        if isinstance(part, nn.Conv2d):
            fan = part.weight[0].numel()
            part.weight.normal_(0.0, (2.0 / fan) ** 0.5, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    return trunk


def _judge_settings(set_name: str, name: str) -> tuple[str, int, dict[str, Any]]:
    if name == "padim":
        return "padim", JUDGE_SEED, {"trunk": "mobilenet_v2"}
    # `network` was found to go by brightness, which a transplant leaves as it is: the last judge cannot see it
    change = {"preparation": "contrast"} if name == "network-contrast" else {}
    if set_name in (CLOTHES, COLOURED):  # against the set's exposure, which their explained detectors learn from too
        return "bce", JUDGE_SEED, {**OF_DIGITS, "network": "cnn32", "min_steps": 200, **change}
    return "bce", JUDGE_SEED, {**NETWORK_JUDGE, **change}


def _folder(name: str, method: str, seed: int, settings: dict[str, Any]) -> Path:
    return STUDY.trained(f"{name}-{method}-{seed}", settings=settings, method=method)
