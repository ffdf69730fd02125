"""Training of the diverse counterfactuals: generator and concept classifier against a discriminator, detector frozen.

    min_{G,R} max_D   l_gan (L_D + L_G) + l_phi L_phi + l_rec L_rec + l_cyc L_cyc + l_r L_con + l_div L_div + l_prox L_prox

Source: arXiv 2402.14469, equation of section 3 (its L_phi is a log-likelihood, hence its minus), with the two last terms
added. Adam on D and on G and R together, one step each; the generator that is kept is an exponential moving average.
Everything random in a step is a function of (seed, step), so a training that was killed goes on exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.base import Detector, as_float
from xadflow.engine.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from xadflow.engine.progress import History, Progress
from xadflow.engine.seeds import seeded
from xadflow.errors import BadInput
from xadflow.explainers.diverse.canvas import Canvas, heat_mask
from xadflow.explainers.diverse.losses import (
    AnomalyProbability,
    concept_targets,
    discriminator_hinge,
    diversity,
    is_edit,
)
from xadflow.explainers.diverse.networks import ConceptClassifier, Discriminator, Generator, patch_of
from xadflow.explainers.diverse.samples import due, write_samples
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import GeneratorRun

CHECK_EVERY = 50  # steps between checkpoints; the losses are looked at there
BETAS = (0.0, 0.9)


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator in evaluation mode; `history` holds (step, name, value)."""

    generator: Generator
    resumed_from: int
    history: tuple[tuple[int, str, float], ...]


class Players(nn.Module):
    """The three networks, and the average of the generator's weights."""

    def __init__(self, shape: tuple[int, int, int], settings: DiverseSettings) -> None:
        super().__init__()
        self.canvas = Canvas(shape, settings.size_px)
        channels, (height, width) = self.canvas.channels, self.canvas.size
        side = max(height, width)
        patch = settings.patch or patch_of(side)
        if height % patch or width % patch:
            raise BadInput(f"the generator takes images whose sides are multiples of {patch} px", seen=(height, width),
                           next_step="change size_px of the data set, or size_px or patch of the explainer")  # fmt: skip
        self.generator = Generator(channels, settings.concepts, width=settings.width, patch=patch)
        if self.canvas.is_reduced:
            self.generator.start_at_nothing()
        self.average = Generator(channels, settings.concepts, width=settings.width, patch=patch).requires_grad_(False)
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


def train_generator(
    detector: Detector, normals: Tensor, anomalies: Tensor, settings: DiverseSettings, run: GeneratorRun
) -> TrainedGenerator:
    """Train on uint8 [N,C,H,W] of both kinds; `anomalies` are pseudo-anomalies or real ones outside of test and gate.

    The detector is not changed: no weight of it gets a gradient.

    Raises:
        BadInput: one of the two is empty, or a side the generator cannot take.
        TrainingFailed: a loss is not a number; the last checkpoint stays.
    """
    if not len(normals) or not len(anomalies):
        raise BadInput("a generator learns from normal and from anomalous images", seen=(len(normals), len(anomalies)),
                       next_step="name a data set under outliers of this one, or give it known defects")  # fmt: skip
    with _drawn_from(run.seed):
        players = Players(detector.input_shape, settings).to(run.device)
    players.train()
    made_by = [*players.generator.parameters(), *players.classifier.parameters()]
    makers = torch.optim.Adam(made_by, settings.learning_rate, betas=BETAS)
    judge = torch.optim.Adam(players.discriminator.parameters(), settings.learning_rate, betas=BETAS)
    start, history = 0, History([])
    path = run.folder / CHECKPOINT
    if (saved := read_checkpoint(path, run.identity)) is not None:
        players.load_state_dict(saved["players"])
        makers.load_state_dict(saved["makers"])
        judge.load_state_dict(saved["judge"])
        start, history = int(saved["step"]), History(saved["history"])
    progress = Progress(run, settings.steps)
    progress.advance(units=start)
    game = Game(detector, settings, players)
    banks = (normals.to(run.device), anomalies.to(run.device))
    figures: dict[str, float] = {}
    for step in range(start, settings.steps):
        for optimiser in (makers, judge):
            optimiser.param_groups[0]["lr"] = _rate(settings, step)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            batch = game.batch(banks, seeded(run.seed, "diverse", step, device=run.device))
            losses = game.judge_step(batch, judge) | game.maker_step(batch, makers, made_by)
        players.follow(step)
        done = history.add(step, losses)
        if done % CHECK_EVERY == 0 or done == settings.steps:
            figures = history.look()
            write_checkpoint(path, run.identity, {
                "step": done, "players": players.state_dict(), "history": history.seen,
                "makers": makers.state_dict(), "judge": judge.state_dict(),
            })  # fmt: skip
        if run.samples and due(done, settings.steps):
            write_samples(run.folder, done, detector, players.average, players.canvas, banks, settings)
        progress.advance(figures)
    return TrainedGenerator(players.average.eval(), start, tuple(history.seen))


