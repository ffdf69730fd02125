"""Coloured-MNIST in memory, as the source `coloured_mnist` draws it: normal is cyan with any digit, or a 1 in any
colour.

Arrays uint8 [N,3,28,28]; digits are 0 to 9, colours are numbers into COLOUR_NAMES.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xadflow.datasets.public.colours import COLOURS, painted
from xadflow.datasets.public.reading import read_raw
from xadflow.settings import Home

COLOUR_NAMES = tuple(COLOURS)
CYAN, ONE = COLOUR_NAMES.index("cyan"), 1
Definition = tuple[int, int]  # the colour and the digit that are normal
ORIGINAL: Definition = (CYAN, ONE)
RELABELLED: Definition = (COLOUR_NAMES.index("magenta"), 7)
SEED = 0


@dataclass(frozen=True)
class Coloured:
    """Images with what they show."""

    images: NDArray[np.uint8]
    digits: NDArray[np.int64]
    colours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | NDArray[np.generic]) -> Coloured:
        return Coloured(self.images[rows], self.digits[rows], self.colours[rows])

    @property
    def is_normal(self) -> NDArray[np.bool_]:
        """By definition."""
        return self.normal_by(ORIGINAL)

    def normal_by(self, definition: Definition) -> NDArray[np.bool_]:
        """By any definition."""
        colour, digit = definition
        return np.asarray((self.digits == digit) | (self.colours == colour))


def coloured(strokes: NDArray[np.uint8], digits: NDArray[np.generic], colours: NDArray[np.int64]) -> Coloured:
    """Strokes uint8 [N,H,W] each in its colour."""
    images = np.empty((len(strokes), 3, *strokes.shape[1:]), np.uint8)
    for number, name in enumerate(COLOUR_NAMES):
        for row in np.flatnonzero(colours == number):
            images[row] = painted(strokes[row], name).transpose(2, 0, 1)
    return Coloured(images, np.asarray(digits, np.int64), colours)


def train_normals(definition: Definition = ORIGINAL) -> Coloured:
    """Half of them ones in any colour, half cyan in any digit, or as another definition has it; no digit twice."""
    colour, digit = definition
    strokes, digits, rng = *_raw(True), np.random.default_rng([SEED, 0])
    order = rng.permutation(len(digits))
    colours = rng.integers(len(COLOUR_NAMES), size=len(digits))
    ones = order[digits[order] == digit]
    others = np.setdiff1d(order, ones, assume_unique=True)
    cyan = np.concatenate([rng.permutation(others)[: len(ones)]])
    chosen = rng.permutation(np.concatenate([ones, cyan]))
    colours[cyan] = colour
    return coloured(strokes[chosen], digits[chosen], colours[chosen])


def recoloured(count: int, definition: Definition = ORIGINAL) -> Coloured:
    """Train digits of any class in another colour than cyan: the outlier exposure, nearly supervision; 11 %
    are ones.
    """
    strokes, digits, rng = *_raw(True), np.random.default_rng([SEED, 1])
    chosen = rng.permutation(len(digits))[:count]
    others = np.array([number for number in range(len(COLOUR_NAMES)) if number != definition[0]])
    return coloured(strokes[chosen], digits[chosen], rng.choice(others, count))


def random_train(count: int) -> Coloured:
    """Train digits, each in any colour: what the readers learn from."""
    strokes, digits, rng = *_raw(True), np.random.default_rng([SEED, 2])
    chosen = rng.permutation(len(digits))[:count]
    return coloured(strokes[chosen], digits[chosen], rng.integers(len(COLOUR_NAMES), size=count))


@cache
def test_images() -> Coloured:
    """All 10,000 published test digits, each in one fixed colour."""
    strokes, digits = _raw(False)
    return coloured(strokes, digits, np.random.default_rng([SEED, 3]).integers(len(COLOUR_NAMES), size=len(digits)))


def _raw(train: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    raw = read_raw(Home.find(), "mnist")
    return (raw.train, raw.train_labels) if train else (raw.test, raw.test_labels)
