"""Near copies of one picture in several splits, and train normals that are unlike the others: warned of.

Copies with the same pixels are kept out by the border; these are pictures re-compressed, re-sized or brightened, which
no hash of bytes or pixels tells. Both looks see grey thumbnails, and decide nothing: a person does.

**Near copies.** Of each thumbnail what it shares with all images (their mean, and how bright it is) and what varies
slowly (shades) is taken away. The rest is a fingerprint: two captures of one product have it in common by chance only,
a copy keeps it. Pairs in different splits whose fingerprints have a correlation of at least .95 are named.

**Suspects.** A train normal's score is the largest distance of one of its patches (8 x 8 pixels of the thumbnail) to
the nearest patch of any *other* train normal: the image itself is left out, or it would hide itself. Those far above
the others are named: a defect among the normals, a wrong product, a covered lens. Several copies of one defect vouch
for each other, and a defect smaller than a pixel of the thumbnail is not seen. Source: the nearest patch of normals,
but without a network, as in Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from xadflow.datasets.manifest import Manifest, Split
from xadflow.settings import DatasetSettings

SIDE_PX = 64
_BLOCK_PX = 8
_ALIKE = 0.95
_FAR = 3.0  # robust spreads above the median
_FEWEST = 10  # images, to know what they share
_AT_ONCE = 2048
_BANK = 4000
_LEAST_DETAIL = 0.25  # grey levels: what has less is flat, and flat images are alike without being copies

Thumbnails = NDArray[np.uint8]


MOST_SUSPECTED = 2000
"""Train normals that are compared with each other at most; the first by image_id."""
_SHOWN = 50


def look_for_leaks(manifest: Manifest, dataset: DatasetSettings) -> dict[str, list[dict[str, object]]]:
    """What a person should look at, as validation.json states it: `near_copies` and `suspects`, each 50 at most; a key
    is absent where nothing was found.

    Raises BadImage for a file that is missing or changed.
    """
    from xadflow.datasets.loading import load_images  # brings torch in

    small = dataset.model_copy(update={"size_px": SIDE_PX, "channels": 1})
    rows = manifest.rows()
    thumbnails = load_images(manifest, rows, small)[:, 0].numpy()
    pairs: list[dict[str, object]] = [
        {
            "one": rows[pair.one].path,
            "split": rows[pair.one].split,
            "other": rows[pair.other].path,
            "other_split": rows[pair.other].split,
            "likeness": round(pair.likeness, 3),
        }
        for pair in near_copies(thumbnails, [row.split for row in rows])[:_SHOWN]
    ]
    normal = [place for place, row in enumerate(rows) if row.split == Split.TRAIN and row.label == 0][:MOST_SUSPECTED]
    odd: list[dict[str, object]] = [
        {"path": rows[normal[one.image]].path, "score": round(one.score, 1), "usual": round(one.usual, 1)}
        for one in suspects(thumbnails[normal])[:_SHOWN]
    ]
    return {name: found for name, found in (("near_copies", pairs), ("suspects", odd)) if found}


class NearCopy(NamedTuple):
    """Two images, by their place in what was given, in different splits; `likeness` in [.95, 1]."""

    one: int
    other: int
    likeness: float


class Suspect(NamedTuple):
    """A train normal that is unlike the others, by its place; `score` and the median of all, `usual`, are distances."""

    image: int
    score: float
    usual: float


def near_copies(thumbnails: Thumbnails, splits: Sequence[str]) -> list[NearCopy]:
    """Pairs of thumbnails uint8 [N,64,64] that are one picture in different splits, those most alike first."""
    if len(thumbnails) < _FEWEST:
        return []
    prints = _fingerprints(thumbnails)
    kind = np.unique(np.asarray(splits), return_inverse=True)[1]
    found: list[NearCopy] = []
    for start in range(0, len(prints), _AT_ONCE):
        for after in range(start, len(prints), _AT_ONCE):
            likeness = prints[start : start + _AT_ONCE] @ prints[after : after + _AT_ONCE].T
            rows, columns = np.nonzero(likeness >= _ALIKE)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                one, other = start + row, after + column
                if one < other and kind[one] != kind[other]:
                    found.append(NearCopy(one, other, min(1.0, float(likeness[row, column]))))
    return sorted(found, key=lambda pair: (-round(pair.likeness, 3), pair.one, pair.other))


def _fingerprints(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """[N,P] of length 1, or 0 for an image without detail of its own."""
    images = thumbnails.astype(np.float32)
    images -= uniform_filter(images, size=(0, 9, 9), mode="nearest")
    flat = images.reshape(len(images), -1)  # (N, P)
    mean = flat.mean(axis=0)
    if power := float(mean @ mean):
        flat = flat - (flat @ mean / power)[:, None] * mean
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    has_detail = length >= _LEAST_DETAIL * SIDE_PX
    return np.asarray(np.where(has_detail, flat / np.maximum(length, 1e-9), 0.0), dtype=np.float32)


def suspects(thumbnails: Thumbnails) -> list[Suspect]:
    """Of the thumbnails uint8 [N,64,64] of train normals those far from all others, the farthest first."""
    if len(thumbnails) < _FEWEST:
        return []
    scores = left_out_scores(thumbnails)
    usual = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - usual)))
    far = [
        int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > usual + _FAR * max(spread, 1.0)
    ]
    return [Suspect(place, float(scores[place]), usual) for place in far]


def left_out_scores(thumbnails: Thumbnails) -> NDArray[np.float64]:
    """[N], of each image the largest distance of one of its patches to the nearest patch of *another* image.

    The others are asked for 4,000 patches in all, drawn by a fixed seed.
    """
    patches = _patches(thumbnails)  # (N, P, D)
    count, places, size = patches.shape
    flat, owner = patches.reshape(-1, size), np.repeat(np.arange(count), places)
    chosen = np.random.default_rng(0).permutation(len(flat))[:_BANK]
    return np.asarray(_nearest(flat, flat[chosen], owner, owner[chosen]).reshape(count, places).max(axis=1), np.float64)


def _nearest(
    asked: NDArray[np.float32], bank: NDArray[np.float32], owner: NDArray[np.int64], bank_owner: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Distance of each patch to the nearest of the bank that another image owns."""
    found = np.empty(len(asked), np.float32)
    lengths = (bank**2).sum(axis=1)
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        squares = (some**2).sum(axis=1)[:, None] + lengths - 2 * some @ bank.T
        squares[owner[start : start + _AT_ONCE, None] == bank_owner] = np.inf
        found[start : start + _AT_ONCE] = np.sqrt(np.maximum(squares.min(axis=1), 0))
    return found


def _patches(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """[N,P,64]: patches of 8 x 8 pixels every 4."""
    windows = sliding_window_view(thumbnails.astype(np.float32), (_BLOCK_PX, _BLOCK_PX), axis=(1, 2))[:, ::4, ::4]
    return np.ascontiguousarray(windows).reshape(len(thumbnails), -1, _BLOCK_PX * _BLOCK_PX)
