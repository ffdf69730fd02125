"""What a head on a frozen trunk learns from, computed once: features of normals, synthetic and known defects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors.base import TrainingData
from xadflow.detectors.fcdd.heads import Whitening
from xadflow.detectors.fcdd.settings import FCDDSettings
from xadflow.images import as_float
from xadflow.networks.pretrained import Trunk
from xadflow.training.lanes import side_by_side


@dataclass(frozen=True)
class FeatureBank:
    """Features float16 [*,C,u,v] and masks bool [*,H,W]; `normals` lists each image once per flip, flips last.

    Half precision halves the memory (about 80 kB a 128 px image and stage set) and costs 5e-4 relative, far below
    what dropout adds.
    """

    normals: Tensor
    synthetic: Tensor
    synthetic_masks: Tensor
    known: Tensor
    known_masks: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(u, v) of the features."""
        return self.normals.shape[2], self.normals.shape[3]

    def group(self, name: str) -> Tensor:
        """The features of `normal`, `synthetic` or `known`."""
        return {"normal": self.normals, "synthetic": self.synthetic, "known": self.known}[name]

    def whitened(self, whitening: Whitening) -> FeatureBank:
        """The same with z [*,P,C] in place of features, float16."""
        z = {name: whitening.in_half(getattr(self, name)) for name in ("normals", "synthetic", "known")}
        return replace(self, **z)


@dataclass(frozen=True)
class BankBatch:
    """Rows of each group of the bank, and dropout's factor `kept` [B,C] for all of them, group after group.

    The loss of a group is the mean over its own images.
    """

    rows: Mapping[str, Tensor]
    kept: Tensor

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Group to the weight of every image of the batch, [B]."""
        found, start = {}, 0
        for name, chosen in self.rows.items():
            found[name] = torch.zeros(len(self.kept), device=self.kept.device)
            found[name][start : start + len(chosen)] = 1.0 / len(chosen)
            start += len(chosen)
        return found

    def part(self, whole: slice) -> dict[str, Tensor]:
        """The rows of some of its images, by group; groups without one are left out."""
        found, start = {}, 0
        for name, chosen in self.rows.items():
            inside = chosen[max(0, whole.start - start) : max(0, whole.stop - start)]
            start += len(chosen)
            if len(inside):
                found[name] = inside
        return found


def drawn_rows(bank: FeatureBank, settings: FCDDSettings, generator: Generator) -> dict[str, Tensor]:
    """Rows of the bank for one step: normals, each in one of its flips, synthetic and known defects where there are
    some.
    """
    s, normals = settings, len(bank.normals) // settings.normal_copies
    images = some_of(normals, s.batch_normals, generator)
    turned = torch.randint(s.normal_copies, images.shape, generator=generator, device=images.device)
    rows = {"normal": images + normals * turned}
    for name, most in (("synthetic", s.batch_synthetic), ("known", s.batch_known)):
        if len(bank.group(name)):
            rows[name] = some_of(len(bank.group(name)), most, generator)
    return rows


def some_of(count: int, most: int, generator: Generator) -> Tensor:
    """At most `most` different indices below `count`, in random order."""
    return torch.randperm(count, generator=generator, device=generator.device)[:most]


@dataclass(frozen=True)
class Wanted:
    """Features for one bank: of which stages, and of the normals (and defects drawn on them) which ones, bool [N]."""

    stages: tuple[int, ...]
    normals: Tensor


def features_of(
    trunk: Trunk, images: Tensor, batch_size: int, device: torch.device, done: Callable[[], None] = lambda: None
) -> Tensor:
    """Trunk features float16 [N,C,u,v] of uint8 images [N,C,H,W], in batches; `done()` after each."""
    every = Wanted(trunk.stages, torch.ones(len(images), dtype=torch.bool))
    return _features(trunk, images, [every], batch_size, device, done)[0]


def _features(
    trunk: Trunk,
    images: Tensor,
    wanted: Sequence[Wanted],
    batch_size: int,
    device: torch.device,
    done: Callable[[], None],
) -> list[Tensor]:
    """As :func:`features_of`, the trunk run once for all that is wanted; `normals` says which of these images."""

    def features(rows: slice) -> list[Tensor]:
        with torch.no_grad():  # a thread has its own
            found = trunk.stage_features(as_float(images[rows].to(device)))
            return [trunk.joined(found, one.stages)[one.normals[rows].to(device)].half() for one in wanted]

    batches = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    parts: list[list[Tensor]] = []
    for found in side_by_side(features, batches, device):
        parts.append(found)
        done()
    if parts:
        return [torch.cat(part) for part in zip(*parts, strict=True)]
    shapes = [(0, trunk.spec.width(one.stages), *trunk.spec.grid(one.stages, *images.shape[2:])) for one in wanted]
    return [torch.zeros(shape, dtype=torch.float16, device=device) for shape in shapes]


def flipped(images: Tensor, flips: int) -> Tensor:
    """Images (or masks) and their copies: 1 as they are, 2 with left-right, 4 also upside down and turned by 180."""
    copies = [images, images.flip(-1), images.flip(-2), images.flip((-2, -1))]
    return torch.cat(copies[:flips])


def build_banks(
    trunk: Trunk,
    data: TrainingData,
    wanted: Sequence[Wanted],
    *,
    normal_copies: int,
    known_copies: int,
    synthesiser: str,
    rounds: int,
    batch_size: int,
    device: torch.device,
    generator: Generator,
    done: Callable[[], None],
) -> list[FeatureBank]:
    """A bank for each that is wanted, the trunk run once; known defects without a mask count as defective all over.

    Many parameters: the settings of FCDD and of PaDiM that matter here, which are of two kinds.
    """
    synthetic, synthetic_masks = synthetic_rounds(data.normals, synthesiser, rounds, batch_size, device, generator)
    masks = data.known_masks
    if masks is None:
        masks = torch.ones(len(data.known), *data.known.shape[2:], dtype=torch.bool)

    def features(images: Tensor, copies: int | None) -> list[Tensor]:
        count = len(images)
        chosen = [
            replace(one, normals=torch.ones(count, dtype=torch.bool) if copies is None else one.normals.repeat(copies))
            for one in wanted
        ]
        return _features(trunk, images, chosen, batch_size, device, done)

    found = zip(
        wanted,
        features(flipped(data.normals, normal_copies), normal_copies),
        features(synthetic, rounds),
        features(flipped(data.known, known_copies), None),
        strict=True,
    )
    known_masks = flipped(masks, known_copies).to(device)
    return [
        FeatureBank(normals, drawn, synthetic_masks[one.normals.repeat(rounds).to(device)], known, known_masks)
        for one, normals, drawn, known in found
    ]


def bank_batches(data: TrainingData, *, normal_copies: int, known_copies: int, rounds: int, batch_size: int) -> int:
    """How many batches :func:`build_banks` will run."""
    normals, known = len(data.normals), len(data.known)
    counts = (normals * normal_copies, normals * rounds, known * known_copies)
    return sum(-(-count // batch_size) for count in counts)
