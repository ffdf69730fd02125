"""ELPV's cells at 64 px in memory, split as protocol `peer-0` splits them (benchmarks/elpv.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.sets import solar_cells
from xadflow.detectors import TrainingData

PX, KNOWN = 64, 20


@dataclass(frozen=True)
class Cells:
    """What every detector here learns from (20 known defects train, the other reserved ones set the temperature), and
    test images uint8 [N,1,64,64] with `labels` [N].
    """

    data: TrainingData
    test: NDArray[np.uint8]
    labels: NDArray[np.int64]

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
    found = solar_cells("peer-0", PX, KNOWN)
    return Cells(found.data, found.test.numpy(), found.labels)
