"""The three networks of the diverse counterfactuals: generator, discriminator, concept classifier.

Source: "Reimagining Anomalies: What If Anomalies Were Normal?" (Liznerski et al., arXiv 2402.14469) for what they do;
its architectures are not public, so these are those of docs/explanation/methods.md, "Diverse counterfactuals". None of
them uses statistics of a batch: the answer for an image does not depend on its batch mates.

Images are float [B,C,H,W] in [-1,1]; `alpha` [B] in [0,1] is the wanted anomaly probability, `concept` [B] int64.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xadflow.errors import BadSettings

GROUPS = 8  # of every group normalisation; a width is a multiple of it
FREQUENCIES = 8  # of the sinusoidal embedding of alpha
CODE = 64  # size of the joint embedding of alpha and concept
CONCEPT_CODE = 32
SLOPE = 0.1  # of the leaky ReLU
START_MASK = -2.0  # logit of a mask before it is trained: little of what is drawn is seen, enough for a gradient
COARSEST_PX = 4  # discriminator and classifier halve an image down to about this side


class Conditioning(nn.Module):
    """Wanted probability and concept to one code [B,64]: sines and cosines of alpha, a learned vector for
    each concept.
    """

    octaves: Tensor

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.register_buffer("octaves", math.pi / 4 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)
        self.concept = nn.Embedding(concepts, CONCEPT_CODE)
        self.mix = nn.Sequential(
            nn.Linear(2 * FREQUENCIES + CONCEPT_CODE, CODE), nn.SiLU(), nn.Linear(CODE, CODE), nn.SiLU()
        )

    def forward(self, alpha: Tensor, concept: Tensor) -> Tensor:
        """[B,64]."""
        phase = alpha[:, None] * self.octaves
        return cast(Tensor, self.mix(torch.cat([phase.sin(), phase.cos(), self.concept(concept)], dim=1)))


class ConditionedResidual(nn.Module):
    """Twice group normalisation, scale and shift by the code (FiLM, Perez et al., AAAI 2018), SiLU, 3x3; plus the
    input.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = (inputs, outputs)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in widths)
        self.films = nn.ModuleList(nn.Linear(CODE, 2 * width) for width in widths)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1) for width in widths)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """[B,outputs,H,W]."""
        hidden = maps
        for norm, film, convolution in zip(self.norms, self.films, self.convolutions, strict=True):
            scale, shift = film(code)[:, :, None, None].chunk(2, dim=1)
            hidden = convolution(F.silu((1.0 + scale) * norm(hidden) + shift))
        return cast(Tensor, self.skip(maps) + hidden)


class Generator(nn.Module):
    """G(x, alpha, k): the image as it would be at anomaly probability alpha, changed by concept k. Output in [-1,1].

    A U-net of three levels on patches of `patch` px, `width` channels at the top. Sides are multiples of the patch.
    The bottom is added on the way up, the top is joined: what is not to change passes there. With `masked` it draws an
    image g and a mask m in [0,1] and gives x + m (g - x): every value that no mask covers is that of the image.
    """

    def __init__(self, channels: int, concepts: int, *, width: int = 24, patch: int = 2, masked: bool = False) -> None:
        super().__init__()
        if width % GROUPS:
            raise BadSettings(
                "the generator's width is no multiple of 8", seen=width, next_step=f"use {width // 8 * 8 + 8}"
            )
        self.patch, self.masked = patch, masked
        inner, outer = channels * patch**2, (channels + masked) * patch**2
        self.code = Conditioning(concepts)
        self.enter = nn.Conv2d(inner, width, 3, padding=1)
        self.top = ConditionedResidual(width, width)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.middle = ConditionedResidual(2 * width, 2 * width)
        self.deeper = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.bottom = ConditionedResidual(4 * width, 4 * width)
        self.lift = nn.Conv2d(4 * width, 2 * width, 1)
        self.middle_again = ConditionedResidual(2 * width, 2 * width)
        self.lift_again = nn.Conv2d(2 * width, width, 1)
        self.top_again = ConditionedResidual(2 * width, width)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, outer, 3, padding=1))
        last = cast(nn.Conv2d, self.leave[-1])
        if masked and last.bias is not None:
            nn.init.constant_(last.bias[inner:], START_MASK)

    def start_at_nothing(self) -> None:
        """Zeros in the last convolution: the output is 0 whatever the image, until it is trained."""
        last = cast(nn.Conv2d, self.leave[-1])
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, alpha: Tensor, concept: Tensor) -> Tensor:
        """[B,C,H,W] in [-1,1]."""
        code = self.code(alpha, concept)
        top = self.top(self.enter(F.pixel_unshuffle(images, self.patch)), code)
        middle = self.middle(self.down(top), code)
        bottom = self.bottom(self.deeper(middle), code)
        rising = middle + F.interpolate(self.lift(bottom), size=middle.shape[2:], mode="nearest")
        rising = self.lift_again(self.middle_again(rising, code))
        rising = torch.cat([F.interpolate(rising, size=top.shape[2:], mode="nearest"), top], dim=1)
        drawn = F.pixel_shuffle(self.leave(self.top_again(rising, code)), self.patch)
        if not self.masked:
            return drawn.tanh()
        return images + drawn[:, -1:].sigmoid() * (drawn[:, :-1].tanh() - images)


