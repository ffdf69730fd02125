"""Training batches of normals and anomalies, made on the device from images that are there as bytes.

Every normal of a batch is replaced by an anomaly with a fixed chance, before augmentation (docs/explanation/methods.md,
"FCDD"). Nothing waits for the host: all draws come from one generator on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from xadflow.defects.synthesisers import SYNTHESISERS
from xadflow.detectors.base import TrainingData
from xadflow.detectors.one_class.settings import OneClassSettings
from xadflow.errors import BadSettings
from xadflow.images import as_float


@dataclass(frozen=True)
class Batch:
    """`images` float32 [B,C,H,W] in [0,1], `is_anomaly` bool [B], `masks` bool [B,H,W]: where it is anomalous.

    `weights` of the losses `normal` and, where anomalies are used, `anomaly`: each image counts 1 / B in one of them.
    `start` [B,C,H,W]: the change that a robust training searches from; None: none.
    """

    images: Tensor
    is_anomaly: Tensor
    masks: Tensor
    weights: Mapping[str, Tensor]
    start: Tensor | None = None

    def __getitem__(self, rows: slice) -> Batch:
        """Some of its images; they count as in the whole."""
        weights = {name: weight[rows] for name, weight in self.weights.items()}
        start = None if self.start is None else self.start[rows]
        return Batch(self.images[rows], self.is_anomaly[rows], self.masks[rows], weights, start)


class Exposure:
    """Images to train on, uint8 on the device. Raises BadSettings when anomalies are asked for and there are none."""

    def __init__(
        self, data: TrainingData, settings: OneClassSettings, device: torch.device, *, anomalies: bool
    ) -> None:
        self.settings = settings
        self.normals = data.normals.to(device)
        banks = {"outliers": data.outliers, "known": data.known}
        sources = anomaly_sources(settings, data) if anomalies and settings.anomaly_rate > 0 else ()
        self.kinds = [kind for kind in sources if kind not in banks or len(banks[kind])]
        if anomalies and settings.anomaly_rate == 0:
            raise BadSettings(
                "there is nothing anomalous to train against",
                seen="anomaly_rate 0",
                next_step="raise anomaly_rate of the detector in params.yaml",
            )
        if anomalies and not self.kinds:
            raise BadSettings(
                "there is nothing anomalous to train against",
                seen=_how_many(sources, banks),
                next_step="add `synthetic` to anomalies of the detector in params.yaml, or name a data set "
                "under outliers of this one",
            )
        self.banks: dict[str, Tensor] = {kind: bank.to(device) for kind, bank in banks.items() if kind in self.kinds}
        masks = data.known_masks
        self.known_masks = None if masks is None else masks.to(device)

    def batch(self, generator: Generator) -> Batch:
        """One augmented batch; at least one normal and, where anomalies are used, at least one anomaly."""
        s, device = self.settings, self.normals.device
        chosen = torch.randint(len(self.normals), (s.batch_size,), generator=generator, device=device)
        images = self.normals[chosen]
        masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=device)
        replaced = torch.rand(len(images), generator=generator, device=device) < s.anomaly_rate
        replaced[0], replaced[-1] = False, True
        kind = torch.randint(max(1, len(self.kinds)), replaced.shape, generator=generator, device=device)
        for number, name in enumerate(self.kinds):
            here = replaced & (kind == number)
            # On a GPU for every place, since a list of the places would have to come to the host first.
            rows = here.nonzero().flatten() if device.type == "cpu" else torch.arange(len(images), device=device)
            if not len(rows):
                continue
            drawn, where = self._drawn(name, images[rows], generator)
            images[rows] = torch.where(here[rows, None, None, None], drawn, images[rows])
            masks[rows] = torch.where(here[rows, None, None], where, masks[rows])
        is_anomaly = replaced if self.kinds else torch.zeros_like(replaced)
        images, masks = self._augmented(images, masks, generator)
        share = is_anomaly.float() / len(images)
        weights = {"normal": 1.0 / len(images) - share, **({"anomaly": share} if self.kinds else {})}
        return Batch(images, is_anomaly, masks, weights)

    def _drawn(self, kind: str, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """One anomaly for each place of the batch, and where it is one; without a mask, everywhere."""
        if kind == "synthetic":
            return SYNTHESISERS[self.settings.synthesiser](images, generator)
        bank = self.banks[kind]
        chosen = torch.randint(len(bank), (len(images),), generator=generator, device=bank.device)
        if kind == "known" and self.known_masks is not None:
            return bank[chosen], self.known_masks[chosen]
        return bank[chosen], torch.ones(len(images), *images.shape[2:], dtype=torch.bool, device=bank.device)

    def _augmented(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images float32 in [0,1] and masks, moved together: each pixel is looked up once, as bytes."""
        s, (batch, _, height, width) = self.settings, images.shape
        device = images.device
        rows = torch.arange(height, device=device).expand(batch, height)  # (B, H): where each row comes from
        columns = torch.arange(width, device=device).expand(batch, width)
        turned = torch.rand(batch, 1, generator=generator, device=device) < 0.5 if s.flip else None
        if most := s.shift(height, width):
            shift = torch.randint(2 * most + 1, (2, batch, 1), generator=generator, device=device) - most
            rows, columns = (rows + shift[0]).clamp(0, height - 1), (columns + shift[1]).clamp(0, width - 1)
        if turned is not None:
            columns = torch.where(turned, width - 1 - columns, columns)
        place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, H * W)
        masks = masks.flatten(1).gather(1, place).view_as(masks)
        moved = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
        images = as_float(moved)
        if s.noise:
            images = images + s.noise * torch.randn(images.shape, generator=generator, device=device)
            images = images.clamp_(0.0, 1.0)
        return images, masks


def anomaly_sources(settings: OneClassSettings, data: TrainingData) -> tuple[str, ...]:
    """What normals are replaced by where the data have it: `settings.anomalies`, or when that is None by what is there.

    Synthetic defects beside outliers are mostly normal image and teach a classifier to doubt normals.
    """
    if settings.anomalies is not None:
        return settings.anomalies
    return ("outliers", "known") if len(data.outliers) else ("known", "synthetic")


def held_out(
    data: TrainingData, settings: OneClassSettings, generator: Generator
) -> tuple[TrainingData, TrainingData | None]:
    """Data to learn from, and with `patience` data for the checks: the same, of other train normals.

    Raises BadSettings when fewer than two normals would be left to learn from.
    """
    if settings.patience is None:
        return data, None
    count = min(settings.batch_size, max(1, len(data.normals) // 10))
    if len(data.normals) - count < 2:
        raise BadSettings(
            "patience holds a train normal out, and two must be left to learn from",
            seen=len(data.normals),
            next_step="add images to train/good, or remove patience from params.yaml",
        )
    order = torch.randperm(len(data.normals), generator=generator)
    rest = order[count:].sort().values
    return replace(data, normals=data.normals[rest]), replace(data, normals=data.normals[order[:count]])


def _how_many(kinds: Sequence[str], banks: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{len(banks[kind])} {kind}" for kind in kinds if kind in banks) or "anomalies of no kind"
