"""Where an image may change: where the detector's map says that the anomaly is. Elsewhere it stays what it is, whatever
would please the detector there.

heat      the map over the threshold, at most 1. Of a coarse map that is most of a defective image
p_value   how unusual the heat of a place is among that of held-out normals at the same place: the mean over `LEVELS` of
          [p <= level], p = (1 + number of normals at least as hot) / (N + 1), as the p-value of an image. Of a normal
          image the mask is .104 in the mean, by construction, whatever the map
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.base import Detector, traits
from xadflow.errors import BadInput, BadSettings
from xadflow.images import as_float

LEVELS = (0.2, 0.15, 0.1, 0.05, 0.02)
FEWEST = math.ceil(1.0 / LEVELS[-1]) - 1  # normals for the smallest level to be reached at all
SOFTER = 9  # of every side of the box that blurs the mask, as a share: one in so many of the shorter side
_BATCH = 64


@torch.no_grad()
def heat_mask(detector: Detector, images: Tensor) -> Tensor:
    """How hot each place of images [B,C,H,W] in [0,1] is, [B,1,H,W]: the map over the threshold, at most 1.

    Raises BadSettings for a detector without a map of its own, or whose scores have no zero that means "normal".
    """
    threshold = detector.calibration.threshold
    heat = detector.score(images).map
    if heat is None or threshold <= 0.0 or traits(detector).score_is not in ("radius", "unsaid"):
        raise BadSettings(
            "this detector has no map of distances that could say where to change an image",
            seen=f"map {'none' if heat is None else 'given'}, threshold {threshold:.3g}",
            next_step="set `within: image` of the explainer in params.yaml",
        )
    return (heat.float() / threshold).clamp(0.0, 1.0)[:, None]  # (B, 1, H, W)


@torch.no_grad()
def usual_heat(detector: Detector, normals: Tensor) -> Tensor:
    """The heat [L,H,W] above which a place has a p-value of at most each of `LEVELS`, from held-out normals uint8
    [N,C,H,W].

    Raises:
        BadSettings: a detector without a map. BadInput: so few normals that no heat has the smallest p-value.
    """
    if len(normals) < FEWEST:
        raise BadInput(
            f"the p-value of a place needs at least {FEWEST} held-out normals",
            seen=len(normals),
            next_step="add normal images, raise val_share of the data set, or set `within: image` of the explainer",
        )
    maps = [_map(detector, as_float(part)) for part in torch.split(normals, _BATCH)]
    ordered = torch.cat(maps).sort(dim=0, descending=True).values  # (N, H, W)
    ranks = [int(round(level * (len(normals) + 1), 9)) for level in LEVELS]  # round: .15 * 200 is 29.999999999999996
    return ordered[[rank - 1 for rank in ranks]]


@torch.no_grad()
def p_value_mask(detector: Detector, usual: Tensor, images: Tensor) -> Tensor:
    """[B,1,H,W] in [0,1] of images [B,C,H,W] in [0,1]; `usual` [L,H,W] is that of :func:`usual_heat`."""
    heat = _map(detector, images)
    share = (heat[:, None] > usual.to(heat)).float().mean(dim=1, keepdim=True)
    side = max(1, min(heat.shape[1:]) // SOFTER // 2 * 2 + 1)  # odd: the box has a middle
    return F.avg_pool2d(share, side, stride=1, padding=side // 2, count_include_pad=False)


def _map(detector: Detector, images: Tensor) -> Tensor:
    heat = detector.score(images).map
    if heat is None:
        raise BadSettings(
            "this detector has no map that could say where to change an image",
            seen="map none",
            next_step="set `within: image` of the explainer in params.yaml",
        )
    return heat.float()


def place_mask(within: str, detector: Detector, usual: Tensor | None, images: Tensor) -> Tensor | None:
    """The mask [B,1,H,W] of a setting `within`, of images [B,C,H,W] in [0,1]; None where all may change."""
    if within == "heat":
        return heat_mask(detector, images)
    if within == "p_value":
        assert usual is not None
        return p_value_mask(detector, usual, images)
    return None
