"""The networks that judge while training and are gone afterwards: image discriminators, and two of mutual information.

Image discriminators see the image at several scales, each the half of the one before, and give one map of scores a
scale; a scale is left out where the image is too small for its convolutions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_PX = 16  # side that four convolutions of stride 2 still make a map of


class Judge(nn.Module):
    """`scale()` builds the network of one scale. Images [B,C,H,W] to one map of scores for each scale."""

    def __init__(self, scale: Callable[[], nn.Module], scales: int, side_px: int) -> None:
        super().__init__()
        count = max(1, sum(side_px // 2**number >= SMALLEST_PX for number in range(scales)))
        self.scales = nn.ModuleList(scale() for _ in range(count))

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for number, network in enumerate(self.scales):
            if number:
                images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            found.append(network(images))
        return found


def impression_judge(channels: int, side_px: int) -> Judge:
    """Of the first stage, as published: three scales, each with four convolutions k4 s2 of 32 channels, no one-channel
    end.
    """

    def scale() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(32, 32, 4, 2, 1), nn.InstanceNorm2d(32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(32, 32, 4, 2, 1))

    return Judge(scale, 3, side_px)


def munit_judge(channels: int, side_px: int, width: int) -> Judge:
    """Of the second stage, published form: MUNIT's patches at three scales (Huang et al., ECCV 2018); size
    reconstructed.
    """

    def scale() -> nn.Module:
        layers: list[nn.Module] = []
        before, now = channels, width
        for _ in range(4):
            layers += [nn.Conv2d(before, now, 4, 2, 1), nn.LeakyReLU(0.2)]
            before, now = now, 2 * now
        return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    return Judge(scale, 3, side_px)


def small_judge(channels: int, side_px: int, width: int) -> Judge:
    """Of the second stage, residual form: one scale, three convolutions."""

    def scale() -> nn.Module:
        layers: list[nn.Module] = []
        before = channels
        for now in (width // 2, width, 2 * width):
            layers += [nn.Conv2d(before, max(1, now), 4, 2, 1), nn.LeakyReLU(0.2)]
            before = max(1, now)
        return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    return Judge(scale, 1, side_px)


class CodeJudge(nn.Module):
    """Whether a code and a bottleneck map belong together, as logits: cell by cell [B*u*v], and as a whole [B].

    The published judge takes code and map of equal channel counts, which 128 and 512 are not: both are projected to the
    code's size first. Each is three linear layers of 128 and one of 1.
    """

    def __init__(self, code: int, z_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.project_code = nn.Linear(code, code)
        self.project_map = nn.Conv2d(z_channels, code, 1)
        self.cell = _three_layers(2 * code)
        self.whole = _three_layers(2 * code * grid[0] * grid[1])

    def forward(self, code: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B,N] and maps [B,c,u,v] to the logits of both."""
        maps = self.project_map(z)  # (B, N, u, v)
        tiled = self.project_code(code)[:, :, None, None].expand_as(maps)
        pairs = torch.cat([tiled, maps], dim=1)  # (B, 2N, u, v)
        cells = self.cell(pairs.permute(0, 2, 3, 1).flatten(0, 2))
        return cells.squeeze(1), self.whole(pairs.flatten(1)).squeeze(1)


def _three_layers(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 1),
    )
