"""The residual Expert-Net (ours): x_hat = m + R(m, S_I(x)), m_hat = x + R'(x, d).

It starts as the identity and learns what an impression lacks, so that minutes without a GPU are enough; the published
form did not get as far as copying its input in them. What it keeps of the published idea: two domains, detail codes
behind a global average, drawn codes for the naive impression.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.utad.expert_net import Expert, repeated
from xadflow.detectors.utad.settings import ExpertSettings


class ResidualExpert(Expert):
    """See the module. Sides must be even."""

    def __init__(self, channels: int, settings: ExpertSettings) -> None:
        super().__init__(settings)
        n, width = settings.detail, settings.width
        self.to_image, self.to_impression = (_Residual(channels, width, n) for _ in range(2))
        self.image_detail, self.impression_detail = (_detail(channels, width, n) for _ in range(2))

    def detail(self, images: Tensor) -> Tensor:
        """S_I."""
        code: Tensor = self.image_detail(images)
        return code

    def detail_of_impression(self, impressions: Tensor) -> Tensor:
        """S_M."""
        code: Tensor = self.impression_detail(impressions)
        return code

    def image(self, impressions: Tensor, codes: Tensor) -> Tensor:
        """x_hat."""
        change: Tensor = self.to_image(impressions, codes)
        return repeated(impressions, codes) + change

    def impression(self, images: Tensor, codes: Tensor) -> Tensor:
        """m_hat."""
        change: Tensor = self.to_impression(images, codes)
        return repeated(images, codes) + change

    def copy(self, images: Tensor) -> Tensor:
        """x_rec: the image in the impression's place."""
        return self.image(images, self.detail(images).flatten(1))

    def own_terms(self, x: Tensor, m: Tensor, x_hat: Tensor, m_hat: Tensor) -> Mapping[str, Tensor]:
        """None."""
        return {}


class _Residual(nn.Module):
    """Three residual blocks at half resolution, each scaled and shifted by the code; two channels say where
    a pixel is.
    """

    def __init__(self, channels: int, width: int, detail: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * channels + 2, width, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(width, width, 3, padding=reach, dilation=reach) for reach in (1, 2, 1))
        self.second = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.modulation = nn.Sequential(nn.Linear(detail, 64), nn.ReLU(), nn.Linear(64, 6 * width))
        self.end = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.end.weight)
        if self.end.bias is not None:
            nn.init.zeros_(self.end.bias)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """[B,C,H,W] and [B*K,n] to the change [B*K,C,H,W]."""
        small = F.pixel_unshuffle(images, 2)
        hidden = repeated(self.stem(torch.cat([small, _places(small)], dim=1)), codes)
        films = self.modulation(codes)[..., None, None].chunk(3, dim=1)
        for first, second, film in zip(self.first, self.second, films, strict=True):
            scale, shift = film.chunk(2, dim=1)
            hidden = hidden + second(F.relu(first(hidden) * (1.0 + scale) + shift))
        return F.pixel_shuffle(self.end(F.relu(hidden)), 2)


def _places(maps: Tensor) -> Tensor:
    """Row and column in [-1,1], [B,2,u,v]."""
    rows = torch.linspace(-1, 1, maps.shape[2], device=maps.device, dtype=maps.dtype)[:, None].expand(maps.shape[2:])
    columns = torch.linspace(-1, 1, maps.shape[3], device=maps.device, dtype=maps.dtype)[None, :].expand(maps.shape[2:])
    return torch.stack([rows, columns]).expand(len(maps), -1, -1, -1)


def _detail(channels: int, width: int, detail: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for now in (max(1, width // 2), width, width):
        layers += [nn.Conv2d(before, now, 4, 2, 1), nn.ReLU()]
        before = now
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(before, detail, 1))
