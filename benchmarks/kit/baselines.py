"""What counterfactuals are compared with; all give uint8 [N,K,C,H,W] of images uint8 [N,C,H,W]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kit.judging import scores_of, told
from xadflow.detectors.base import Detector
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.images import as_float

Pixels = NDArray[np.uint8]


def nearest_normal(detector: Detector, bank: Pixels, images: Pixels) -> Pixels:
    """Of `bank` [M,C,H,W] what the detector calls normal and is nearest (l2) to each of the images."""
    bank = bank[scores_of(detector, bank) <= detector.calibration.threshold]
    flat = torch.from_numpy(bank).flatten(1).float()
    found = [torch.cdist(part.flatten(1).float(), flat).argmin(dim=1) for part in torch.from_numpy(images).split(250)]
    return bank[torch.cat(found).numpy()][:, None]


def searched(detector: Detector, images: Pixels, **settings: object) -> Pixels:
    """What the explainer `sparse` finds."""
    return told(SparseExplainer(**settings), detector, images)


def reconstructed(autoencoder: Any, images: Pixels, size: tuple[int, int] | None = None) -> Pixels:
    """What an autoencoder (detector `ae`) of normals makes of the images; enlarged to `size` where it is given."""
    prepare, network = autoencoder.response.prepare, autoencoder.response.network
    with torch.no_grad():
        black, white = (prepare(torch.full((1, *images.shape[1:]), value)) for value in (0.0, 1.0))
        made = torch.cat([network(prepare(as_float(part))) for part in torch.from_numpy(images).split(100)])
        made = (made - black) / (white - black)  # the preparation is a scale and a shift of each channel
        if size is not None:
            made = torch.nn.functional.interpolate(made, size, mode="bilinear", align_corners=False)
    return np.asarray((made * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()[:, None])
