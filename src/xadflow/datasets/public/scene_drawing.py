"""Scenes made of real textures and real objects, with a class for each pixel: what the data set `mosaic` is drawn by.

A scene is a Voronoi pattern of textures with objects on it. Every texture cell and every object is given a mean and a
spread of its own, drawn alike for all kinds, so that neither brightness nor contrast tells one from another; a little
noise lies over the whole. What is drawn is integer or IEEE-exact (+ - * / sqrt) or Pillow's fixed-point resampling, so
that the pixels are the same on every machine with the locked packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xadflow.images import VOID

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

REFERENCE_PX = 128  # sizes of objects are stated for a scene of this side and grow with it
OBJECT_PX, PATCH_PX = (36, 66), (24, 57)
SEEDS, SCALE_PERCENT = (4, 8), (80, 126)
MEAN, SPREAD = (77, 179), (26, 57)  # of each part, in grey levels: .3 to .7 and .1 to .22 of the range
SILHOUETTE_ABOVE = 31  # grey level of an object's picture: .12 of the range
LEAST_SPREAD = 4.0
NOISE, NOISE_DRAWS = 5, 3  # the sum of so many draws of -NOISE to NOISE: a spread of 5.5 grey levels, .02 of the range


class Scene(NamedTuple):
    """Pixels and class ids uint8 [H,W] of one side, VOID where the anomaly is; `mask` [H,W] of the anomaly."""

    pixels: Pixels
    labels: Pixels
    mask: Mask


class Thing(NamedTuple):
    """A picture uint8 [h,w] and the part of it [h,w] that is the thing."""

    pixels: Pixels
    shape: Mask


def ground(rng: np.random.Generator, textures: Sequence[Pixels], side: int) -> tuple[NDArray[np.float64], Pixels]:
    """Voronoi cells of textures [side,side], and which texture is where; cells are cropped, rescaled and toned each."""
    count = int(rng.integers(*SEEDS))
    points = rng.integers(0, side, (count, 2))
    rows, columns = np.indices((side, side))
    nearest = ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).argmin(axis=2)
    of_cell = rng.integers(0, len(textures), count)
    pixels, labels = np.zeros((side, side)), np.zeros((side, side), dtype=np.uint8)
    for cell in range(count):
        here = nearest == cell
        if here.any():
            crop = _crop(rng, textures[of_cell[cell]], side, side)
            pixels[here] = toned(rng, crop[here])
            labels[here] = of_cell[cell]
    return pixels, labels


def object_of(rng: np.random.Generator, picture: Pixels, side: int) -> Thing:
    """A small picture of an object on black, enlarged as an object of a scene; its shape is what is not black."""
    size = _size(rng, OBJECT_PX, side)
    large = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
    return Thing(large, large > SILHOUETTE_ABOVE)


def patch_of(rng: np.random.Generator, picture: Pixels, silhouette: Pixels, side: int) -> Thing:
    """Part of a picture through a rectangle, a polygon or the silhouette of an object."""
    height, width = (_size(rng, PATCH_PX, side) for _ in range(2))
    kind = int(rng.integers(3))
    if kind == 0:
        shape = np.ones((height, width), dtype=np.bool_)
    elif kind == 1:
        shape = _polygon(rng, height, width)
    else:
        shape = object_of(rng, silhouette, side).shape
        height, width = shape.shape
    return Thing(_crop(rng, picture, height, width), shape)


def put(rng: np.random.Generator, onto: NDArray[np.float64], thing: Thing) -> Mask:
    """Draw a thing somewhere on `onto` [side,side], in place, in a tone of its own; returns where it is.

    At least half of it is in the scene. Were all of it, the middle of a scene would hold most things, and the place of
    a pixel would say what it is.
    """
    (height, width), side = thing.shape.shape, len(onto)
    while True:
        top, left = (int(rng.integers(1 - extent, side)) for extent in (height, width))
        rows, columns = slice(max(0, -top), min(height, side - top)), slice(max(0, -left), min(width, side - left))
        seen = thing.shape[rows, columns]
        if 2 * np.count_nonzero(seen) >= np.count_nonzero(thing.shape):
            break
    where = np.zeros(onto.shape, dtype=np.bool_)
    where[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] = seen
    onto[where] = toned(rng, thing.pixels[rows, columns][seen])
    return where


def toned(rng: np.random.Generator, values: Pixels) -> NDArray[np.float64]:
    """Grey values [N] with another mean and spread, both drawn; the sums are exact, whatever the order of addition."""
    count = len(values)
    total = int(values.sum(dtype=np.int64))
    squares = int((values.astype(np.int64) ** 2).sum())
    mean = total / count
    spread = float(np.sqrt(max(squares / count - mean * mean, 0.0)))
    wanted, wide = float(rng.integers(*MEAN)), float(rng.integers(*SPREAD))
    drawn: NDArray[np.float64] = (values.astype(np.float64) - mean) * (wide / max(spread, LEAST_SPREAD)) + wanted
    return drawn


def developed(rng: np.random.Generator, drawn: NDArray[np.float64]) -> Pixels:
    """What a camera would give: noise over everything, clipped to uint8."""
    noise = rng.integers(-NOISE, NOISE + 1, (NOISE_DRAWS, *drawn.shape)).sum(axis=0)
    return np.asarray(np.clip(np.floor(drawn) + noise, 0, 255), dtype=np.uint8)


def scene(
    rng: np.random.Generator,
    side: int,
    textures: Sequence[Pixels],
    objects: Sequence[tuple[Pixels, int]],
    anomalies: Sequence[Thing] = (),
) -> Scene:
    """One scene: textures are ids 0 up, `objects` are pictures with their ids; anomalies lie on top of all."""
    drawn, labels = ground(rng, textures, side)
    for picture, of_class in objects:
        labels[put(rng, drawn, object_of(rng, picture, side))] = of_class
    mask = np.zeros((side, side), dtype=np.bool_)
    for thing in anomalies:
        mask |= put(rng, drawn, thing)
    labels[mask] = VOID
    return Scene(developed(rng, drawn), labels, mask)


def _size(rng: np.random.Generator, between: tuple[int, int], side: int) -> int:
    return int(rng.integers(*between)) * side // REFERENCE_PX


def _crop(rng: np.random.Generator, texture: Pixels, high: int, wide: int) -> Pixels:
    """Part of a picture at another scale; where the picture is too small it goes on in its mirror image.

    Known textures and unknown things are resampled alike: an unknown one is not told by being sharper.
    """
    percent = int(rng.integers(*SCALE_PERCENT))
    height, width = (extent * percent // 100 for extent in texture.shape)
    scaled = np.asarray(Image.fromarray(texture).resize((width, height), Image.Resampling.BILINEAR))
    return _part(rng, scaled, high, wide)


def _part(rng: np.random.Generator, picture: Pixels, height: int, width: int) -> Pixels:
    rows, columns = (
        _mirrored(int(rng.integers(0, max(extent - wanted, 0) + 1)), wanted, extent)
        for wanted, extent in zip((height, width), picture.shape, strict=True)
    )
    part: Pixels = picture[np.ix_(rows, columns)]
    return part


def _mirrored(start: int, count: int, extent: int) -> NDArray[np.int64]:
    """Indices start, start + 1, ..., turned back at the ends of 0 to extent - 1."""
    steps = (start + np.arange(count)) % (2 * extent)
    return np.where(steps < extent, steps, 2 * extent - 1 - steps)


def _polygon(rng: np.random.Generator, height: int, width: int) -> Mask:
    """A convex polygon: what is left of a box by four to seven half-planes that all keep its middle."""
    rows, columns = (
        2 * axis - (extent - 1) for axis, extent in zip(np.indices((height, width)), (height, width), strict=True)
    )
    shape = np.ones((height, width), dtype=np.bool_)
    for _ in range(int(rng.integers(4, 8))):
        a, b = (int(value) for value in rng.integers(-100, 101, 2))
        reach = abs(a) * height + abs(b) * width  # where a half-plane through a corner of the box ends
        shape &= a * rows + b * columns <= reach * int(rng.integers(40, 101)) // 100
    return shape
