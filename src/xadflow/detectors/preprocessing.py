"""What is done to an image before a network. Differentiable, and inside the detector: callers give plain images.

contrast  as published (fcdd.md, section 5, "LCN"): x - mean, over the mean absolute value of that, each image for itself;
          then every channel is mapped so that the train normals fill [0,1]. Brightness and contrast are gone.
standard  (x - mean) / standard deviation of each channel over the train normals. Brightness and contrast stay.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from xadflow.detectors.base import as_float

Preparation = Literal["contrast", "standard"]

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


class Standardisation(nn.Module):
    """Images [B,C,H,W] in [0,1] to the network's input, same shape; `fit` takes mean and deviation from train normals."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Take the statistics of each channel over uint8 normals [N,C,H,W], summed in float64."""
        batches = torch.split(normals, batch_size)
        pixels = normals[:, 0].numel()
        mean = torch.stack([as_float(batch).double().sum(dim=(0, 2, 3)) for batch in batches]).sum(dim=0) / pixels
        centred = (as_float(batch).double() - mean.view(-1, 1, 1) for batch in batches)
        variance = torch.stack([each.square().sum(dim=(0, 2, 3)) for each in centred]).sum(dim=0) / pixels
        self.mean.copy_(mean.view(-1, 1, 1))
        self.deviation.copy_(variance.sqrt().clamp_min(FLAT).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Same shape, float32."""
        return (images - self.mean) / self.deviation


def preparation(name: Preparation, channels: int) -> ContrastNormalisation | Standardisation:
    """The module of that name, not fitted."""
    return ContrastNormalisation(channels) if name == "contrast" else Standardisation(channels)


def _contrast(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(FLAT)