class Discriminator(nn.Module):
    """D(x, alpha): is this an image of the data whose anomaly probability is alpha? [B], for the hinge loss.

    Spectral norm everywhere (Miyato et al., ICLR 2018), projection on (alpha, 1 - alpha) (Miyato and Koyama, ICLR
    2018).
    """

    def __init__(self, channels: int, side_px: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for kernel, outputs, stride in [*_halvings(side_px, 128), (3, 128, 1)]:
            layers += [spectral_norm(nn.Conv2d(width, outputs, kernel, stride, 1)), nn.LeakyReLU(SLOPE)]
            width = outputs
        self.body = nn.Sequential(*layers)
        self.linear = spectral_norm(nn.Linear(width, 1))
        self.projection = spectral_norm(nn.Linear(2, width, bias=False))

    def forward(self, images: Tensor, alpha: Tensor) -> Tensor:
        """[B]."""
        pooled = 4.0 * self.body(images).mean(dim=(2, 3))
        wanted = self.projection(torch.stack([alpha, 1.0 - alpha], dim=1))
        return cast(Tensor, self.linear(pooled)[:, 0] + (wanted * pooled).sum(dim=1))


class ConceptClassifier(nn.Module):
    """R(x, x'): which concept made x' of x? K independent logits [B,K]; noise keeps it from reading a watermark."""

    def __init__(self, channels: int, concepts: int, side_px: int, *, noise: float = 0.2) -> None:
        super().__init__()
        self.noise = noise
        layers: list[nn.Module] = []
        width = 2 * channels
        for kernel, outputs, stride in _halvings(side_px, 64):
            layers += [nn.Conv2d(width, outputs, kernel, stride, 1), nn.LeakyReLU(SLOPE)]
            width = outputs
        self.body = nn.Sequential(*layers)
        self.linear = nn.Linear(width, concepts)

    def forward(self, images: Tensor, others: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B,K]; noise is added where a generator is given."""
        pairs = torch.cat([images, others], dim=1)
        if generator is not None:
            pairs = pairs + self.noise * torch.randn(pairs.shape, generator=generator, device=pairs.device)
        return cast(Tensor, self.linear(self.body(pairs).mean(dim=(2, 3))))


def patch_of(side_px: int) -> int:
    """Patches of 2 px up to 48 px, of 4 px above: the cost of a step stays about the same."""
    return 2 if side_px <= 48 else 4


def _halvings(side_px: int, most: int) -> list[tuple[int, int, int]]:
    """(kernel, channels, stride) of as many halvings as lead to about 4 px, at least three; the last has a
    3x3 kernel.
    """
    count = max(3, round(math.log2(side_px / COARSEST_PX)))
    return [(4 if number < count - 1 else 3, min(32 * 2**number, most), 2) for number in range(count)]
