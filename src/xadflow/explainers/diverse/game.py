"""One step of the training of diverse counterfactuals: the players, a batch, each side's loss terms. See
training.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.base import Detector
from xadflow.errors import BadInput
from xadflow.explainers.diverse.canvas import Canvas
from xadflow.explainers.diverse.losses import (
    AnomalyProbability,
    concept_targets,
    discriminator_hinge,
    diversity,
    feature_diversity,
    is_edit,
    winner_takes_all,
)
from xadflow.explainers.diverse.networks import ConceptClassifier, Discriminator, Generator, patch_of
from xadflow.explainers.diverse.pairs import PairBatch
from xadflow.explainers.diverse.places import place_mask
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import Guidance
from xadflow.images import as_float
from xadflow.training.games import judged, leave_gradients, weighted_sum


class Players(nn.Module):
    """The three networks, and the average of the generator's weights."""

    def __init__(self, shape: tuple[int, int, int], settings: DiverseSettings) -> None:
        super().__init__()
        self.canvas = Canvas(shape, settings.size_px)
        channels, (height, width) = self.canvas.channels, self.canvas.size
        side = max(height, width)
        patch = settings.patch or patch_of(side)
        if height % patch or width % patch:
            raise BadInput(
                f"the generator takes images whose sides are multiples of {patch} px",
                seen=(height, width),
                next_step="change size_px of the data set, or size_px or patch of the explainer",
            )
        masked = settings.paint == "mask"
        self.generator = Generator(channels, settings.concepts, width=settings.width, patch=patch, masked=masked)
        if self.canvas.is_reduced:
            self.generator.start_at_nothing()
        self.average = Generator(channels, settings.concepts, width=settings.width, patch=patch, masked=masked)
        self.average.requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        self.discriminator = Discriminator(channels, side)
        self.classifier = ConceptClassifier(channels, settings.concepts, side, noise=settings.noise)

    def paint(self, images: Tensor, alpha: Tensor, concept: Tensor, mask: Tensor | None) -> Tensor:
        """What the generator makes of images [B,C,H,W] in [-1,1], float32."""
        return self.canvas.painted(self.generator, images, alpha, concept, mask).float()

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the generator; it forgets the first steps soon."""
        decay = min(0.999, (step + 1) / (step + 20))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)


@dataclass(frozen=True)
class GameBatch:
    """N images [N,C,H,W] in [-1,1], their phi and the wanted alpha [N]; `made` [N*K,...] by every concept, image by
    image.

    `x`, `s`, `wanted`, `concept`, `mask` are the same repeated for each concept, [N*K]; `mask` is None where all may
    change.
    """

    images: Tensor
    probability: Tensor
    x: Tensor
    s: Tensor
    wanted: Tensor
    concept: Tensor
    mask: Tensor | None
    made: Tensor
    noise: torch.Generator


class Game:
    """One step of each side, and of the regression on pairs. `usual` is that of places.py, for `within: p_value`."""

    def __init__(
        self,
        detector: Detector,
        settings: DiverseSettings,
        players: Players,
        guidance: Guidance | None = None,
        usual: Tensor | None = None,
    ) -> None:
        self.detector, self.settings, self.players, self.usual = detector, settings, players, usual
        self.guidance = guidance or Guidance()
        self.phi: AnomalyProbability = settings.anomaly_probability(detector)

    def batch(self, banks: tuple[Tensor, Tensor], generator: torch.Generator) -> GameBatch:
        """Half normals, half anomalies, drawn with replacement, and what the generator makes of them."""
        s = self.settings
        device, half = banks[0].device, s.images // 2
        images = torch.cat(
            [as_float(bank[torch.randint(len(bank), (half,), generator=generator, device=device)]) for bank in banks]
        )
        with torch.no_grad():
            probability = self.phi.of(self._raw(images))
        where = place_mask(s.within, self.detector, self.usual, images)
        mask = None if where is None else where.repeat_interleave(s.concepts, dim=0)
        drawn = torch.rand(2, s.images, generator=generator, device=device)
        alpha = torch.where(drawn[0] < s.pure, 0.0, drawn[1])
        images = images * 2.0 - 1.0
        x, own, wanted = (value.repeat_interleave(s.concepts, dim=0) for value in (images, probability, alpha))
        concept = torch.arange(s.concepts, device=device).repeat(s.images)
        made = self.players.paint(x, wanted, concept, mask)
        return GameBatch(images, probability, x, own, wanted, concept, mask, made, generator)

    def judge_step(self, batch: GameBatch, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """One step of the discriminator; nothing where the adversarial term is left out."""
        if self.settings.adversarial == 0.0:
            return {}
        judge, reduced = self.players.discriminator, self.players.canvas.reduced
        real = judge(reduced(batch.images), batch.probability)
        made = judge(reduced(batch.made.detach()), batch.wanted)
        return {"discriminator": judged(discriminator_hinge(real.float(), made.float()), optimiser)}

    def maker_step(
        self,
        batch: GameBatch,
        optimiser: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        pairs: PairBatch | None = None,
    ) -> dict[str, Tensor]:
        """One step of generator and concept classifier; gradients of their weights only are formed."""
        terms = self.terms(batch)
        if pairs is not None:
            terms["pairs"] = self.regression(pairs)
        return self._made_step(terms, optimiser, parameters)

    def pair_step(
        self, pairs: PairBatch, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]
    ) -> dict[str, Tensor]:
        """One step of the generator by regression on pairs alone."""
        return self._made_step({"pairs": self.regression(pairs)}, optimiser, parameters)

    def _made_step(
        self, terms: dict[str, Tensor], optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]
    ) -> dict[str, Tensor]:
        leave_gradients(weighted_sum(terms, self.settings.model_dump()), parameters)
        nn.utils.clip_grad_norm_(list(self.players.generator.parameters()), self.settings.clip)
        optimiser.step()
        return {name: value.detach() for name, value in terms.items()}

    def terms(self, batch: GameBatch) -> dict[str, Tensor]:
        """The loss terms whose weight is not 0, by the name of their weight; scalars."""
        s, players = self.settings, self.players
        reduced = players.canvas.reduced
        edit = is_edit(batch.s, batch.wanted)
        targets = concept_targets(batch.concept, s.concepts, edit)
        found: dict[str, Tensor] = {}
        if s.adversarial:
            found["adversarial"] = -players.discriminator(reduced(batch.made), batch.wanted).float().mean()
        if s.score:
            found["score"] = self._cross_entropy(batch.made, batch.wanted)
        rows = _one_concept_each(batch, s.concepts)
        kept = players.paint(batch.x[rows], batch.s[rows], batch.concept[rows], _rows_of(batch.mask, rows))
        if s.reconstruction:
            found["reconstruction"] = (kept - batch.x[rows]).abs().mean()
        pairs = [(batch.x, batch.made, targets), (batch.x[rows], kept, torch.zeros_like(targets[rows]))]
        if s.cycle:
            back = players.paint(batch.made, batch.s, batch.concept, batch.mask)
            found["cycle"] = (back - batch.x).abs().mean()
            if s.score:
                found["score"] = found["score"] + self._cross_entropy(back, batch.s)
            pairs += [(batch.made, back, targets), (batch.x, back, torch.zeros_like(targets))]
        if s.concept and s.concepts > 1:
            logits = [
                players.classifier(reduced(first), reduced(second), batch.noise).float() for first, second, _ in pairs
            ]
            found["concept"] = F.binary_cross_entropy_with_logits(
                torch.cat(logits), torch.cat([one for *_, one in pairs])
            )
        edits = batch.made - batch.x
        if s.diversity and s.concepts > 1:
            by_image = edits.view(-1, s.concepts, *edits.shape[1:])
            found["diversity"] = diversity(by_image, edit.view(-1, s.concepts)[:, 0], s.margin)
        if s.feature_diversity and s.concepts > 1 and self.guidance.features is not None:
            with torch.no_grad():
                before = self.guidance.features((batch.images + 1.0) / 2.0)
            after = self.guidance.features((batch.made + 1.0) / 2.0)
            found["feature_diversity"] = feature_diversity(before, after, edit.view(-1, s.concepts)[:, 0], s.margin)
        if s.proximity:
            found["proximity"] = edits.abs().mean()
        return found

    def regression(self, pairs: PairBatch) -> Tensor:
        """What the generator makes of flawed images, against their mended ones, and of normals, against themselves; a
        scalar.

        Winner takes all for the first; every concept leaves a normal as it is. No mask of places is laid over it.
        """
        s = self.settings
        x = torch.cat([pairs.flawed, pairs.kept])
        concept = torch.arange(s.concepts, device=x.device).repeat(len(x))
        repeated = x.repeat_interleave(s.concepts, dim=0)
        made = self.players.paint(repeated, torch.zeros(len(repeated), device=x.device), concept, None)
        made = made.reshape(len(x), s.concepts, *x.shape[1:])
        mended = winner_takes_all(made[: len(pairs.flawed)], pairs.mended, s.slack)
        return mended + 0.5 * (made[len(pairs.flawed) :] - pairs.kept[:, None]).abs().mean()

    def _cross_entropy(self, images: Tensor, alpha: Tensor) -> Tensor:
        """Mean over the explained detector and its companions, whose probability is that of their calibration."""
        pixels = (images + 1.0) / 2.0
        found = [self.phi.cross_entropy(self._raw(pixels), alpha)]
        with self._exactly():
            found += [
                F.binary_cross_entropy_with_logits(-one.normal_logit(pixels).float(), alpha, reduction="none")
                for one in self.guidance.companions
            ]
        return torch.stack(found).mean()

    def _raw(self, images: Tensor) -> Tensor:
        """Raw scores [B] by way of the normal logit: `score` forms a heatmap too, for some detectors by one
        more pass.
        """
        calibration = self.detector.calibration
        with self._exactly():
            return calibration.threshold - calibration.temperature * self.detector.normal_logit(images).float()

    def _exactly(self) -> torch.autocast:
        """Detectors answer in float32 whatever the precision of the players: a whitened distance is noise
        in bfloat16.
        """
        return torch.autocast(next(self.players.parameters()).device.type, enabled=False)


def _one_concept_each(batch: GameBatch, concepts: int) -> Tensor:
    """Rows [N] of a batch, one drawn concept for each image: L_rec is the same mean, for a fraction of the generator's
    work.
    """
    images = torch.arange(len(batch.images), device=batch.x.device)
    return images * concepts + torch.randint(concepts, (len(images),), generator=batch.noise, device=batch.x.device)


def _rows_of(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if mask is None else mask[rows]
