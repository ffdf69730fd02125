"""Guess from a few normal images how a product lies in the picture, for donors of pixels: what to search where.

Aligned: an image is like the mean of the others where it is, and less like that mean turned by 45 degrees. A texture is
not like the mean at all, and a mean of parts in any pose is round. What is smooth over the whole image (light that
falls off to the edges) is taken out first: it is alike in pictures of anything.

Symmetries: a mirrored or turned image must have a histogram of edge directions that is as near to the mean one of the
other images as its own is. That knows no place, so it is of use for what is not aligned only; for what is, none are
guessed: a mirrored print, or a part upside down, is a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate

SIDE_PX = 64  # of the grey squares that are looked at
FEWEST = 8
LOW_PX, MARGIN = 32, 6  # the mean is compared at low resolution, without a margin that turning would leave empty
ALIKE, MORE_THAN_TURNED = 0.3, 0.1
DIRECTIONS = 16
# Median distance of changed images, in that of images as they are. On 24 or 10 crops of textures and drawn parts:
# grass, and a part in any pose, up to 1.2; gravel, lit from one side, 1.1 to 1.5; a part that lies within 20 degrees,
# turned by a quarter, 1.5 and more; brick, turned by a quarter, 3.5 and more.
AS_NEAR = 1.35
Grey = NDArray[np.float64]
Symmetries = Literal["none", "flips", "square"]


@dataclass(frozen=True)
class Pose:
    """What was guessed, and of which figures.

    `likeness` is the median correlation of an image with the mean of the others, `turned` that with the mean turned by
    45 degrees; both NaN where there were fewer than 8 images, for which `aligned` and no symmetry are assumed. `loose`
    are the symmetries that it has if it is not aligned.
    """

    aligned: bool
    loose: Symmetries
    likeness: float
    turned: float

    @property
    def symmetries(self) -> Symmetries:
        """None for what is aligned."""
        return "none" if self.aligned else self.loose


def guess_pose(images: Sequence[NDArray[np.uint8]]) -> Pose:
    """Of uint8 grey squares [64,64] of train normals; 24 are plenty."""
    if len(images) < FEWEST:
        return Pose(True, "none", float("nan"), float("nan"))
    greys = [_without_trend(image.astype(np.float64)) for image in images]
    likeness, turned = _likenesses(greys)
    aligned = likeness >= ALIKE and likeness - turned >= MORE_THAN_TURNED
    return Pose(aligned, _symmetries(greys), likeness, turned)


def _without_trend(image: Grey) -> Grey:
    """Less its best quadratic surface, in its own standard deviations."""
    y, x = np.meshgrid(np.linspace(-1, 1, image.shape[0]), np.linspace(-1, 1, image.shape[1]), indexing="ij")
    surface = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    flat = image.reshape(-1)
    rest = flat - surface @ np.linalg.lstsq(surface, flat, rcond=None)[0]
    return np.asarray((rest / max(float(rest.std()), 1e-6)).reshape(image.shape))


def _likenesses(greys: Sequence[Grey]) -> tuple[float, float]:
    small = np.stack([image.reshape(LOW_PX, 2, LOW_PX, 2).mean((1, 3)) for image in greys])  # (N, 32, 32)
    inner = slice(MARGIN, LOW_PX - MARGIN)
    same, turned = [], []
    for number, image in enumerate(small):
        others = np.delete(small, number, axis=0).mean(axis=0)
        own = image[inner, inner]
        same.append(_correlation(own, others[inner, inner]))
        turns = (rotate(others, angle, reshape=False, order=1)[inner, inner] for angle in (45, 135))
        turned.append(max(_correlation(own, turn) for turn in turns))
    return float(np.median(same)), float(np.median(turned))


def _correlation(one: Grey, other: Grey) -> float:
    first, second = one - one.mean(), other - other.mean()
    length = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return float((first * second).sum()) / length if length > 0 else 0.0


def _symmetries(greys: Sequence[Grey]) -> Symmetries:
    own = np.stack([_directions(image) for image in greys])  # (N, 2 * 16)
    means = (own.sum(axis=0) - own) / (len(own) - 1)  # of the others
    near = AS_NEAR * float(np.median(np.linalg.norm(own - means, axis=1)))

    def as_near(change: str) -> bool:
        moved = np.stack([_directions(_changed(image, change)) for image in greys])
        return float(np.median(np.linalg.norm(moved - means, axis=1))) <= near

    if not all(as_near(change) for change in ("mirror", "upside down", "half")):
        return "none"
    return "square" if all(as_near(change) for change in ("quarter", "three quarters")) else "flips"


def _changed(image: Grey, change: str) -> Grey:
    if change in ("mirror", "upside down"):
        return image[:, ::-1] if change == "mirror" else image[::-1]
    return np.rot90(image, {"quarter": 1, "half": 2, "three quarters": 3}[change])


def _directions(image: Grey) -> NDArray[np.float64]:
    """Square roots of the shares of edges in 16 directions, from dark to bright, at two scales; [32]."""
    found = []
    for sigma in (1.0, 3.0):
        down, right = np.gradient(gaussian_filter(image, sigma))
        angle = np.mod(np.arctan2(down, right), 2 * np.pi) * (
            DIRECTIONS / (2 * np.pi)
        )  # 0 .. 16, bins centred on the axes
        bins = np.mod(np.rint(angle).astype(int), DIRECTIONS)
        counts = np.bincount(bins.ravel(), weights=np.hypot(down, right).ravel(), minlength=DIRECTIONS)
        found.append(np.sqrt(counts / max(float(counts.sum()), 1e-12)))
    return np.concatenate(found)
