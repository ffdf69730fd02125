"""Counterfactuals of the explained defects by a twin, and what they are compared with; all uint8 [N,K,1,64,64], kept in
var/.

`nearest normal` and `l2 attack` know the twin's score too; `autoencoder` knows neither twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.cells import cells
from benchmarks.counterfactuals_elpv_kit.training import (
    HELD_OUT,
    TWINS,
    autoencoder,
    generator,
    generator_folder,
    held_out,
    place,
    scores_of,
    twin,
    twin_folder,
)
from xadflow.detectors.base import Detector
from xadflow.digests import sha256_json
from xadflow.explainers.base import Explainer
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.images import as_float
from xadflow.lineage import code_digest
from xadflow.settings import Home

Pixels = NDArray[np.uint8]
JUDGE = next(iter(HELD_OUT))  # whose opinion the result is of; the others are beside it
EXPLAINERS = ("sparse", "diverse", "l2 attack", "nearest normal")
AUTOENCODER, LENGTHENED, BRIGHTENED = "autoencoder", "sparse, as far as robust", "brightened, as far as robust"
_SEARCHES = tuple(f"explainers/{name}.py" for name in ("sparse", "frank_wolfe", "oracle", "diverse/explainer"))
_AT_ONCE = 50


def explained_rows(home: Home, seed: int, count: int) -> NDArray[np.intp]:
    """Rows of the test set, in the order of image_id: the first defects that both twins and the judge flag."""
    images, flagged = cells(), []
    for detector in (*(twin(home, kind, seed) for kind in TWINS), held_out(home, JUDGE)):
        flagged.append(scores_of(detector, images.test) > detector.calibration.threshold)
    return first_flagged(images.labels, np.stack(flagged), count)


def first_flagged(labels: NDArray[np.int64], flagged: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Rows with label 1 that every detector of `flagged` [D,N] flags, at most `count`."""
    return np.flatnonzero((labels == 1) & flagged.all(axis=0))[:count]


def made_by(home: Home, kind: str, seed: int, rows: NDArray[np.intp], steps: int) -> dict[str, Pixels]:
    """What each of EXPLAINERS makes of the defects for one twin; made where it is not kept."""
    found = {}
    for name in EXPLAINERS:
        path = _path(home, kind, seed, name, rows, steps)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(partial, made=_made(home, kind, seed, name, cells().test[rows], steps))
            partial.replace(path)
        with np.load(path) as kept:
            found[name] = kept["made"]
    return found


def projected(home: Home, images: Pixels) -> Pixels:
    """What an autoencoder of the train normals makes of them."""
    response: Any = autoencoder(home)
    response = response.response
    prepare, network = response.prepare, response.network
    with torch.no_grad():
        black, white = (prepare(torch.full((1, *images.shape[1:]), value)) for value in (0.0, 1.0))
        made = torch.cat([network(prepare(as_float(part))) for part in torch.from_numpy(images).split(100)])
        shown = (made - black) / (white - black)  # the preparation is a scale and a shift of each channel
    return (shown * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()[:, None]


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


def nearest_normal(detector: Detector, bank: Pixels, images: Pixels) -> Pixels:
    """The image of `bank` at the smallest l2 distance, of those that the detector calls normal."""
    bank = bank[scores_of(detector, bank) <= detector.calibration.threshold]
    flat, of = (torch.from_numpy(one).flatten(1).float() for one in (bank, images))
    return bank[torch.cdist(of, flat).argmin(dim=1).numpy()][:, None]


def _made(home: Home, kind: str, seed: int, name: str, images: Pixels, steps: int) -> Pixels:
    detector = twin(home, kind, seed)
    make: Mapping[str, Callable[[], Pixels]] = {
        "sparse": lambda: _told(SparseExplainer(), detector, images),
        "l2 attack": lambda: _told(SparseExplainer(p=2.0), detector, images),
        "diverse": lambda: _told(generator(home, kind, seed, steps), detector, images),
        "nearest normal": lambda: nearest_normal(detector, cells().train, images),
    }
    return make[name]()


def _told(explainer: Explainer, detector: Detector, images: Pixels) -> Pixels:
    """What the explainer stores."""
    told = []
    for part in torch.from_numpy(images).split(_AT_ONCE):
        told += [[one.image for one in row.counterfactuals] for row in explainer.explain(detector, as_float(part))]
    return np.array(told, dtype=np.uint8)


def _path(home: Home, kind: str, seed: int, name: str, rows: NDArray[np.intp], steps: int) -> Path:
    by = (generator_folder(home, kind, seed, steps) if name == "diverse" else twin_folder(home, kind, seed)).name
    key = sha256_json({"by": by, "name": name, "rows": rows.tolist(), "code": code_digest(*_SEARCHES)})[:12]
    return place(home) / f"made-{kind}-{seed}-{name.replace(' ', '-')}-{key}.npz"


def _lengths(change: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """l2 of each image, [N,1,1,1,1]."""
    found: NDArray[np.float64] = np.sqrt(np.square(change).sum(axis=(1, 2, 3, 4), keepdims=True))
    return found
