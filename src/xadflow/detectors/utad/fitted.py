"""The trained networks with all that was learned after them: the bank of codes, and the scale of each term and part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xadflow.detectors.fcdd.feature_bank import some_of
from xadflow.detectors.utad.expert_net import Expert
from xadflow.detectors.utad.impression_net import Impression, ImpressionNet
from xadflow.detectors.utad.latent import nearest_distance
from xadflow.detectors.utad.maps import LEAST_SPREAD, PERCEPTUAL_STAGES, Combination, Measure, Views, entering, hottest
from xadflow.detectors.utad.settings import Term, UtadSettings
from xadflow.images import as_float
from xadflow.networks.pretrained import Trunk
from xadflow.training.seeds import seeded

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
