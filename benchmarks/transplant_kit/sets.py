"""Data of `make bench-transplant`: each set, and the halves of its train normals, one for donors, one for judges.

The detector learns from all train normals, as in service. Donors and judges take theirs from disjoint halves by a hash
of the pixels, so that no judge has seen a donor. Symmetries and alignment are those of params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from benchmarks import sets
from benchmarks.counterfactuals_kit import images as digits
from benchmarks.counterfactuals_kit import training as coloured
from benchmarks.kit.models import training_data as arrays_to_learn_from
from xadflow.datasets.public.fetching import fetch
from xadflow.detectors import TrainingData
from xadflow.digests import sha256_bytes
from xadflow.explainers.transplant.bank import Symmetries
from xadflow.settings import Home, load_settings

KNOWN = 20  # of ELPV's 60 reserved defects; the other 40 set the temperature
RUNG = "easy"
ELPV, BLOCKS, TEXTURES = "elpv", "elpv-blocks-0", ("textures-brick", "textures-grass", "textures-gravel")
CLOTHES, COLOURED = "fashion-mnist-3", "coloured-mnist"
SMALL_CELLS = "elpv 64 px"
OF_EACH_CLASS, MOST_NORMALS, MOST_TESTED = 60, 2400, 1200  # of the 28 px sets


@dataclass(frozen=True, eq=False)
class TestedSet(sets.TestedSet):
    """A set by its name, with what params.yaml says of its pictures."""

    name: str
    symmetries: Symmetries
    aligned: bool

    @property
    def judged(self) -> TrainingData:
        """What a judge may learn from: the half of the train normals that gives no donors."""
        return replace(self.data, normals=self.data.normals[~gives_donors(self.data.normals)])


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
        found = sets.texture(name.removeprefix("textures-"), RUNG)
    elif name == CLOTHES:
        found = sets.dresses(MOST_NORMALS, OF_EACH_CLASS, 9 * OF_EACH_CLASS)
    elif name == COLOURED:
        found = _coloured()
    else:
        protocol = "peer-0" if known_as == ELPV else known_as.removeprefix("elpv-")
        found = sets.solar_cells(protocol, 64 if name == SMALL_CELLS else told.size_px, KNOWN)
    return TestedSet(**vars(found), name=name, symmetries=told.symmetries, aligned=told.aligned)


def _coloured() -> sets.TestedSet:
    fetch(Home.find(), "mnist")
    (train, held), (outliers, calibrating) = coloured.normals(), coloured.exposure()
    learnt = (train[:MOST_NORMALS], held[: MOST_NORMALS // 4], calibrating, outliers)
    tested = digits.test_images()[:MOST_TESTED]
    labels = (~tested.is_normal).astype(np.int64)
    data = arrays_to_learn_from(*(one.images for one in learnt))
    return sets.TestedSet(data, torch.from_numpy(tested.images), labels, None)
