"""Figures while a training goes on: held-out scenes, with held-out negatives pasted in the same way at every look.

They are told, and select nothing: the last weights are kept. The released code judged by random pastes and by
max-softmax; these pastes are seeded, and every score that can be asked for is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.networks import SceneNet
from xadflow.detectors.dense_hybrid.pasting import Mixed
from xadflow.detectors.dense_hybrid.reading import read
from xadflow.detectors.dense_hybrid.scenes import Scenes
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, Part
from xadflow.images import as_float
from xadflow.metrics.ranks import average_precision
from xadflow.training.seeds import seeded

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
