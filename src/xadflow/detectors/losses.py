"""The hypersphere-classifier loss of FCDD, in forms that stay finite in float32.

Liznerski et al., "Explainable Deep One-Class Classification", ICLR 2021 (arXiv 2007.01760), equations 1 to 3; Ruff et
al., "Rethinking Assumptions in Deep Anomaly Detection", 2020, for the classifier. Differences from the published code:

- -log(1 - exp(-a)) is computed without cancellation and with a floor, so its gradient is finite at a = 0;
- every loss is one value an image, so a batch with one label only keeps the right sign (the published code returned
  mean(a) for a batch of anomalies);
- losses are float32 whatever the network's precision.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xadflow.errors import BadInput

FLOOR = 1e-12  # added to the image statistic: bounds the anomaly term at 27.6 and its gradient at 1e12


def pseudo_huber(response: Tensor) -> Tensor:
    """A = sqrt(phi^2 + 1) - 1 >= 0, elementwise, float32.

    Written phi^2 / (sqrt(phi^2 + 1) + 1): the textbook form is exactly 0 in float32 for |phi| below 4e-4.
    """
    squared = response.float().square()
    return squared / ((squared + 1.0).sqrt() + 1.0)


def anomaly_term(statistic: Tensor, floor: float = FLOOR) -> Tensor:
    """-log(1 - exp(-a)) for a >= 0, elementwise, float32; falls from -log(floor) at 0 towards 0.

    Two branches at ln 2, each exact where it is used. The floor is added, not clamped to: a clamp would leave an
    anomaly that scores 0 without any gradient, for ever.
    """
    a = statistic.float() + floor
    # Each branch sees only arguments it is finite for: `where` alone would still pass a NaN gradient through.
    small = -torch.log(-torch.expm1(-a.clamp_max(math.log(2.0))))
    large = -torch.log1p(-torch.exp(-a.clamp_min(math.log(2.0))))
    return torch.where(a < math.log(2.0), small, large)


def image_level_loss(statistic: Tensor, is_anomaly: Tensor, floor: float = FLOOR) -> Tensor:
    """(1 - y) a - y log(1 - exp(-a)) for each image, [B] float32 (fcdd.md 1a).

    `statistic` is a [B] >= 0, the pooled pseudo-Huber map; `is_anomaly` bool [B].
    """
    return torch.where(is_anomaly, anomaly_term(statistic, floor), statistic.float())


def pixel_level_loss(
    maps: Tensor, masks: Tensor, area: Literal["image", "region"] = "image", floor: float = FLOOR
) -> Tensor:
    """mean((1 - G) A') - 1{G > 0 anywhere} log(1 - exp(-mean(G A'))) for each image, [B] float32 (fcdd.md 1b).

    `maps` are the upsampled A' [B,H,W] >= 0, `masks` G bool [B,H,W], all False for a normal image. With `area="image"`
    both means are over all H * W pixels, as published, so that a small defect gives a small mean and a steep gradient;
    with "region" each is over its own pixels.
    """
    if maps.shape != masks.shape or maps.ndim != 3:
        raise BadInput(
            "maps and masks must both be [B,H,W]",
            seen=(tuple(maps.shape), tuple(masks.shape)),
            next_step="give one mask for each image",
        )
    heat, inside = maps.float(), masks.float()
    pixels = float(maps.shape[1] * maps.shape[2])
    defect_pixels = inside.sum(dim=(1, 2))  # (B,)
    if area == "image":
        normal_area, defect_area = torch.full_like(defect_pixels, pixels), torch.full_like(defect_pixels, pixels)
    else:
        normal_area, defect_area = (pixels - defect_pixels).clamp_min(1.0), defect_pixels.clamp_min(1.0)
    normal = ((1.0 - inside) * heat).sum(dim=(1, 2)) / normal_area
    defect = (inside * heat).sum(dim=(1, 2)) / defect_area
    return normal + torch.where(defect_pixels > 0, anomaly_term(defect, floor), torch.zeros_like(defect))


def pooled(maps: Tensor, share: float) -> Tensor:
    """Image statistic [B] of low-resolution maps [B,u,v]: mean of the largest `share` of the cells, at least one.

    `share` = 1 is the plain mean of the paper.
    """
    cells = maps.flatten(1)
    keep = max(1, round(share * cells.shape[1]))
    if keep == cells.shape[1]:
        return cells.mean(dim=1)
    return cells.topk(keep, dim=1, sorted=False).values.mean(dim=1)
