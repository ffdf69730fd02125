"""Both stages: `closed` teaches the classes, `hybrid` what belongs to none of them, from negatives pasted into scenes.

The loss that is minimised, in both forms: losses.py. Where the released code differs from Eq. 15 of the paper, so do
the forms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from xadflow.detectors.dense_hybrid.losses import closed_loss, hybrid_terms, weighted
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net, enlarged
from xadflow.detectors.dense_hybrid.scenes import Scenes
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, StageSettings
from xadflow.detectors.dense_hybrid.sheets import closed_sheet, hybrid_sheet
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
