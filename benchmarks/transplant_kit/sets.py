"""Data of `make bench-transplant`: each set, and the halves of its train normals, one for donors, one for judges.

The detector learns from all train normals, as in service. Donors and judges take theirs from disjoint halves by a hash
of the pixels, so that no judge has seen a donor. Symmetries and alignment are those of params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.counterfactuals_kit import images as digits
from benchmarks.counterfactuals_kit import training as coloured
from benchmarks.elpv import protocols
from benchmarks.one_class import outliers_of, training_data
from benchmarks.textures import texture_of
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import SETS
from xadflow.detectors import TrainingData
from xadflow.digests import sha256_bytes
from xadflow.explainers.transplant.bank import Symmetries
from xadflow.images import load_input
from xadflow.settings import Home, load_settings

KNOWN = 20  # of ELPV's 60 reserved defects; the other 40 set the temperature
RUNG = "easy"
ELPV, BLOCKS, TEXTURES = "elpv", "elpv-blocks-0", ("textures-brick", "textures-grass", "textures-gravel")
CLOTHES, COLOURED = "fashion-mnist-3", "coloured-mnist"
SMALL_CELLS = "elpv 64 px"
OF_EACH_CLASS, MOST_NORMALS, MOST_TESTED = 60, 2400, 1200  # of the 28 px sets


@dataclass(frozen=True, eq=False)
class TestedSet:
    """What may be learned from, and test images uint8 [N,C,H,W] with labels [N] and, where there are some, masks
    [N,H,W].
    """

    name: str
    data: TrainingData
    test: Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    symmetries: Symmetries
    aligned: bool

    @property
    def normals(self) -> Tensor:
        """Normal test images."""
        return self.test[torch.from_numpy(self.labels == 0)]

    @property
    def judged(self) -> TrainingData:
        """What a judge may learn from: the half of the train normals that gives no donors."""
        return replace(self.data, normals=self.data.normals[~gives_donors(self.data.normals)])


Parts = tuple[TrainingData, Tensor, NDArray[np.int64], NDArray[np.bool_] | None]


def gives_donors(images: Tensor) -> Tensor:
    """Which of uint8 [N,C,H,W] are in the donors' half, bool [N]: first byte of the pixels' hash even.

    An image that a set holds twice is on one side only.
    """
    return torch.tensor([int(pixel_id(one)[:2], 16) % 2 == 0 for one in images], dtype=torch.bool)


def pixel_id(image: Tensor) -> str:
    """Hex sha256 of the pixels: what a donor is called here."""
    return sha256_bytes(image.contiguous().numpy().tobytes())


@cache
def tested_set(name: str) -> TestedSet:
    """One set of params.yaml; `elpv 64 px` is ELPV's random split at that size."""
    known_as = name.partition(" ")[0]
    told = load_settings(Home.find().params).dataset(known_as)
    if name in TEXTURES:
        parts = _texture(name)
    elif name == CLOTHES:
        parts = _clothes()
    elif name == COLOURED:
        parts = _coloured()
    else:
        parts = _solar_cells(
            "peer-0" if known_as == ELPV else known_as.removeprefix("elpv-"),
            64 if name == SMALL_CELLS else told.size_px,
        )
    return TestedSet(name, *parts, told.symmetries, told.aligned)


def _solar_cells(protocol: str, px: int) -> Parts:
    paths, found = protocols((protocol,))
    split = found[protocol]
    images = torch.stack([torch.tensor(load_input(path, (px, px), 1)) for path in paths])
    known = images[split.known]
    data = TrainingData(images[split.train], images[split.val], known[:KNOWN], None, known[KNOWN:], images[:0])
    return data, images[split.test], split.labels.astype(np.int64), None


def _texture(name: str) -> Parts:
    texture = texture_of(name.removeprefix("textures-"), RUNG)
    plain = replace(texture.data, known=texture.data.known[:0], known_masks=None)
    return plain, texture.test, texture.labels, texture.masks


def _clothes() -> Parts:
    fetch(Home.find(), "fashion-mnist")
    raw, normal = read_raw(Home.find(), "fashion-mnist"), SETS["fashion-mnist"].classes.index("dress")
    whole = training_data(raw, normal, outliers_of(Home.find(), "fashion-mnist"))
    data = replace(whole, normals=whole.normals[:MOST_NORMALS], val_normals=whole.val_normals[: MOST_NORMALS // 4])
    rows = np.sort(
        np.concatenate(
            [np.flatnonzero(raw.test_labels == one)[: OF_EACH_CLASS * (9 if one == normal else 1)] for one in range(10)]
        )
    )
    return (
        data,
        torch.from_numpy(raw.test[rows].copy())[:, None],
        (raw.test_labels[rows] != normal).astype(np.int64),
        None,
    )


def _coloured() -> Parts:
    fetch(Home.find(), "mnist")
    (train, held), (outliers, calibrating) = coloured.normals(), coloured.exposure()
    none = torch.zeros(0, 3, 28, 28, dtype=torch.uint8)
    data = TrainingData(
        *(torch.from_numpy(one.images) for one in (train[:MOST_NORMALS], held[: MOST_NORMALS // 4])),
        none,
        None,
        *(torch.from_numpy(one.images) for one in (calibrating, outliers)),
    )
    tested = digits.test_images()[:MOST_TESTED]
    return data, torch.from_numpy(tested.images), (~tested.is_normal).astype(np.int64), None
