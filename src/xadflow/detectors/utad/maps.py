"""From an image and its reconstructions to the anomaly map e.

    e = sum_t w_t (T_t - mean_t) / std_t        mean and std of each term over the pixels of held-out normals

The released "brute force" map is D(x, x_hat) + D(x, m_hat) - Var(x_hat) - D(x_hat, m), cut at 0 (utad.md, section 4): a
real anomaly differs from the sharp reconstruction and from the naive impression; what is uncertain or merely added
detail is taken off. There the terms are 8-bit and of unlike scale (a sum can wrap, the variance swamps the rest): hence
standard deviations. The `low-` terms compare after a blur: what is left of detail that no reconstruction can know does
not count then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.utad.losses import gaussian_blur, similarity
from xadflow.detectors.utad.settings import MapSettings, Term
from xadflow.networks.pretrained import Trunk

TERMS: tuple[Term, ...] = ("x-x_hat", "x-m_hat", "var-x_hat", "x_hat-m", "x-m", "m-m_hat", "low-x_hat", "low-m")
LUMA = (0.2989, 0.5870, 0.1140)
LEAST_SPREAD = 1e-10  # of a term on held-out normals: they may be all of one colour
PERCEPTUAL_STAGES = (0, 1, 2, 4)  # strides 2, 4, 8 and 16
_EPS = 1e-6


@dataclass(frozen=True)
class Views:
    """An image and what the two stages make of it: x, m [B,C,H,W]; samples x_hats, m_hats [B,K,C,H,W] or None."""

    x: Tensor
    m: Tensor
    x_hats: Tensor | None = None
    m_hats: Tensor | None = None

    @cached_property
    def x_hat(self) -> Tensor:
        """Mean over the samples."""
        assert self.x_hats is not None
        return self.x_hats.mean(dim=1)

    @cached_property
    def m_hat(self) -> Tensor:
        """Mean over the samples."""
        assert self.m_hats is not None
        return self.m_hats.mean(dim=1)


class Measure:
    """The terms T_t of views, each a raw map [B,H,W] >= 0; `trunk` is the frozen network of the perceptual distance."""

    def __init__(self, settings: MapSettings, trunk: Trunk | None) -> None:
        self.settings, self.trunk = settings, trunk

    def terms(self, views: Views, wanted: Sequence[Term]) -> dict[Term, Tensor]:
        """The wanted terms."""
        return {name: self._term(name, views) for name in wanted}

    def _term(self, name: Term, views: Views) -> Tensor:
        if name == "var-x_hat":
            assert views.x_hats is not None
            return views.x_hats.var(dim=1, correction=0).mean(dim=1)
        if name in ("low-x_hat", "low-m"):
            other = views.x_hat if name == "low-x_hat" else views.m
            sigma = self.settings.low_pass * min(views.x.shape[2:])
            return (gaussian_blur(grey(views.x) - grey(other), sigma)).square()[:, 0]
        first, second = {
            "x-x_hat": lambda: (views.x, views.x_hat),
            "x-m_hat": lambda: (views.x, views.m_hat),
            "x_hat-m": lambda: (views.x_hat, views.m),
            "x-m": lambda: (views.x, views.m),
            "m-m_hat": lambda: (views.m, views.m_hat),
        }[name]()
        return self.distance(first, second)

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """D of two [B,C,H,W] at every pixel, [B,H,W]."""
        kind = self.settings.distance
        if kind == "perceptual":
            assert self.trunk is not None
            return perceptual_distance(self.trunk, first, second)
        a, b = grey(first), grey(second)
        if kind == "ssim":
            return (1.0 - similarity(a, b))[:, 0]
        change = (a - b)[:, 0]
        return change.square() if kind == "squared" else change.abs()


@dataclass(frozen=True)
class Combination:
    """Weights of terms, and mean and spread [T] of each on held-out normals, in the order of `names`."""

    settings: MapSettings
    means: Tensor
    spreads: Tensor

    @property
    def names(self) -> tuple[Term, ...]:
        """The terms that enter."""
        return entering(self.settings)

    def contributions(self, terms: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """What each entering term adds to the map before its final blur, [B,H,W]."""
        found: dict[Term, Tensor] = {}
        for number, name in enumerate(self.names):
            value = terms[name]
            if self.settings.standardise:
                value = (value - self.means[number]) / self.spreads[number]
            found[name] = self.settings.terms[name] * value
        return found

    def map(self, contributions: Mapping[Term, Tensor]) -> Tensor:
        """e [B,H,W]."""
        total = torch.stack(list(contributions.values())).sum(dim=0)
        if not self.settings.standardise:
            total = total.clamp_min(0.0)
        return gaussian_blur(total[:, None], self.settings.blur * min(total.shape[1:]))[:, 0]


def entering(settings: MapSettings) -> tuple[Term, ...]:
    """The terms with a weight, in a fixed order."""
    return tuple(name for name in TERMS if settings.terms.get(name))


def grey(images: Tensor) -> Tensor:
    """[B,C,H,W] to [B,1,H,W]; the luma of three channels."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def perceptual_distance(trunk: Trunk, first: Tensor, second: Tensor) -> Tensor:
    """Mean over the trunk's stages of 1 - cosine of the features, resampled to the images' size, [B,H,W]."""
    size = first.shape[2:]
    found = []
    for a, b in zip(trunk.stage_features(first), trunk.stage_features(second), strict=True):
        cosine = F.cosine_similarity(a.float(), b.float(), dim=1, eps=_EPS)[:, None]
        found.append(F.interpolate(1.0 - cosine, size=size, mode="bilinear", align_corners=False))
    return torch.stack(found).mean(dim=0)[:, 0]


def hottest(maps: Tensor, share: float) -> Tensor:
    """Mean of the hottest `share` of each map [B,H,W], at least one pixel; [B]."""
    flat = maps.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(dim=1)
