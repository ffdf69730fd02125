"""The published Expert-Net: two equal auto-encoders, of images and of impressions, that exchange content and detail.

Layers of the released code as described in utad.md, section 3, and of MUNIT (Huang et al., ECCV 2018); written from the
descriptions. AdaIN parameters are arguments, not state of the modules. Works on [-1,1] inside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.utad.expert_net import Expert, repeated
from xadflow.detectors.utad.settings import ExpertSettings

MLP = 256


class MunitExpert(Expert):
    """See the module. Sides must be multiples of 16."""

    def __init__(self, channels: int, settings: ExpertSettings) -> None:
        super().__init__(settings)
        self.images, self.impressions = (AutoEncoder(channels, settings.width, settings.detail) for _ in range(2))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def detail(self, images: Tensor) -> Tensor:
        """S_I."""
        code: Tensor = self.images.detail(2.0 * images - 1.0)
        return code

    def detail_of_impression(self, impressions: Tensor) -> Tensor:
        """S_M."""
        code: Tensor = self.impressions.detail(2.0 * impressions - 1.0)
        return code

    def content(self, images: Tensor) -> Tensor:
        """C_I [B,4*width,H/4,W/4]."""
        found: Tensor = self.images.content(2.0 * images - 1.0)
        return found

    def content_of_impression(self, impressions: Tensor) -> Tensor:
        """C_M."""
        found: Tensor = self.impressions.content(2.0 * impressions - 1.0)
        return found

    def image(self, impressions: Tensor, codes: Tensor) -> Tensor:
        """x_hat = Dec_I(C_M(m), code)."""
        return self.images.decoded(repeated(self.content_of_impression(impressions), codes), codes)

    def impression(self, images: Tensor, codes: Tensor) -> Tensor:
        """m_hat = Dec_M(C_I(x), code)."""
        return self.impressions.decoded(repeated(self.content(images), codes), codes)

    def copy(self, images: Tensor) -> Tensor:
        """x_rec = Dec_I(C_I(x), S_I(x))."""
        return self.images.decoded(self.content(images), self.detail(images).flatten(1))

    def own_terms(self, x: Tensor, m: Tensor, x_hat: Tensor, m_hat: Tensor) -> Mapping[str, Tensor]:
        """Reconstruction within each domain, and content that survives the way to the other."""
        content_x, content_m = self.content(x), self.content_of_impression(m)
        x_rec = self.images.decoded(content_x, self.detail(x).flatten(1))
        m_rec = self.impressions.decoded(content_m, self.detail_of_impression(m).flatten(1))
        crossed = F.l1_loss(self.content(x_hat), content_m) + F.l1_loss(self.content_of_impression(m_hat), content_x)
        return {"reconstruction": F.l1_loss(x_rec, x) + F.l1_loss(m_rec, m), "content": crossed}


class AutoEncoder(nn.Module):
    """Content [B,4*width,H/4,W/4], detail [B,n,1,1], and back to an image."""

    def __init__(self, channels: int, width: int, detail: int) -> None:
        super().__init__()
        wide = 4 * width
        self.content = nn.Sequential(
            *_layer(channels, width, 7, 1),
            *_layer(width, 2 * width, 4, 2),
            *_layer(2 * width, wide, 4, 2),
            _ContentBlock(wide),
            _ContentBlock(wide),
        )
        self.detail = nn.Sequential(
            *_layer(channels, width, 7, 1, norm=False),
            *_layer(width, 2 * width, 4, 2, norm=False),
            *_layer(2 * width, wide, 4, 2, norm=False),
            *_layer(wide, wide, 4, 2, norm=False),
            *_layer(wide, wide, 4, 2, norm=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, detail, 1),
        )
        self.blocks = nn.ModuleList([_DetailBlock(wide), _DetailBlock(wide)])
        self.parameters_of = nn.Sequential(
            nn.Linear(detail, MLP), nn.ReLU(), nn.Linear(MLP, MLP), nn.ReLU(), nn.Linear(MLP, 2 * 4 * wide)
        )
        self.end = nn.Sequential(
            *_enlarged(wide, 2 * width),
            *_enlarged(2 * width, width),
            nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )

    def decoded(self, content: Tensor, codes: Tensor) -> Tensor:
        """Content [B,...] and codes [B,n] to images in [0,1]."""
        halves = self.parameters_of(codes).chunk(len(self.blocks), dim=1)
        for block, parameters in zip(self.blocks, halves, strict=True):
            content = block(content, parameters)
        drawn: Tensor = self.end(content)
        return 0.5 * (drawn + 1.0)


class _ContentBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layer(width, width, 3, 1), *_layer(width, width, 3, 1)[:-1])

    def forward(self, maps: Tensor) -> Tensor:
        change: Tensor = self.layers(maps)
        return maps + change


class _DetailBlock(nn.Module):
    """A residual block whose instance normalisation gets mean and spread from outside, [B,4*width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect") for _ in range(2))

    def forward(self, maps: Tensor, parameters: Tensor) -> Tensor:
        means, spreads, more_means, more_spreads = parameters[..., None, None].chunk(4, dim=1)
        hidden = F.relu(F.instance_norm(self.first(maps)) * (1.0 + spreads) + means)
        return maps + F.instance_norm(self.second(hidden)) * (1.0 + more_spreads) + more_means


def _layer(channels: int, width: int, kernel: int, stride: int, *, norm: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=(kernel - 1) // 2, padding_mode="reflect")
    return [conv, *([nn.InstanceNorm2d(width)] if norm else []), nn.ReLU()]


def _enlarged(channels: int, width: int) -> list[nn.Module]:
    """Twice the side; the layer normalisation is over channels and places of each image, as MUNIT's."""
    return [
        nn.Upsample(scale_factor=2.0),
        nn.Conv2d(channels, width, 5, padding=2, padding_mode="reflect"),
        nn.GroupNorm(1, width),
        nn.ReLU(),
    ]
