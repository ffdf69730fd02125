"""What an Expert-Net is: content from the impression, detail from the image, and the same the other way round.

    x_hat = image(C(m), S_I(x))        sharp, without defect
    m_hat = impression(C(x), d)        blurred, with the defect ("naive impression"); d is drawn

The only way from x to x_hat that does not go through m is the detail code S_I(x), a few numbers behind a global
average: it cannot say where a defect is. `image` therefore takes m and the code, never x.

The residual Expert-Net (ours): x_hat = m + R(m, S_I(x)), m_hat = x + R'(x, d).

It starts as the identity and learns what an impression lacks, so that minutes without a GPU are enough; the published
form did not get as far as copying its input in them. What it keeps of the published idea: two domains, detail codes
behind a global average, drawn codes for the naive impression.

The published Expert-Net: two equal auto-encoders, of images and of impressions, that exchange content and detail.

Layers of the released code as described in docs/explanation/methods.md, "UTAD", and of MUNIT (Huang et al., ECCV 2018);
written from the descriptions. AdaIN parameters are arguments, not state of the modules. Works on [-1,1] inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.utad.settings import ExpertSettings


class Expert(nn.Module, ABC):
    """Base of both forms. Images and impressions are [B,C,H,W] in [0,1] (results may leave it a little);
    codes [B,n].
    """

    def __init__(self, settings: ExpertSettings) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def detail(self, images: Tensor) -> Tensor:
        """S_I: the detail code of images, [B,n,1,1]."""

    @abstractmethod
    def detail_of_impression(self, impressions: Tensor) -> Tensor:
        """S_M: the same of the impression domain."""

    @abstractmethod
    def image(self, impressions: Tensor, codes: Tensor) -> Tensor:
        """x_hat [B*K,C,H,W] of impressions [B,...] and codes [B*K,n], image by image; content is formed
        once an image.
        """

    @abstractmethod
    def impression(self, images: Tensor, codes: Tensor) -> Tensor:
        """m_hat [B*K,C,H,W] of images [B,...] and codes [B*K,n]."""

    @abstractmethod
    def copy(self, images: Tensor) -> Tensor:
        """x_rec: images through the image domain, content and detail their own. The reconstruction that
        copies defects.
        """

    @abstractmethod
    def own_terms(self, x: Tensor, m: Tensor, x_hat: Tensor, m_hat: Tensor) -> Mapping[str, Tensor]:
        """Loss terms that only this form has, by the names of their weights."""


def repeated(images: Tensor, codes: Tensor) -> Tensor:
    """Each of [B,...] as often as there are codes for it."""
    return images.repeat_interleave(len(codes) // len(images), dim=0)


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
