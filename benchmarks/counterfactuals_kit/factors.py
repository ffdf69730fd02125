"""Which factor of an image a counterfactual changed, as readers see it: for data made of two known factors.

On Coloured-MNIST the factors are colour and digit, an image is normal that has the normal value of either, and the
ideal pair of counterfactuals changes one each. Readers are networks that took no part in any training of what is
judged. They are gated: an image with next to nothing in it is read as something all the same (a blank one as a 1), so
an illegible image has no factor at all.

Source: docs/explanation/methods.md, "Diverse counterfactuals"; definitions there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput

LIT_LEVEL = 0.3  # of the brightest channel of a pixel, on the [0,1] scale
LIT_PIXELS = 15  # fewer lit ones: nothing to read; the thinnest real 1 of MNIST's test digits has 31

Numbers = NDArray[np.integer]


@dataclass(frozen=True)
class Reading:
    """What is read of N images by K concepts: values of both factors, int [N,K], and whether there is
    anything, bool.
    """

    first: Numbers
    second: Numbers
    legible: NDArray[np.bool_]


@dataclass(frozen=True)
class FactorFigures:
    """Shares in [0,1] of what K concepts did to anomalies.

    normal            of all counterfactuals, that have the normal value of either factor
    first_only[k]     of concept k, that have the first factor's normal value and their image's own second factor
    second_only[k]    the other way round
    roles             (i, j): concept i is taken as the one that changes the first factor, j as the other; the pair with
                      the largest `strict`, then `loose`, then sum of the shares above. None for one concept
    strict            of the images, for which i changed the first factor alone and j the second alone
    loose             of the images, for which i has the first factor's normal value and not the second's, and j the
                      other way round
    """

    normal: float
    first_only: tuple[float, ...]
    second_only: tuple[float, ...]
    roles: tuple[int, int] | None
    strict: float | None
    loose: float | None


def legible(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether at least 15 pixels of uint8 [...,C,H,W] are above .3 in any channel; [...]."""
    lit = images.max(axis=-3) > LIT_LEVEL * 255.0
    return np.asarray(lit.sum(axis=(-2, -1)) >= LIT_PIXELS, dtype=np.bool_)


def factor_figures(reading: Reading, first: Numbers, second: Numbers, normal: tuple[int, int]) -> FactorFigures:
    """Figures for anomalies whose own factors are `first` and `second` [N]; `normal` are the normal values of both.

    Raises:
        BadInput: shapes that do not belong together, nothing at all, or an image that is normal by definition.
    """
    if (
        reading.first.ndim != 2
        or not reading.first.size
        or not (
            reading.first.shape == reading.second.shape == reading.legible.shape
            and first.shape == second.shape
            and first.shape == reading.first.shape[:1]
        )
    ):
        raise BadInput(
            "readings are [N,K] of N anomalies whose factors are [N]",
            seen=(reading.first.shape, first.shape),
            next_step="read every counterfactual of every anomaly",
        )
    if bool(((first == normal[0]) | (second == normal[1])).any()):
        raise BadInput(
            "only anomalies have a factor to change",
            seen="an image with a normal factor",
            next_step="leave out what is normal by definition",
        )
    has_first, has_second = (
        (read == value) & reading.legible for read, value in ((reading.first, normal[0]), (reading.second, normal[1]))
    )
    first_only = has_first & (reading.second == second[:, None])  # (N, K)
    second_only = has_second & (reading.first == first[:, None])
    shares = tuple(first_only.mean(axis=0).tolist()), tuple(second_only.mean(axis=0).tolist())
    found: list[tuple[float, float, float, tuple[int, int]]] = []
    for i, j in permutations(range(reading.first.shape[1]), 2):
        strict = float((first_only[:, i] & second_only[:, j]).mean())
        loose = float((has_first[:, i] & ~has_second[:, i] & has_second[:, j] & ~has_first[:, j]).mean())
        found.append((strict, loose, shares[0][i] + shares[1][j], (i, j)))
    best = max(found, default=None)
    return FactorFigures(
        float((has_first | has_second).mean()),
        *shares,
        *((None, None, None) if best is None else (best[3], best[0], best[1])),
    )
