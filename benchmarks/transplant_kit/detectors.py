"""Detectors that are explained, the ones that judge, and two controls: without trained weights, and without a gradient.

Each is trained once and kept in a folder, by settings and code; the one without trained weights is made anew each time.
"""

from __future__ import annotations

import tempfile
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

from benchmarks.counterfactuals_elpv_kit.training import AUTOENCODER
from benchmarks.counterfactuals_kit.single import detector_settings
from benchmarks.counterfactuals_kit.training import DETECTOR as OF_DIGITS
from benchmarks.transplant_kit.sets import CLOTHES, COLOURED, tested_set
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.detectors.base import CARD, Detector, Scores, load_detector
from xadflow.detectors.fcdd import detector as fcdd
from xadflow.digests import sha256_json
from xadflow.images import as_float
from xadflow.lineage import code_digest
from xadflow.networks.pretrained import Trunk
from xadflow.settings import Home
from xadflow.training.seeds import seeded

FALSE_ALARMS = 0.05
CODE = ("detectors", "networks", "training", "calibration.py", "defects/drawn.py")
AT_ONCE = 64
JUDGES = ("padim", "network", "network-contrast")
JUDGE_SEED, AE_SEED = 100, 200
SMALLEST_HALVED = (
    64  # the judge `network` and the autoencoder look at images of half the side, where that is at least 32
)
# Trained from nothing on drawn defects and, on ELPV, 20 known ones: no pretrained trunk, another kind of method than
# either.
NETWORK_JUDGE: dict[str, Any] = {
    "network": "cnn32_s",
    "preparation": "standard",
    "anomalies": ("known", "synthetic"),
    "epochs": 0.01,
    "min_steps": 200,
    "batch_size": 64,
    "learning_rate": 1e-3,
}
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


def place(home: Home) -> Path:
    """Where everything of this benchmark is kept."""
    return home.state / "bench-transplant"


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


def folder_of(home: Home, set_name: str, method: str, seed: int) -> Path:
    """The folder of an explained detector."""
    return _folder(home, set_name, method, seed, settings_of(set_name, method))


@cache
def explained(home: Home, set_name: str, method: str, seed: int) -> Detector:
    """An explained detector, trained where it is not kept, on all train normals."""
    folder, settings = folder_of(home, set_name, method, seed), settings_of(set_name, method)
    return _kept(folder, method, seed, settings, tested_set(set_name).data)


def judge_folder(home: Home, set_name: str, name: str) -> Path:
    """The folder of one of JUDGES."""
    method, settings = _judge_settings(set_name, name)
    return _folder(home, f"judge-{set_name}-{name}", method, JUDGE_SEED, settings)


@cache
def judge(home: Home, set_name: str, name: str) -> Judge:
    """One of JUDGES, trained where it is not kept, on the half of the train normals that gives no donors."""
    method, settings = _judge_settings(set_name, name)
    data, small = tested_set(set_name).judged, name != "padim" and is_large(set_name)
    folder = judge_folder(home, set_name, name)
    return Judge(_kept(folder, method, JUDGE_SEED, settings, all_halved(data) if small else data), small)


def autoencoder(home: Home, set_name: str) -> tuple[Detector, bool]:
    """Whose reconstructions are the baseline `autoencoder`, trained on all train normals; True: at half the side."""
    data, small = tested_set(set_name).data, is_large(set_name)
    folder = _folder(home, f"autoencoder-{set_name}", "ae", AE_SEED, AUTOENCODER)
    return _kept(folder, "ae", AE_SEED, AUTOENCODER, all_halved(data) if small else data), small


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
    detector = build_detector("fcdd", **settings)
    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.object(fcdd, "Trunk", lambda *given: _drawn(Trunk(*given), seed)),
    ):
        detector.fit(tested_set(set_name).data, FitRun(Path(scratch), seed, FALSE_ALARMS, "cpu"))
    return detector


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


def _judge_settings(set_name: str, name: str) -> tuple[str, dict[str, Any]]:
    if name == "padim":
        return "padim", {"trunk": "mobilenet_v2"}
    # `network` was found to go by brightness, which a transplant leaves as it is: the last judge cannot see it
    change = {"preparation": "contrast"} if name == "network-contrast" else {}
    if set_name in (
        CLOTHES,
        COLOURED,
    ):  # against the exposure of the set, which their explained detectors learn from too
        return "bce", {**OF_DIGITS, "network": "cnn32", "min_steps": 200, **change}
    return "bce", {**NETWORK_JUDGE, **change}


def _folder(home: Home, name: str, method: str, seed: int, settings: dict[str, Any]) -> Path:
    of_set = sha256_json({"settings": settings, "method": method, "code": code_digest(*CODE)})[:12]
    return place(home) / f"{name.replace(' ', '-')}-{method}-{seed}-{of_set}"


def _kept(folder: Path, method: str, seed: int, settings: dict[str, Any], data: TrainingData) -> Detector:
    if not (folder / CARD).is_file():
        detector = build_detector(method, **settings)
        with tempfile.TemporaryDirectory() as scratch:
            detector.fit(data, FitRun(Path(scratch), seed, FALSE_ALARMS, "cpu"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f"{folder.name}-partial")
        detector.save(partial)
        partial.replace(folder)
    return load_detector(folder)
