"""What is done to an image before a network. Differentiable, and inside the detector: callers give plain images.

contrast    as published (fcdd.md, section 5, "LCN"): x - mean, over the mean absolute value of that, each image for
            itself; then every channel is mapped so that the train normals fill [0,1]. Brightness and contrast are gone.
standard    (x - mean) / standard deviation of each channel over the train normals. Brightness and contrast stay.
pretrained  (x - mean) / standard deviation of each channel of the images that a trunk's weights were trained with. A
            grey image becomes three channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from xadflow.errors import BadSettings
from xadflow.images import as_float

Preparation = Literal["contrast", "standard", "pretrained"]

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
    """Images [B,C,H,W] in [0,1] to the network's input, same shape; `fit` takes mean and deviation from
    train normals.
    """

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


class FixedStandardisation(nn.Module):
    """Images [B,1|3,H,W] in [0,1] to [B,3,H,W], by a mean and deviation that are given; nothing is learned or saved."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Nothing to take from the train normals."""

    def forward(self, images: Tensor) -> Tensor:
        """Three channels, float32."""
        return (images - self.mean) / self.deviation


def preparation(
    name: Preparation, channels: int, statistics: tuple[Sequence[float], Sequence[float]] | None = None
) -> ContrastNormalisation | Standardisation | FixedStandardisation:
    """The module of that name, not fitted; `statistics` are the mean and deviation of `pretrained`.

    Raises:
        BadSettings: `pretrained` without statistics.
    """
    if name == "contrast":
        return ContrastNormalisation(channels)
    if name == "standard":
        return Standardisation(channels)
    if statistics is None:
        raise BadSettings(
            "only a trunk has statistics of what it was trained with",
            seen=f"preparation {name}",
            next_step="set preparation to contrast or standard in params.yaml, or name a trunk",
        )
    return FixedStandardisation(*statistics)


def _contrast(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(FLAT)
