"""Data of several benchmarks, in memory: ELPV's cells, textures with exact masks, one class of clothes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.elpv import protocols
from benchmarks.one_class import outliers_of, training_data
from benchmarks.textures import texture_of
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import SETS
from xadflow.detectors import TrainingData
from xadflow.images import load_input
from xadflow.settings import Home


@dataclass(frozen=True, eq=False)
class TestedSet:
    """What may be learned from, and test images uint8 [N,C,H,W] with labels [N] and, where there are some, masks
    [N,H,W].
    """

    data: TrainingData
    test: Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None

    @property
    def normals(self) -> Tensor:
        """Normal test images."""
        return self.test[torch.from_numpy(self.labels == 0)]

    @property
    def defects(self) -> Tensor:
        """Anomalous test images."""
        return self.test[torch.from_numpy(self.labels == 1)]


def solar_cells(protocol: str, px: int, known: int = 0) -> TestedSet:
    """ELPV in the order of image_id; `known` of the 60 reserved defects train, the others set the temperature; none of
    both where it is 0.
    """
    paths, found = protocols((protocol,))
    split = found[protocol]
    images = torch.stack([torch.tensor(load_input(path, (px, px), 1)) for path in paths])
    reserved = images[split.known] if known else images[:0]
    learnt = (images[split.train], images[split.val], reserved[:known], None, reserved[known:], images[:0])
    return TestedSet(TrainingData(*learnt), images[split.test], split.labels.astype(np.int64), None)


def texture(name: str, rung: str) -> TestedSet:
    """A texture without its known defects."""
    of = texture_of(name, rung)
    return TestedSet(replace(of.data, known=of.data.known[:0], known_masks=None), of.test, of.labels, of.masks)


def dresses(most_normals: int, each: int, normals: int) -> TestedSet:
    """Fashion-MNIST: the first test images of each class, `normals` of the dresses."""
    home, name = Home.find(), "fashion-mnist"
    fetch(home, name)
    raw, normal = read_raw(home, name), SETS[name].classes.index("dress")
    whole = training_data(raw, normal, outliers_of(home, name))
    data = replace(whole, normals=whole.normals[:most_normals], val_normals=whole.val_normals[: most_normals // 4])
    counts = [normals if one == normal else each for one in range(10)]
    rows = np.sort(np.concatenate([np.flatnonzero(raw.test_labels == k)[:most] for k, most in enumerate(counts)]))
    labels = (raw.test_labels[rows] != normal).astype(np.int64)
    return TestedSet(data, torch.from_numpy(raw.test[rows].copy())[:, None], labels, None)
