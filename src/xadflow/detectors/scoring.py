"""Open a saved detector on a device and score many images: shared by evaluation, the nightly work and
`xadflow score`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import Detector, load_detector
from xadflow.images import as_float
from xadflow.settings.blocks import at_once
from xadflow.training.lanes import side_by_side


def open_detector(folder: Path, device: torch.device) -> Detector:
    """The detector saved in `folder`, on a device."""
    return load_detector(folder).to(device)


def score_images(detector: Detector, images: Tensor, batch_size: int, device: torch.device) -> NDArray[np.float64]:
    """Raw scores [N] of uint8 images [N,C,H,W], batch by batch; one host sync at the end."""

    def score(batch: Tensor) -> Tensor:
        with torch.no_grad():  # a thread has its own
            return detector.score(as_float(batch.to(device))).image

    parts = list(side_by_side(score, torch.split(images, batch_size), device, at_once(images.shape[1:])))
    return np.asarray(torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0), dtype=np.float64)
