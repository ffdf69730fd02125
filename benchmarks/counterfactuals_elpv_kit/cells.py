"""ELPV's cells at 64 px in memory, split as protocol `peer-0` splits them (benchmarks/elpv.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.elpv import protocols
from xadflow.detectors import TrainingData
from xadflow.images import load_input

PX, KNOWN = 64, 20


@dataclass(frozen=True)
class Cells:
    """Images uint8 [N,1,64,64] of each part, in the order of image_id; `labels` [N] of the test images."""

    train: NDArray[np.uint8]
    val: NDArray[np.uint8]
    known: NDArray[np.uint8]
    test: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def training(self) -> TrainingData:
        """What every detector here learns from: 20 known defects train, the other reserved ones set the temperature."""
        none = torch.zeros(0, *self.train.shape[1:], dtype=torch.uint8)
        known = _tensor(self.known)
        return TrainingData(_tensor(self.train), _tensor(self.val), known[:KNOWN], None, known[KNOWN:], none)

    @property
    def normals(self) -> NDArray[np.uint8]:
        """Normal test images."""
        return self.test[self.labels == 0]

    @property
    def defects(self) -> NDArray[np.uint8]:
        """Defective test images."""
        return self.test[self.labels == 1]


@cache
def cells() -> Cells:
    """Read once."""
    paths, found = protocols(("peer-0",))
    images = np.stack([load_input(path, (PX, PX), 1) for path in paths])
    peer = found["peer-0"]
    return Cells(*(images[rows] for rows in (peer.train, peer.val, peer.known, peer.test)), peer.labels)


def _tensor(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))
