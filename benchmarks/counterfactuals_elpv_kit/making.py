"""Counterfactuals of the explained defects by a twin, and what they are compared with; all uint8 [N,K,1,64,64], kept in
var/.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.cells import cells
from benchmarks.counterfactuals_elpv_kit.training import (
    HELD_OUT,
    STUDY,
    TWINS,
    generator,
    generator_folder,
    held_out,
    twin,
)
from benchmarks.kit.baselines import nearest_normal, searched
from benchmarks.kit.judging import scores_of, told
from benchmarks.study import kept

Pixels = NDArray[np.uint8]
JUDGE = next(iter(HELD_OUT))  # whose opinion the result is of; the others are beside it
EXPLAINERS = ("sparse", "diverse", "l2 attack", "nearest normal")
AUTOENCODER, LENGTHENED, BRIGHTENED = "autoencoder", "sparse, as far as robust", "brightened, as far as robust"


def explained_rows(seed: int, count: int) -> NDArray[np.intp]:
    """Rows of the test set, in the order of image_id: the first defects that both twins and the judge flag."""
    images, flagged = cells(), []
    for detector in (*(twin(kind, seed) for kind in TWINS), held_out(JUDGE)):
        flagged.append(scores_of(detector, images.test) > detector.calibration.threshold)
    return first_flagged(images.labels, np.stack(flagged), count)


def first_flagged(labels: NDArray[np.int64], flagged: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Rows with label 1 that every detector of `flagged` [D,N] flags, at most `count`."""
    return np.flatnonzero((labels == 1) & flagged.all(axis=0))[:count]


def made_by(kind: str, seed: int, rows: NDArray[np.intp], steps: int) -> dict[str, Pixels]:
    """What each of EXPLAINERS makes of the defects for one twin; made where it is not kept."""
    images, of = cells().test[rows], generator_folder(kind, seed, steps).name

    def make(name: str) -> dict[str, Pixels]:
        detector = twin(kind, seed)
        if name == "diverse":
            return {"made": told(generator(kind, seed, steps), detector, images)}
        if name == "nearest normal":
            return {"made": nearest_normal(detector, cells().data.normals.numpy(), images)}
        return {"made": searched(detector, images, **({"p": 2.0} if name == "l2 attack" else {}))}

    stem = f"made-{kind}-{seed}"
    paths = {name: STUDY.path(f"{stem}-{name}.npz", of=of, rows=rows.tolist()) for name in EXPLAINERS}
    return {name: kept(path, partial(make, name))["made"] for name, path in paths.items()}


def lengthened(originals: Pixels, made: Pixels, other: Pixels, rounds: int = 8) -> Pixels:
    """The changes of `made` [N,1,...] scaled until each image's l2 is that of `other`, or as near as the pixel box
    allows.

    Tells a change that transfers because of what it is from one that transfers because it is large.
    """
    x = originals[:, None].astype(np.float64)
    change, wanted = made - x, _lengths(other - x)
    scale = wanted / np.maximum(_lengths(change), 1e-9)
    for _ in range(rounds):  # the box cuts some of it off, so a little more
        reached = _lengths(np.clip(x + scale * change, 0, 255) - x)
        scale = scale * np.where(reached > 0, np.clip(wanted / np.maximum(reached, 1e-9), 0.5, 2.0), 1.0)
    return np.asarray(np.clip(np.round(x + scale * change), 0, 255), dtype=np.uint8)


def brightened(originals: Pixels, other: Pixels) -> Pixels:
    """Every pixel brighter by the same amount, each image as far (l2) as `other`: defects are darker, and this repairs
    none.
    """
    return lengthened(originals, np.minimum(originals.astype(np.int64) + 8, 255).astype(np.uint8)[:, None], other)


def _lengths(change: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """l2 of each image, [N,1,1,1,1]."""
    found: NDArray[np.float64] = np.sqrt(np.square(change).sum(axis=(1, 2, 3, 4), keepdims=True))
    return found
