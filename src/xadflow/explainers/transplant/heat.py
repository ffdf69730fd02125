"""Where an image is unusual: the map less the usual one, or how much the score falls when a place is covered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.explainers.transplant.donors import Donors
from xadflow.explainers.transplant.masks import blend_of, blended, blurred, side_of

PLACES = 8  # a side of the grid that is covered place by place where a detector has no map
AT_ONCE = 64


def heat_of(
    detector: Detector, x: Tensor, maps: Tensor | None, usual: Tensor | None, donors: Donors
) -> tuple[Tensor, bool]:
    """Heat [B,H,W] of images [B,C,H,W], each scaled to [0,1], and whether it was measured by occlusion.

    `maps` are the detector's, `usual` [H,W] its mean map of held-out normals: some places are always a little hot.
    """
    if maps is not None:
        raw = maps if usual is None else maps - usual
        return _scaled(raw.detach()), False
    return _scaled(occlusion(detector, x, donors)), True


def occlusion(detector: Detector, x: Tensor, donors: Donors) -> Tensor:
    """Fall of the score [B,H,W] when a place is covered by the nearest donor, for each place of an 8 x 8 grid, made
    smooth.
    """
    size = (int(x.shape[2]), int(x.shape[3]))
    nowhere = torch.zeros(len(x), *size, device=x.device)
    cover = donors.nearest(x, nowhere, 1).pixels[:, 0]
    places = torch.eye(PLACES * PLACES, device=x.device).view(-1, PLACES, PLACES)
    blends = blend_of(places, size, 0.0, 0.02)
    falls = []
    with torch.no_grad():
        for image, its, before in zip(x, cover, detector.score(x).image, strict=True):
            covered = blended(image.expand(len(blends), -1, -1, -1), its.expand(len(blends), -1, -1, -1), blends)
            scores = [detector.score(some).image for some in torch.split(covered, AT_ONCE)]
            falls.append((before - torch.cat(scores)).view(PLACES, PLACES))
    wide = F.interpolate(torch.stack(falls)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return blurred(wide, 0.03 * side_of(*size))


def _scaled(heat: Tensor) -> Tensor:
    low = heat.amin(dim=(1, 2), keepdim=True)
    span = heat.amax(dim=(1, 2), keepdim=True) - low
    return torch.where(span > 0, (heat - low) / span.clamp_min(1e-12), 0.0)
