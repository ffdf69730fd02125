"""Figures of transplants that no module of the package has: overlap with a mask, the seam, and intervals of
two levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
VISIBLE = 2  # a pixel counts as changed above so many of 255 levels, in any channel
BOOTSTRAP = 1000


def iou(first: Mask, second: Mask) -> float:
    """Shared pixels of two masks [H,W] over those of either; 0 where both are empty.

    >>> iou(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.3333333333333333
    """
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 0.0


def hottest(heat: NDArray[np.floating[Any]], count: int) -> Mask:
    """The `count` hottest pixels of a map [H,W]: what a region of that size would be without a search."""
    flat = np.zeros(heat.size, dtype=np.bool_)
    flat[np.argsort(-heat.ravel(), kind="stable")[:count]] = True
    return flat.reshape(heat.shape)


def steps_across(image: NDArray[np.floating[Any]], region: Mask) -> Floats:
    """|difference| of each two neighbouring pixels of grey [H,W] of which one is in the region; on the scale of the
    image.

    >>> steps_across(np.array([[1.0, 4.0, 4.0]]), np.array([[True, False, False]]))
    array([3.])
    """
    return _across(*_steps(image), region)


def usual_steps(normals: Pixels) -> tuple[Floats, Floats]:
    """Mean |difference| of neighbouring pixels of normals [N,C,H,W] in grey, down [H-1,W] and across [H,W-1]."""
    each = [_steps(one.mean(axis=0)) for one in normals]
    return np.mean([down for down, _ in each], axis=0), np.mean([across for _, across in each], axis=0)


def seam(image: Pixels, region: Mask, usual: tuple[Floats, Floats]) -> float:
    """Mean step across a region's border in an image [C,H,W], in units of that of normals (:func:`usual_steps`) there.

    1: no steeper than what is usual at these places. NaN for a region without a border.
    """
    own = steps_across(image.mean(axis=0), region)
    return float(own.mean() / max(_across(*usual, region).mean(), 1e-9)) if own.size else float("nan")


def _steps(image: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    return np.abs(np.diff(image, axis=0)).astype(np.float64), np.abs(np.diff(image, axis=1)).astype(np.float64)


def _across(down: Floats, across: Floats, region: Mask) -> Floats:
    return np.concatenate([down[region[1:] != region[:-1]], across[region[:, 1:] != region[:, :-1]]])


def elsewhere(blend: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same region [H,W] at a random place: rolled round the borders, so that its area stays to the pixel."""
    height, width = blend.shape
    return np.roll(blend, (int(rng.integers(height)), int(rng.integers(width))), axis=(0, 1))


def changed(original: Pixels, made: Pixels) -> float:
    """Share of the pixels of [C,H,W] that differ by more than VISIBLE levels in any channel."""
    return float((np.abs(original.astype(np.int16) - made).max(axis=0) > VISIBLE).mean())


def interval(
    table: Floats, statistic: Callable[..., Any] = np.nanmean, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> dict[str, float]:
    """A statistic of [S,N] values of S trainings and N images, with a 95 % interval from draws of both.

    The point is the mean over trainings of each one's statistic. A draw takes trainings with replacement and images
    with replacement, an image with all its trainings, since the same picture is no new evidence. Three trainings are
    few.
    """
    rng = np.random.default_rng(seed)
    trainings, images = table.shape
    drawn = []
    for _ in range(bootstrap):
        part = table[rng.integers(trainings, size=trainings)][:, rng.integers(images, size=images)]
        told = part[np.isfinite(part).any(axis=1)]
        if len(told):
            drawn.append(float(np.mean(statistic(told, axis=1))))
    known = table[np.isfinite(table).any(axis=1)]
    if not drawn or not len(known):
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "images": 0.0}
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "value": float(np.mean(statistic(known, axis=1))),
        "low": float(low),
        "high": float(high),
        "images": float(np.isfinite(known).sum()),
    }
