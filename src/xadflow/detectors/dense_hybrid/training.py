"""Both stages: `closed` teaches the classes, `hybrid` what belongs to none of them, from negatives pasted into scenes.

The loss that is minimised, in both forms: reading.py. Where the released code differs from Eq. 15 of the paper, so do
the forms.

Figures while a training goes on: held-out scenes, with held-out negatives pasted in the same way at every look.

They are told, and select nothing: the last weights are kept. The released code judged by random pastes and by
max-softmax; these pastes are seeded, and every score that can be asked for is judged.

Sample sheets of a training: held-out scenes as the net sees them, and with the seeded pastes of the validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net, enlarged
from xadflow.detectors.dense_hybrid.pasting import Mixed
from xadflow.detectors.dense_hybrid.reading import LN_P_OUT, MINUS_LN_P_HAT, closed_loss, hybrid_terms, read, weighted
from xadflow.detectors.dense_hybrid.scenes import Scenes
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, Part, StageSettings
from xadflow.images import as_float, encode_png, to_levels
from xadflow.metrics.ranks import average_precision
from xadflow.pictures.tile_sheet import Tile, tile_sheet
from xadflow.training.games import leave_gradients
from xadflow.training.loop import Stage
from xadflow.training.seeds import seeded, weights_from


def new_net(settings: DenseHybridSettings, classes: int, channels: int, seed: int) -> SceneNet:
    """The net before any training. Raises as build_net."""
    with weights_from(seed, "dense_hybrid", "net"):
        return build_net(settings.net, classes, channels)


class SceneTraining:
    """Both stages of one net, in place: `scenes` are learned from, `shown` are for the sheets."""

    def __init__(self, net: SceneNet, settings: DenseHybridSettings, scenes: Scenes, shown: Scenes, seed: int) -> None:
        self.net, self.settings, self.scenes, self.shown, self.seed = net, settings, scenes, shown, seed

    def closed(self) -> Stage:
        """Stage 1; the net goes into training mode."""
        s, net = self.settings.closed, self.net

        def terms(generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
            images, labels = self.scenes.drawn(s, generator)
            class_logits, _ = self._logits(images)
            loss = closed_loss(class_logits, labels)
            return {"classes": loss}, loss

        optimisers = {
            "trunk": _optimiser(net.trunk_parameters(), s.learning_rate_trunk, s),
            "rest": _optimiser(net.other_parameters(), s.learning_rate, s),
        }
        sheet = partial(closed_sheet, net, self.shown)
        return self._stage("closed", s, closed_steps(net, s, self.scenes), optimisers, terms, sheet)

    def hybrid(self) -> Stage:
        """Stage 2; the net goes into training mode."""
        s, net = self.settings.hybrid, self.net

        def terms(generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
            mixed = self.scenes.with_pastes(*self.scenes.drawn(s, generator), self.settings, generator)
            class_logits, dataset_logits = self._logits(mixed.images)
            found = hybrid_terms(class_logits, dataset_logits, mixed.labels, mixed.pasted, s)
            return found, weighted(found, s)

        optimisers = {
            "trunk": _optimiser(net.trunk_parameters(), s.learning_rate_trunk, s),
            "rest": _optimiser(net.other_parameters(), s.learning_rate, s),
            "head": _optimiser(net.head_parameters(), s.learning_rate_head, s),
        }
        sheet = partial(hybrid_sheet, net, self.settings, self.shown, self.seed)
        return self._stage("hybrid", s, s.steps(len(self.scenes.images)), optimisers, terms, sheet)

    def _stage(
        self,
        name: str,
        s: StageSettings,
        steps: int,
        optimisers: dict[str, torch.optim.Optimizer],
        terms: Callable[[Generator], tuple[dict[str, Tensor], Tensor]],
        sheet: Callable[[], bytes],
    ) -> Stage:
        net = self.net
        learned = [one for optimiser in optimisers.values() for one in optimiser.param_groups[0]["params"]]
        training_mode(net.requires_grad_(True), frozen_bn=s.frozen_bn)

        def step(number: int) -> dict[str, Tensor]:
            found, loss = terms(seeded(self.seed, "dense_hybrid", name, number, device=net.mean.device))
            leave_gradients(loss, learned)
            for optimiser in optimisers.values():
                optimiser.step()
            return {term: value.detach() for term, value in found.items()}

        @torch.no_grad()
        def drawn_sheet(path: Path, done: int) -> None:
            net.eval()
            path.write_bytes(sheet())
            training_mode(net, frozen_bn=s.frozen_bn)

        return Stage(
            name=name,
            steps=steps,
            module=net,
            optimisers=optimisers,
            step=step,
            rate=lambda number, highest: highest * s.rate_share(steps, number),
            sheet=drawn_sheet,
            sheets=self.settings.sheets,
        )

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps, float32, at the images' size."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            class_logits, dataset_logits = self.net(images)
        size = images.shape[2:]
        return enlarged(class_logits.float(), size), enlarged(dataset_logits.float(), size)


def _optimiser(parameters: list[nn.Parameter], rate: float, s: StageSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, s.betas, s.adam_eps, s.weight_decay)


def closed_steps(net: SceneNet, settings: StageSettings, scenes: Scenes) -> int:
    """Steps of stage 1: none where one class leaves nothing to tell apart, as its cross-entropy is 0."""
    return settings.steps(len(scenes.images)) if net.num_classes > 1 else 0


def training_mode(net: SceneNet, *, frozen_bn: bool) -> None:
    """All in training mode, but with `frozen_bn` the batch normalisation outside the dataset head, which is new."""
    net.train()
    if frozen_bn:
        own = {id(module) for module in net.dataset_head.modules()}
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and id(module) not in own:
                module.eval()


BATCH = 16
MOST_SCENES = 128  # that are looked at


def validation_batches(scenes: Scenes, settings: DenseHybridSettings, seed: int, batch: int = BATCH) -> Iterator[Mixed]:
    """Held-out scenes with pastes, a function of the seed alone."""
    generator = seeded(seed, "dense_hybrid validation pastes", device=scenes.images.device)
    for images, labels in _batches(scenes, batch):
        yield scenes.with_pastes(as_float(images), labels.long(), settings, generator)


@torch.no_grad()
def closed_miou(net: SceneNet, scenes: Scenes) -> float:
    """Mean IoU over the classes that are there or were seen, of scenes without pastes; void counts nowhere."""
    k = net.num_classes
    confusion = torch.zeros(k, k, dtype=torch.int64)
    for images, labels in _batches(scenes, BATCH):
        seen = read(net, as_float(images)).class_logits.argmax(dim=1)
        known = labels != VOID
        pairs = labels[known].long() * k + seen[known]
        confusion += torch.bincount(pairs, minlength=k * k).view(k, k).cpu()
    hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    there = union > 0
    return float((hits[there] / union[there]).mean())


@torch.no_grad()
def paste_figures(net: SceneNet, scenes: Scenes, settings: DenseHybridSettings, seed: int) -> dict[str, float]:
    """`paste_ap_<part>`: pooled average precision of each score on the seeded pastes, void left out; and
    their share.
    """
    maps: dict[Part, list[Tensor]] = {part: [] for part in get_args(Part)}
    truths = []
    for mixed in validation_batches(scenes, settings, seed):
        reading = read(net, mixed.images, exact=settings.score.exact)
        counted = mixed.pasted | (mixed.labels != VOID)
        truths.append(mixed.pasted[counted])
        for part, values in maps.items():
            values.append(reading.map(part)[counted])
    truth = torch.cat(truths).cpu().numpy()
    figures = {"paste_share": float(truth.mean())}
    if truth.any() and not truth.all():
        for part, values in maps.items():
            figures[f"paste_ap_{part}"] = average_precision(torch.cat(values).cpu().numpy(), truth)
    return figures


def _batches(scenes: Scenes, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = scenes.images[:MOST_SCENES], scenes.labels[:MOST_SCENES]
    return zip(torch.split(images, batch), torch.split(labels, batch), strict=True)


SHOWN = 4


def closed_sheet(net: SceneNet, scenes: Scenes) -> bytes:
    """PNG of rows scene, labels, closed map."""
    images, labels = as_float(scenes.images[:SHOWN]), scenes.labels[:SHOWN]
    seen = read(net, images).class_logits.argmax(dim=1)
    return _drawn(net, [("scene", images), ("labels", labels), ("closed map", seen)])


def hybrid_sheet(net: SceneNet, settings: DenseHybridSettings, scenes: Scenes, seed: int) -> bytes:
    """PNG of rows scene with pastes, where they are, closed map, ln P(d_out|x), -ln p_hat(x), and their sum."""
    mixed = next(iter(validation_batches(scenes, settings, seed, SHOWN)))
    reading = read(net, mixed.images)
    return _drawn(
        net,
        [
            ("scene", mixed.images),
            ("pasted", mixed.pasted.float()),
            ("closed map", reading.class_logits.argmax(dim=1)),
            ("ln P(d_out|x)", reading.parts[LN_P_OUT]),
            ("-ln p(x)", reading.parts[MINUS_LN_P_HAT]),
            ("hybrid", reading.map("hybrid")),
        ],
    )


def _drawn(net: SceneNet, rows: Sequence[tuple[str, Tensor]]) -> bytes:
    tiles = [
        _tile(net, name if column == 0 else "", value) for name, values in rows for column, value in enumerate(values)
    ]
    return encode_png(tile_sheet(tiles, columns=len(rows[0][1])))


def _tile(net: SceneNet, name: str, value: Tensor) -> Tile:
    if value.ndim == 3:
        return Tile(name, to_levels(value).cpu().numpy())
    if value.is_floating_point():
        return Tile(name, np.asarray(value.cpu().numpy()))
    ids = torch.where(value == VOID, net.num_classes, value.long())  # void is the brightest
    return Tile(name, np.asarray(ids.float().cpu().numpy()), limits=(0.0, float(net.num_classes)))
