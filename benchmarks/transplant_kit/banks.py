"""The bank of donors of an explained detector, chosen as `retrain` chooses it, from one half of the train normals."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.transplant_kit.detectors import maps_of, scores_of
from benchmarks.transplant_kit.sets import TestedSet, gives_donors, pixel_id
from xadflow.detectors.backbones import Trunk
from xadflow.detectors.base import Detector, as_float
from xadflow.explainers.transplant import DonorBank, TransplantSettings

QUIET, SMALLEST_PX = 0.8, 96


def bank_of(detector: Detector, tested: TestedSet, *, of_judges: bool = False, most: int | None = None) -> DonorBank:
    """Normals that are not flagged and below the 80 % quantile of the scores, by k-centre where the bank holds fewer.

    `of_judges`: from the half that the judges were fitted on, for the control.
    """
    normals = tested.data.normals
    half = normals[gives_donors(normals) ^ of_judges]
    scores = scores_of(detector, half)
    quiet = half[torch.from_numpy((scores <= detector.calibration.threshold) & (scores <= np.quantile(scores, QUIET)))]
    most = most or TransplantSettings().bank
    if len(quiet) > most:
        quiet = quiet[k_centre(_features(quiet), most)]
    maps = maps_of(detector, tested.data.val_normals)
    return DonorBank(tuple(map(pixel_id, quiet)), quiet, tested.symmetries, tested.aligned,
                     None if maps is None else torch.from_numpy(maps.mean(axis=0)))  # fmt: skip


def k_centre(features: Tensor, most: int) -> list[int]:
    """Places of `most` of features [N,D], each the farthest from those before it; the first is nearest to the mean."""
    points = features.double()
    chosen = [int((points - points.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < most:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
    return chosen


@torch.no_grad()
def _features(images: Tensor) -> Tensor:
    trunk, parts = Trunk("lite0"), []
    for batch in images.split(32):
        larger = max(1.0, SMALLEST_PX / min(batch.shape[2:]))
        pixels = F.interpolate(as_float(batch), scale_factor=larger, mode="bilinear", align_corners=False)
        parts.append(trunk.trunk_features(pixels).mean(dim=(2, 3)))
    found = torch.cat(parts)
    return (found - found.mean(dim=0)) / found.std(dim=0, correction=0).clamp_min(1e-6)
