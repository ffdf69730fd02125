"""Figures of explanations: pure functions of stored 8-bit images, raw heatmaps and decisions.

Images are uint8 [C,H,W], heatmaps float [H,W], masks bool [H,W]. Everything here can be recomputed from a stored row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput

Pixels = NDArray[np.uint8]
Heat = NDArray[np.floating]


class Change(NamedTuple):
    """Size of a change on the [0,1] scale; fields as in the table `explanations`."""

    l1: float
    l2: float
    changed_fraction: float


def l1_l2_changed(original: Pixels, other: Pixels) -> Change:
    """l1 = sum |d| and l2 = sqrt(sum d^2) over all C*H*W values / 255; share of pixels with any channel changed.

    >>> l1_l2_changed(np.zeros((1, 2, 2), np.uint8), np.array([[[51, 0], [0, 0]]], np.uint8))
    Change(l1=0.2, l2=0.2, changed_fraction=0.25)
    """
    levels = np.abs(_levels(original, other))
    return Change(
        float(levels.sum() / 255), float(np.sqrt(np.square(levels).sum()) / 255), float(levels.any(axis=0).mean())
    )


def lp_norm(original: Pixels, other: Pixels, p: float) -> float:
    """(sum |d|^p)^(1/p) over all C*H*W values / 255; p = inf gives the largest change."""
    return float(np.linalg.norm(_levels(original, other).ravel() / 255.0, ord=p))


def top_share(heatmap: Heat, share: float) -> NDArray[np.bool_]:
    """The heatmap's mask: its hottest `share` of pixels, in (0, 1]; ties at the level all belong to it.

    The mask is a share of the image, not a level of the map, so that a change spread evenly over the image has `share`
    of itself inside whatever the map.
    """
    if not 0.0 < share <= 1.0:
        raise BadInput("a mask holds a share of the image in (0, 1]", seen=share, next_step="give another share")
    values = np.sort(_finite(heatmap).ravel())
    return np.asarray(heatmap >= values[values.size - _count(values.size, share)], dtype=np.bool_)


def change_inside(original: Pixels, other: Pixels, mask: NDArray[np.bool_]) -> float:
    """Share of sum |d| that lies inside the mask; NaN where nothing changed.

    Chance level is the mask's own share of the image. A search whose direction is masked keeps this high by
    construction: read it together with how often the mask had to be widened.
    """
    levels = np.abs(_levels(original, other)).sum(axis=0)  # (H, W)
    total = int(levels.sum())
    return float(levels[mask].sum() / total) if total else float("nan")


def flip_rate(is_normal: ArrayLike) -> float:
    """Share of counterfactuals that the detector calls normal, judged on their decoded 8-bit images; the one meaning of
    the figure `flip_rate`.

    Of which counterfactuals is the caller's to say: `gate.flip_rate` is of the first of each anomaly, which is the one
    that a person is shown; `flip_rate` of a night's page and run is of all of them.

    Raises:
        BadInput: no counterfactual at all; a rate of nothing is not 0.
    """
    flags = np.asarray(is_normal, dtype=np.bool_)
    if flags.size == 0:
        raise BadInput("a flip rate needs at least one counterfactual", seen=0, next_step="explain an anomaly first")
    return float(flags.mean())


def concentration(heatmap: Heat, share: float) -> float:
    """Share of the heat (map minus its minimum) held by the hottest `share` of pixels; a flat map gives `share`.

    >>> concentration(np.array([[0.0, 0.0], [1.0, 3.0]]), 0.25)
    0.75
    """
    heat = np.sort(_finite(heatmap).astype(np.float64).ravel())
    heat -= heat[0]
    count = _count(heat.size, share)
    return float(heat[-count:].sum() / heat.sum()) if heat[-1] > 0 else count / heat.size


def heat_inside(heatmaps: NDArray[np.floating], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of each map's heat (map minus its own minimum) inside its mask: maps and masks [N,H,W] to [N].

    A flat map gives the mask's share of the image, which is also the chance level. Raises BadInput.

    >>> heat_inside(np.array([[[1.0, 1.0], [2.0, 4.0]]]), np.array([[[False, False], [False, True]]]))
    array([0.75])
    """
    if heatmaps.ndim != 3 or heatmaps.shape != masks.shape or not np.isfinite(heatmaps).all():
        raise BadInput(
            "heatmaps and masks are [N,H,W] of one shape, heatmaps finite",
            seen=(heatmaps.shape, masks.shape),
            next_step="look at the images or the weights that gave them",
        )
    flat = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    heat, inside = flat - flat.min(axis=1, keepdims=True), masks.reshape(len(masks), -1)
    total = heat.sum(axis=1)
    share = (heat * inside).sum(axis=1) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, share, inside.mean(axis=1)), dtype=np.float64)


def peak(heatmap: Heat) -> tuple[int, int]:
    """(y, x) of the hottest pixel; the first in reading order where several are."""
    y, x = np.unravel_index(int(np.argmax(_finite(heatmap))), heatmap.shape)
    return int(y), int(x)


def area_above(heatmap: Heat, level: float) -> float:
    """Share of pixels above minimum + level * (maximum - minimum); 0 for a flat map."""
    values = _finite(heatmap).astype(np.float64)
    low, high = values.min(), values.max()
    return float((values > low + level * (high - low)).mean())


def _count(size: int, share: float) -> int:
    return max(round(size * share), 1)


def _levels(original: Pixels, other: Pixels) -> NDArray[np.int64]:
    if original.dtype != np.uint8 or other.dtype != np.uint8 or original.shape != other.shape or original.ndim != 3:
        raise BadInput(
            "a change is measured between two uint8 images [C,H,W] of one shape",
            seen=[(str(image.dtype), image.shape) for image in (original, other)],
            next_step="decode both by xadflow.images.decode_png",
        )
    return other.astype(np.int64) - original.astype(np.int64)


def _finite(heatmap: Heat) -> Heat:
    if heatmap.ndim != 2 or not np.isfinite(heatmap).all():
        raise BadInput(
            "a heatmap is [H,W] of finite numbers",
            seen=(heatmap.shape, float(np.isnan(heatmap).sum())),
            next_step="look at the image or the weights that gave it",
        )
    return heatmap
