"""Data of `make bench-utad`: textures with exact masks, ELPV's random split, one class of Fashion-MNIST against the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.elpv import protocols
from benchmarks.one_class import training_data
from benchmarks.textures import MIDDLE, TEXTURES, texture_of
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import SETS
from xadflow.detectors import TrainingData
from xadflow.images import load_input, to_input
from xadflow.settings import Home

ELPV, CLOTHES = "elpv", "fashion-mnist-dress"
NAMES = (*TEXTURES, CLOTHES, ELPV)
ELPV_PX, CLOTHES_PX, OF_EACH_CLASS, MOST_NORMALS = 64, 32, 200, 1200


@dataclass(frozen=True)
class TestedSet:
    """What may be learned from, and test images uint8 [N,C,H,W] with labels [N] and, where there are some, masks
    [N,H,W].
    """

    data: TrainingData
    test: Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None


def tested_set(name: str) -> TestedSet:
    """One data set. No known defect is used. Raises DataUnavailable where its package is missing."""
    if name in TEXTURES:
        texture = texture_of(name, MIDDLE)
        data = texture.data
        plain = TrainingData(data.normals, data.val_normals, data.known[:0], None, data.calibration_defects)
        return TestedSet(plain, texture.test, texture.labels, texture.masks)
    if name == CLOTHES:
        return _clothes()
    paths, found = protocols(("peer-0",))
    split = found["peer-0"]
    images = torch.stack([torch.tensor(load_input(path, (ELPV_PX, ELPV_PX), 1)) for path in paths])
    none = images[:0]
    data = TrainingData(images[split.train], images[split.val], none, None, none)
    return TestedSet(data, images[split.test], split.labels.astype(np.int64), None)


def _clothes() -> TestedSet:
    """Fashion-MNIST at 32 px, so that the stride divides the side."""
    fetch(Home.find(), "fashion-mnist")
    raw = read_raw(Home.find(), "fashion-mnist")
    normal = SETS["fashion-mnist"].classes.index("dress")
    none = torch.zeros(0, 1, 28, 28, dtype=torch.uint8)
    small = training_data(raw, normal, none)
    small = replace(small, normals=small.normals[:MOST_NORMALS], val_normals=small.val_normals[: MOST_NORMALS // 4])
    nothing = torch.zeros(0, 1, CLOTHES_PX, CLOTHES_PX, dtype=torch.uint8)
    data = TrainingData(_larger(small.normals), _larger(small.val_normals), nothing, None, nothing)
    rows = np.sort(np.concatenate([np.flatnonzero(raw.test_labels == one)[:OF_EACH_CLASS] for one in range(10)]))
    test = _larger(torch.from_numpy(raw.test[rows])[:, None])
    return TestedSet(data, test, (raw.test_labels[rows] != normal).astype(np.int64), None)


def _larger(images: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([to_input(one, (CLOTHES_PX, CLOTHES_PX), 1) for one in images[:, 0].numpy()]))
