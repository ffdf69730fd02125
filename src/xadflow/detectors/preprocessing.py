"""What the published code does to an image before its networks: global contrast normalisation, then a fixed scale.

fcdd.md, section 5 ("LCN"): x - mean, over the mean absolute value of that, each image for itself; then every channel is
mapped so that the train normals fill [0,1]. Differentiable, and inside the detector: callers give plain images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xadflow.detectors.base import as_float

FLAT = 1e-3  # mean absolute contrast, of a range of 1: below it an image counts as flat and stays (nearly) 0


class ContrastNormalisation(nn.Module):
    """Images [B,C,H,W] in [0,1] to the network's input, same shape; `fit` takes the scale from train normals."""

    low: Tensor
    span: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(channels, 1, 1))
        self.register_buffer("span", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Take each channel's least and greatest normalised value over uint8 normals [N,C,H,W]."""
        lows, highs = [], []
        for batch in torch.split(normals, batch_size):
            normalised = _contrast(as_float(batch))
            lows.append(normalised.amin(dim=(0, 2, 3)))
            highs.append(normalised.amax(dim=(0, 2, 3)))
        low, high = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
        self.low.copy_(low.view(-1, 1, 1))
        self.span.copy_((high - low).clamp_min(FLAT).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Same shape, float32."""
        return (_contrast(images) - self.low) / self.span


def _contrast(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(FLAT)
