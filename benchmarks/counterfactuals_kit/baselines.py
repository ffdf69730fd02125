"""What counterfactuals are compared with: none of these is trained for the detector, but the first four know its score.

Every function gives uint8 [N,1,3,28,28]. `recoloured by hand` is no method: it knows the strokes, and shows what the
figures say of a perfect edit by one concept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.images import CYAN, Coloured, coloured
from benchmarks.counterfactuals_kit.judging import scores_of
from benchmarks.counterfactuals_kit.measures import Judged
from benchmarks.counterfactuals_kit.training import normals
from xadflow.detectors import Detector, FitRun, TrainingData, as_float, build_detector
from xadflow.explainers.sparse.explainer import SparseExplainer

AUTOENCODER = {
    "network": "cnn28",
    "preparation": "standard",
    "crop_px": 0,
    "flip": False,
    "epochs": 0.01,
    "min_steps": 400,
}
Pixels = NDArray[np.uint8]


def nearest_normal(judged: Judged, of: Coloured) -> Pixels:
    """The train normal at the smallest l2 distance, of those that the detector calls normal."""
    return nearest_of(judged.detector, normals()[0].images, of.images)


def attack_l2(judged: Judged, of: Coloured) -> Pixels:
    """The smallest l2 change that the detector calls normal: the explainer `sparse` with p = 2."""
    return searched(judged.detector, of.images, p=2.0)


def sparse(judged: Judged, of: Coloured) -> Pixels:
    """The explainer `sparse` as it comes."""
    return searched(judged.detector, of.images)


def projection(judged: Judged, of: Coloured) -> Pixels:
    """What an autoencoder of the train normals makes of the anomaly."""
    train, held = normals()
    return projected(train.images, held.images, judged.seed, of.images)


def nearest_of(detector: Detector, bank: Pixels, images: Pixels) -> Pixels:
    """Of `bank` uint8 [M,C,H,W] what the detector calls normal and is nearest to each of the images; [N,1,C,H,W]."""
    bank = bank[scores_of(detector, bank) <= detector.calibration.threshold]
    flat = torch.from_numpy(bank).flatten(1).float()
    found = [torch.cdist(rows.flatten(1).float(), flat).argmin(dim=1) for rows in torch.from_numpy(images).split(250)]
    return bank[torch.cat(found).numpy()][:, None]


def searched(detector: Detector, images: Pixels, **settings: object) -> Pixels:
    """What the explainer `sparse` finds, [N,1,C,H,W]."""
    told = SparseExplainer(**settings).explain(detector, as_float(torch.from_numpy(images)))
    return np.stack([row.counterfactuals[0].image for row in told])[:, None]


def projected(train: Pixels, held: Pixels, seed: int, images: Pixels) -> Pixels:
    """What an autoencoder of `train` makes of the images, [N,1,C,H,W]."""
    none = torch.zeros(0, *train.shape[1:], dtype=torch.uint8)
    data = TrainingData(torch.from_numpy(train), torch.from_numpy(held), none, None, none)
    detector: Any = build_detector("ae", **AUTOENCODER)
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(data, FitRun(Path(folder), seed, 0.05, "cpu", None))
    prepare, network = detector.response.prepare, detector.response.network
    with torch.no_grad():
        black, white = (prepare(torch.full((1, *images.shape[1:]), value)) for value in (0.0, 1.0))
        made = torch.cat([network(prepare(as_float(part))) for part in torch.from_numpy(images).split(500)])
        made = (made - black) / (white - black)  # the preparation is a scale and a shift of each channel
    return (made * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()[:, None]


def by_hand(_: Judged, of: Coloured) -> Pixels:
    """The same strokes in cyan."""
    full = np.where(of.colours == 6, 2, 1)[:, None, None]  # grey is half of white
    strokes = np.minimum(of.images.max(axis=1).astype(np.int64) * full, 255).astype(np.uint8)
    return coloured(strokes, of.digits, np.full(len(of), CYAN)).images[:, None]


BASELINES: Mapping[str, Callable[[Judged, Coloured], Pixels]] = {
    "nearest train normal": nearest_normal,
    "l2 attack": attack_l2,
    "sparse": sparse,
    "autoencoder": projection,
    "recoloured by hand": by_hand,
}
