"""What the trained networks are used for: the anomaly map, the distance of the code, and what both learn of normals.

From an image and its reconstructions to the anomaly map e.

    e = sum_t w_t (T_t - mean_t) / std_t        mean and std of each term over the pixels of held-out normals

The released "brute force" map is D(x, x_hat) + D(x, m_hat) - Var(x_hat) - D(x_hat, m), cut at 0
(docs/explanation/methods.md, "UTAD"): a real anomaly differs from the sharp reconstruction and from the naive
impression; what is uncertain or merely added detail is taken off. There the terms are 8-bit and of unlike scale (a sum
can wrap, the variance swamps the rest): hence standard deviations. The `low-` terms compare after a blur: what is left
of detail that no reconstruction can know does not count then.

`nearest_distance`: how far an image's code lies from the normals', k-NN in the 2-Wasserstein distance of Gaussians with
a diagonal covariance.

    d^2 = |mu - mu_i|^2 + |sigma - sigma_i|^2,  mean over the nearest normals

The bank holds train normals; threshold and scale come from held-out ones, which are not in it: no image is its own
neighbour.

`Fitted`: the trained networks with all that was learned after them, the bank of codes and the scale of each term and
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.fcdd.feature_bank import some_of
from xadflow.detectors.utad.expert_net import Expert
from xadflow.detectors.utad.impression_net import Impression, ImpressionNet
from xadflow.detectors.utad.losses import gaussian_blur, similarity
from xadflow.detectors.utad.settings import MapSettings, Term, UtadSettings
from xadflow.images import as_float
from xadflow.networks.pretrained import Trunk
from xadflow.training.seeds import seeded

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


def nearest_distance(codes: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Mean squared distance of codes [B,2N] (mu and sigma) to their nearest of the bank [M,2N], [B]; differentiable.

    Neighbours are found by one matrix product; the distances themselves are summed anew, so that an image of the bank
    is at exactly 0 from itself.
    """
    with torch.no_grad():
        rough = bank.square().sum(dim=1)[None, :] - 2.0 * codes @ bank.T  # (B, M), but for |codes|^2
        chosen = rough.topk(min(neighbours, len(bank)), dim=1, largest=False).indices  # (B, k)
    return (codes[:, None, :] - bank[chosen]).square().sum(dim=2).mean(dim=1)


PARTS = ("map", "knn")
_ONE_PASS = 64  # images at once


class Fitted(nn.Module):
    """Both networks, the bank of codes [M,2N], and the scales of terms and parts on held-out normals."""

    bank: Tensor
    terms_scale: Tensor
    parts_scale: Tensor

    def __init__(
        self,
        settings: UtadSettings,
        shape: tuple[int, int, int],
        impress: ImpressionNet,
        expert: Expert,
        in_bank: int = 0,
    ) -> None:
        super().__init__()
        self.settings, self.shape = settings, shape
        self.impress, self.expert = impress, expert
        names = entering(settings.map)
        self.register_buffer("bank", torch.zeros(in_bank, 2 * settings.impression.code))
        self.register_buffer("terms_scale", torch.tensor([[0.0, 1.0]] * len(names)))
        self.register_buffer("parts_scale", torch.tensor([[0.0, 1.0]] * len(PARTS)))
        trunk = None if settings.map.perceptual == "none" else Trunk(settings.map.perceptual, PERCEPTUAL_STAGES)
        self._measure = Measure(
            settings.map, trunk
        )  # no module: the trunk's weights come from a package and are not saved
        self.requires_grad_(False).eval()

    @property
    def measure(self) -> Measure:
        """The terms."""
        if self._measure.trunk is not None:
            self._measure.trunk.to(self.bank.device)
        return self._measure

    @property
    def combination(self) -> Combination:
        """Weights and scales of the terms that enter."""
        return Combination(self.settings.map, self.terms_scale[:, 0], self.terms_scale[:, 1])

    def views(self, x: Tensor, seen: Impression, wanted: Sequence[Term], samples: int) -> Views:
        """The image, its impression, and `samples` of what the wanted terms compare them with.

        The first x_hat has the image's own detail code, the others' differ from it by drawn numbers, and m_hats have
        drawn codes: the same numbers for every image, whatever batch it is in.
        """
        count, n = len(x), self.settings.expert.detail
        x_hats = m_hats = None
        drawn = torch.randn(2, samples, n, generator=seeded(0, "utad samples"))  # on the CPU: the same on every device
        drawn = drawn.to(x.device)
        if any("x_hat" in name for name in wanted):
            jitter = self.settings.map.jitter * drawn[0]
            jitter[0] = 0.0
            codes = (self.expert.detail(x).flatten(1)[:, None] + jitter).flatten(0, 1)  # (B*K, n)
            x_hats = self.expert.image(seen.m, codes).view(count, samples, *x.shape[1:])
        if any("m_hat" in name for name in wanted):
            codes = drawn[1].repeat(count, 1)
            m_hats = self.expert.impression(x, codes).view(count, samples, *x.shape[1:])
        return Views(x, seen.m, x_hats, m_hats)

    def contributions(self, x: Tensor, seen: Impression) -> dict[Term, Tensor]:
        """What each term that enters adds to the map."""
        names = entering(self.settings.map)
        return self.combination.contributions(
            self.measure.terms(self.views(x, seen, names, self.settings.map.samples), names)
        )

    def parts(self, seen: Impression, e: Tensor) -> dict[str, Tensor]:
        """Both parts of the image score [B], each in standard deviations of held-out normals."""
        raw = self._raw_parts(seen, e)
        return {name: (raw[name] - self.parts_scale[i, 0]) / self.parts_scale[i, 1] for i, name in enumerate(PARTS)}

    def _raw_parts(self, seen: Impression, e: Tensor) -> dict[str, Tensor]:
        s = self.settings.score
        return {"map": hottest(e, s.hottest), "knn": nearest_distance(_code(seen), self.bank, s.neighbours)}

    @torch.no_grad()
    def learn(self, normals: Tensor, held_out: Tensor, generator: torch.Generator) -> None:
        """Fill the bank from train normals, and take every scale from held-out ones; all uint8 [N,C,H,W]."""
        chosen = some_of(len(normals), self.settings.score.bank, generator).sort().values
        device = self.bank.device
        known = [as_float(batch.to(device)) for batch in torch.split(normals[chosen], _ONE_PASS)]
        self.bank = torch.cat([_code(self.impress(x)) for x in known])
        batches = [as_float(batch.to(device)) for batch in torch.split(held_out, _ONE_PASS)]
        names = entering(self.settings.map)
        raw: dict[str, list[Tensor]] = {name: [] for name in (*names, *PARTS)}
        for x in batches:
            views = self.views(x, self.impress(x), names, self.settings.map.samples)
            for name, value in self.measure.terms(views, names).items():
                raw[name].append(value.double().flatten())
        self.terms_scale = torch.stack([_scale(raw[name]) for name in names]).float()
        for x in batches:
            seen = self.impress(x)
            e = self.combination.map(self.contributions(x, seen))
            for part, one in self._raw_parts(seen, e).items():
                raw[part].append(one.double())
        self.parts_scale = torch.stack([_scale(raw[name]) for name in PARTS]).float()


def _code(seen: Impression) -> Tensor:
    return torch.cat([seen.mu, seen.sigma], dim=1)


def _scale(values: Sequence[Tensor]) -> Tensor:
    """Mean and standard deviation, [2]."""
    every = torch.cat(list(values))
    return torch.stack([every.mean(), every.std(correction=0).clamp_min(LEAST_SPREAD)])
