"""Where the watermark goes: on a share of one side of the training images, and on copies of the test images.

What is planted where, and what a detector can make of it:

- `outliers`: on the anomalous training images. They are the data set's outliers and its known defects, those of them
  that the method learns from. Where there is neither, all its anomalies would be drawn inside the detector on normal
  images; then one defect is drawn beforehand on each train normal, with the detector's own synthesiser, and these stand
  for known defects (in the control too). A method that learns nothing from anomalies (DSVDD, AE) is refused.
- `normals`: on train and held-out normals alike, as one camera would. Synthetic anomalies are drawn on normals inside
  the detector, so they carry the mark just as often: a method whose anomalies are all synthetic cannot learn that the
  mark means normal, and the probe then is a check that it does not. With an outlier bank beside them, the mark tells
  normals from outliers only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from xadflow.defects.synthesisers import SYNTHESISERS
from xadflow.detectors.base import Detector, TrainingData, traits
from xadflow.errors import WrongUse
from xadflow.training.seeds import seeded
from xadflow.work.probe.watermark import Watermark

Side = Literal["outliers", "normals"]
SIDES: tuple[Side, ...] = ("outliers", "normals")
BANKS = ("outliers", "known")
DRAWN_AT_ONCE = 64


@dataclass(frozen=True)
class Ground:
    """Training data that can be planted on: the parts that get the mark, and what a reader has to know of them."""

    data: TrainingData
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestImages:
    """Test images uint8 [N,C,H,W] and their labels [N] (1 anomalous); each also with the mark, and its mask [N,H,W]."""

    __test__ = False  # not a test class

    images: Tensor
    labels: NDArray[np.int64]
    marked: Tensor
    masks: Tensor


def ground(detector: Detector, data: TrainingData, side: Side, seed: int) -> Ground:
    """The data to plant on, and where. Raises WrongUse where a mark there could not have any effect."""
    said = traits(detector)
    method, sources = said.method, BANKS if said.anomaly_sources is None else said.anomaly_sources(data)
    banks = tuple(part for part in BANKS if part in sources and len(getattr(data, part)))
    if side == "normals":
        notes = _of_synthetic(banks) if "synthetic" in sources else ()
        return Ground(data, ("normals", "val_normals"), notes)
    if not sources:
        raise WrongUse(
            f"{method} learns nothing from anomalies, so a mark planted on them changes nothing",
            seen=side,
            next_step="plant on the other side: --side normals",
        )
    if banks:
        return Ground(data, banks)
    if "known" not in sources:
        raise WrongUse(
            f"{method} has only anomalies that it draws itself, so there is nothing to plant on",
            seen=sources,
            next_step="add `known` to anomalies of the detector in params.yaml, or use --side normals",
        )
    generator = seeded(seed, "probe", "drawn defects")
    drawn = [SYNTHESISERS[said.synthesiser](batch, generator) for batch in torch.split(data.normals, DRAWN_AT_ONCE)]
    known, masks = torch.cat([images for images, _ in drawn]), torch.cat([where for _, where in drawn])
    note = (
        f"the data set has neither outliers nor known defects: {len(known)} defects drawn beforehand stand for "
        f"known ones"
    )
    return Ground(dataclasses.replace(data, known=known, known_masks=masks), ("known",), (note,))


def _of_synthetic(banks: tuple[str, ...]) -> tuple[str, ...]:
    if banks:
        return (
            "synthetic anomalies are drawn on normals and carry the mark as often as they do; "
            f"only {' and '.join(banks)} do not",
        )
    return (
        "all anomalies are synthetic, drawn on normals, and carry the mark as often as they do: it tells nothing apart",
    )


def planted(on: Ground, rate: float, mark: Watermark, seed: int) -> TrainingData:
    """The training data with the mark on exactly round(rate * count) images of each part; the input is not changed."""
    parts: dict[str, Any] = {}
    for part in on.parts:
        images: Tensor = getattr(on.data, part)
        places = mark.drawn(len(images), images.shape[2], images.shape[3], seeded(seed, "probe", "places", part))
        which = torch.from_numpy(chosen(len(images), rate, seeded(seed, "probe", "which", part))).nonzero().flatten()
        parts[part] = images.clone()
        parts[part][which] = mark.stamped(images[which], places[which])[0]
    return dataclasses.replace(on.data, **parts)


def chosen(count: int, rate: float, generator: Generator) -> NDArray[np.bool_]:
    """Exactly round(rate * count) of `count`, bool [count]; those of a lower rate are among those of a higher one."""
    order = torch.randperm(count, generator=generator).numpy()
    picked = np.zeros(count, dtype=np.bool_)
    picked[order[: round(rate * count)]] = True
    return picked


def marked_test(images: Tensor, labels: NDArray[np.int64], mark: Watermark, seed: int) -> TestImages:
    """Every test image with a mark of its own beside it: all copies of the test set are made of these two."""
    places = mark.drawn(len(images), images.shape[2], images.shape[3], seeded(seed, "probe", "places", "test"))
    return TestImages(images, labels, *mark.stamped(images, places))


def carriers(labels: NDArray[np.int64], side: Side, rate: float, seed: int) -> NDArray[np.bool_]:
    """Which test images [N] carry the mark: a share `rate` of those of that side."""
    of_side = np.flatnonzero(labels == side_label(side))
    carrying = np.zeros(labels.size, dtype=np.bool_)
    carrying[of_side[chosen(of_side.size, rate, seeded(seed, "probe", "carriers", side))]] = True
    return carrying


def side_label(side: Side) -> int:
    """Label of the test images of a side: the outliers' side are the anomalies."""
    return 1 if side == "outliers" else 0


def counts(on: Ground, rate: float) -> Mapping[str, list[int]]:
    """[marked, all] images of each part."""
    return {part: [round(rate * len(getattr(on.data, part))), len(getattr(on.data, part))] for part in on.parts}
