"""Data of `make bench-utad`: textures with exact masks, ELPV's random split, one class of Fashion-MNIST against the
rest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.sets import TestedSet, dresses, solar_cells, texture
from benchmarks.textures import MIDDLE, TEXTURES
from xadflow.detectors import TrainingData
from xadflow.images import to_input

ELPV, CLOTHES = "elpv", "fashion-mnist-dress"
NAMES = (*TEXTURES, CLOTHES, ELPV)
ELPV_PX, CLOTHES_PX, OF_EACH_CLASS, MOST_NORMALS = 64, 32, 200, 1200


def tested_set(name: str) -> TestedSet:
    """One data set. No known defect is used. Raises DataUnavailable where its package is missing."""
    if name in TEXTURES:
        return texture(name, MIDDLE)
    if name == ELPV:
        return solar_cells("peer-0", ELPV_PX)
    small = dresses(MOST_NORMALS, OF_EACH_CLASS, OF_EACH_CLASS)
    nothing = torch.zeros(0, 1, CLOTHES_PX, CLOTHES_PX, dtype=torch.uint8)
    normals, val = (_larger(one) for one in (small.data.normals, small.data.val_normals))
    data = TrainingData(normals, val, nothing, None, nothing)
    return TestedSet(data, _larger(small.test), small.labels, None)


def _larger(images: Tensor) -> Tensor:
    """At 32 px, so that the stride divides the side."""
    return torch.from_numpy(np.stack([to_input(one, (CLOTHES_PX, CLOTHES_PX), 1) for one in images[:, 0].numpy()]))
