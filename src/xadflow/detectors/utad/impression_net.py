"""IE-Net: an image to its impression, which holds neither defect nor fine detail, and to a code {mu, sigma} of the
whole.

`published` has the layers of the released code (docs/explanation/methods.md, "UTAD"): written for 256 px; from 128 px
on it has a stride of 32, below one of 16. `compact` is ours: Inception blocks from half resolution on, a bottleneck of
1/16 of the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.utad.losses import MOST_LOGVAR
from xadflow.detectors.utad.settings import ImpressionSettings
from xadflow.errors import BadInput

MOST_HALVINGS = 4  # of the compact form, unless it is told
LARGE_PX = 128  # from here on the published form pools by 4 first


class Impression(NamedTuple):
    """m [B,C,H,W] in [0,1], the bottleneck z [B,c,u,v], mu and the log-variance [B,N]."""

    m: Tensor
    z: Tensor
    mu: Tensor
    logvar: Tensor

    @property
    def sigma(self) -> Tensor:
        """[B,N]."""
        return (0.5 * self.logvar).exp()


class ImpressionNet(nn.Module):
    """Images [B,C,H,W] in [0,1] to an :class:`Impression`. Raises BadInput for sides that are no multiples of the
    stride.
    """

    def __init__(self, shape: tuple[int, int, int], settings: ImpressionSettings) -> None:
        super().__init__()
        build = _published if settings.form == "published" else _compact
        self.stride = stride_of(shape, settings)
        self.encoder, self.decoder, self.head, self.z_channels = build(shape, settings, self.stride)
        self.drop = nn.Dropout2d(settings.dropout)
        self.code = settings.code

    def forward(self, images: Tensor) -> Impression:
        """See the class."""
        z: Tensor = self.encoder(images)
        mu, logvar = self.head(z).chunk(2, dim=1)
        m: Tensor = self.decoder(self.drop(z))
        return Impression(m, z, mu, logvar.clamp(-MOST_LOGVAR, MOST_LOGVAR))


class Inception(nn.Module):
    """Four branches of `width` channels each: 1x1, 3x3, 5x5, and maximum pooling with 1x1; concatenated."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv(channels, width, 1),
                _conv(channels, width, 3),
                _conv(channels, width, 5),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(channels, width, 1)),
            ]
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B,channels,H,W] to [B,4*width,H,W]."""
        return torch.cat([branch(maps) for branch in self.branches], dim=1)


class Enlarge(nn.Module):
    """Nearest-neighbour enlargement."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, maps: Tensor) -> Tensor:
        """[B,C,H,W] to [B,C,f*H,f*W]."""
        return F.interpolate(maps, scale_factor=float(self.factor), mode="nearest")


def stride_of(shape: tuple[int, int, int], settings: ImpressionSettings) -> int:
    """Pixels a cell of the bottleneck stands for. Raises BadInput where the sides are no multiples of it,
    or too small.
    """
    height, width = shape[1:]
    if settings.form == "published":
        stride = 32 if min(height, width) >= LARGE_PX else 16
    elif settings.halvings is not None:
        stride = 2**settings.halvings
    else:
        halvings = 2
        while halvings < MOST_HALVINGS and not (height % 2 ** (halvings + 1) or width % 2 ** (halvings + 1)):
            halvings += 1
        stride = 2**halvings
    if height % stride or width % stride or min(height, width) < 2 * stride:
        raise BadInput(
            f"utad takes images whose sides are multiples of its stride, {stride} px, and at least {2 * stride} px",
            seen=(height, width),
            next_step="change size_px of the data set in params.yaml",
        )
    return stride


def _conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width, eps=1e-3),
        nn.LeakyReLU(0.1),
    )


_Parts = tuple[nn.Module, nn.Module, nn.Module, int]


def _published(shape: tuple[int, int, int], settings: ImpressionSettings, stride: int) -> _Parts:
    channels, w, first = shape[0], settings.width, stride // 8
    encoder = nn.Sequential(
        Inception(channels, w),
        nn.MaxPool2d(first),
        Inception(4 * w, w),
        nn.MaxPool2d(2),
        Inception(4 * w, 2 * w),
        nn.MaxPool2d(2),
        Inception(8 * w, 4 * w),
        nn.MaxPool2d(2),
    )
    decoder = nn.Sequential(
        Inception(16 * w, 4 * w),
        Enlarge(2),
        Inception(16 * w, 2 * w),
        Enlarge(first),
        Inception(8 * w, 2 * w),
        Enlarge(2),
        Inception(8 * w, w),
        Enlarge(2),
        nn.Conv2d(4 * w, channels, 1, bias=False),
        nn.Sigmoid(),
    )
    head = nn.Sequential(
        nn.MaxPool2d(2),
        nn.Conv2d(16 * w, 2 * w, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * w, 16 * w, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16 * w, 2 * settings.code),
    )
    return encoder, decoder, head, 16 * w


def _compact(shape: tuple[int, int, int], settings: ImpressionSettings, stride: int) -> _Parts:
    channels, w, halvings = shape[0], settings.width, stride.bit_length() - 1
    z_channels = settings.z_channels or max(1, channels * stride * stride // 16)
    down = [w * min(2**number, 4) for number in range(halvings - 1)]
    up = [w * min(2**number, 2) for number in range(halvings - 1)][::-1]
    stem = [nn.Conv2d(channels, 4 * w, 5, stride=2, padding=2), nn.BatchNorm2d(4 * w, eps=1e-3), nn.LeakyReLU(0.1)]
    layers: list[nn.Module] = list(stem)
    width = 4 * w
    for one in down:
        layers += [Inception(width, one), nn.MaxPool2d(2)]
        width = 4 * one
    layers.append(nn.Conv2d(width, z_channels, 1))
    decoder: list[nn.Module] = [nn.Conv2d(z_channels, 16 * w, 1), Inception(16 * w, 4 * w)]
    width = 16 * w
    for one in up:
        decoder += [Enlarge(2), Inception(width, one)]
        width = 4 * one
    decoder += [
        nn.Conv2d(width, 8, 1),
        Enlarge(2),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, channels, 3, padding=1),
        nn.Sigmoid(),
    ]
    head = nn.Sequential(
        nn.Conv2d(z_channels, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 2 * settings.code),
    )
    return nn.Sequential(*layers), nn.Sequential(*decoder), head, z_channels
