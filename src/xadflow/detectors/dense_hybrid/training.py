"""Both stages: `closed` teaches the classes, `hybrid` what belongs to none of them, from negatives pasted into scenes.

The loss that is minimised, in both forms: losses.py. Where the released code differs from Eq. 15 of the paper, so do
the forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn

from xadflow.detectors.base import FitRun
from xadflow.detectors.dense_hybrid.losses import closed_loss, hybrid_terms, weighted
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net, enlarged
from xadflow.detectors.dense_hybrid.scenes import Scenes
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, StageSettings
from xadflow.detectors.dense_hybrid.sheets import closed_sheet, hybrid_sheet
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded
from xadflow.training.stages import Stage, Trained, run_stage, weights_from

Terms = Callable[[Generator], tuple[dict[str, Tensor], Tensor]]


def new_net(settings: DenseHybridSettings, classes: int, channels: int, seed: int) -> SceneNet:
    """The net before any training. Raises as build_net."""
    with weights_from(seed, "dense_hybrid", "net"):
        return build_net(settings.net, classes, channels)


def train_closed(
    net: SceneNet,
    settings: DenseHybridSettings,
    scenes: Scenes,
    shown: Scenes,
    run: FitRun,
    identity: str,
    progress: Progress,
) -> Trained:
    """Stage 1, in place, ending in evaluation mode. Raises TrainingFailed."""
    s = settings.closed

    def terms(generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
        images, labels = scenes.drawn(s, generator)
        class_logits, _ = _logits(net, images, settings)
        loss = closed_loss(class_logits, labels)
        return {"classes": loss}, loss

    groups = {"trunk": net.trunk_parameters(), "rest": net.other_parameters()}
    rates = {"trunk": s.learning_rate_trunk, "rest": s.learning_rate}
    sheet = partial(closed_sheet, net, shown)
    return _run(
        "closed", net, settings, s, groups, rates, terms, sheet, run, identity, progress, closed_steps(net, s, scenes)
    )


def train_hybrid(
    net: SceneNet,
    settings: DenseHybridSettings,
    scenes: Scenes,
    shown: Scenes,
    run: FitRun,
    identity: str,
    progress: Progress,
) -> Trained:
    """Stage 2, in place, ending in evaluation mode. Raises TrainingFailed."""
    s = settings.hybrid

    def terms(generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
        mixed = scenes.with_pastes(*scenes.drawn(s, generator), settings, generator)
        class_logits, dataset_logits = _logits(net, mixed.images, settings)
        found = hybrid_terms(class_logits, dataset_logits, mixed.labels, mixed.pasted, s)
        return found, weighted(found, s)

    groups = {"trunk": net.trunk_parameters(), "rest": net.other_parameters(), "head": net.head_parameters()}
    rates = {"trunk": s.learning_rate_trunk, "rest": s.learning_rate, "head": s.learning_rate_head}
    sheet = partial(hybrid_sheet, net, settings, shown, run.seed)
    return _run(
        "hybrid", net, settings, s, groups, rates, terms, sheet, run, identity, progress, s.steps(len(scenes.images))
    )


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


def _logits(net: SceneNet, images: Tensor, settings: DenseHybridSettings) -> tuple[Tensor, Tensor]:
    """Both maps, float32, at the images' size."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        class_logits, dataset_logits = net(images)
    size = images.shape[2:]
    return enlarged(class_logits.float(), size), enlarged(dataset_logits.float(), size)


def _run(
    name: str,
    net: SceneNet,
    settings: DenseHybridSettings,
    s: StageSettings,
    groups: dict[str, list[nn.Parameter]],
    rates: dict[str, float],
    terms: Terms,
    sheet: Callable[[], bytes],
    run: FitRun,
    identity: str,
    progress: Progress,
    steps: int,
) -> Trained:
    device = net.mean.device
    optimisers = {
        part: torch.optim.AdamW(parameters, rates[part], s.betas, s.adam_eps, s.weight_decay)
        for part, parameters in groups.items()
    }
    learned: Sequence[nn.Parameter] = [one for parameters in groups.values() for one in parameters]
    training_mode(net.requires_grad_(True), frozen_bn=s.frozen_bn)

    def step(number: int) -> dict[str, Tensor]:
        found, loss = terms(seeded(run.seed, "dense_hybrid", name, number, device=device))
        for parameter, gradient in zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True):
            parameter.grad = gradient
        for optimiser in optimisers.values():
            optimiser.step()
        return {term: value.detach() for term, value in found.items()}

    def drawn_sheet() -> bytes:
        net.eval()
        with torch.no_grad():
            drawing = sheet()
        training_mode(net, frozen_bn=s.frozen_bn)
        return drawing

    def share(number: int) -> float:
        return s.rate_share(steps, number)

    stage = Stage(name, steps, net, optimisers, rates, share, step, drawn_sheet)
    outcome = run_stage(stage, run, identity, progress, settings.sheets)
    net.requires_grad_(False).eval()
    return outcome