@dataclass(frozen=True)
class GameBatch:
    """N images [N,C,H,W] in [-1,1], their phi and the wanted alpha [N]; `made` [N*K,...] by every concept, image by image.

    `x`, `s`, `wanted`, `concept`, `mask` are the same repeated for each concept, [N*K]; `mask` is None where all may change.
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
    """One step of each side."""

    def __init__(self, detector: Detector, settings: DiverseSettings, players: Players) -> None:
        self.detector, self.settings, self.players = detector, settings, players
        self.phi: AnomalyProbability = settings.anomaly_probability(detector)

    def batch(self, banks: tuple[Tensor, Tensor], generator: torch.Generator) -> GameBatch:
        """Half normals, half anomalies, drawn with replacement, and what the generator makes of them."""
        s = self.settings
        device, half = banks[0].device, s.images // 2
        images = torch.cat([
            as_float(bank[torch.randint(len(bank), (half,), generator=generator, device=device)]) for bank in banks
        ])  # fmt: skip
        with torch.no_grad():
            probability = self.phi.of(self._raw(images))
        mask = heat_mask(self.detector, images).repeat_interleave(s.concepts, dim=0) if s.within == "heat" else None
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
        loss = discriminator_hinge(real.float(), made.float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"discriminator": loss.detach()}

    def maker_step(
        self, batch: GameBatch, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]
    ) -> dict[str, Tensor]:
        """One step of generator and concept classifier; gradients of their weights only are formed."""
        terms = self.terms(batch)
        weights = self.settings.model_dump()
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
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
            logits = [players.classifier(reduced(first), reduced(second), batch.noise).float() for first, second, _ in pairs]
            found["concept"] = F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat([one for *_, one in pairs]))
        edits = batch.made - batch.x
        if s.diversity and s.concepts > 1:
            by_image = edits.view(-1, s.concepts, *edits.shape[1:])
            found["diversity"] = diversity(by_image, edit.view(-1, s.concepts)[:, 0], s.margin)
        if s.proximity:
            found["proximity"] = edits.abs().mean()
        return found

    def _cross_entropy(self, images: Tensor, alpha: Tensor) -> Tensor:
        return self.phi.cross_entropy(self._raw((images + 1.0) / 2.0), alpha).mean()

    def _raw(self, images: Tensor) -> Tensor:
        """Raw scores [B] by way of the normal logit: `score` forms a heatmap too, for some detectors by one more pass."""
        calibration = self.detector.calibration
        return calibration.threshold - calibration.temperature * self.detector.normal_logit(images).float()


def _one_concept_each(batch: GameBatch, concepts: int) -> Tensor:
    """Rows [N] of a batch, one drawn concept for each image: L_rec is the same mean, for a fraction of the generator's work."""
    images = torch.arange(len(batch.images), device=batch.x.device)
    return images * concepts + torch.randint(concepts, (len(images),), generator=batch.noise, device=batch.x.device)


def _rows_of(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if mask is None else mask[rows]


def _rate(settings: DiverseSettings, step: int) -> float:
    """Constant for the first half, then linear towards `final` of it."""
    past = max(0.0, 2.0 * step / settings.steps - 1.0)
    return settings.learning_rate * (1.0 - past * (1.0 - settings.final))


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Initial weights from this seed, whatever was drawn before; the global state is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeded(seed, "diverse", "weights").initial_seed()))
        yield
