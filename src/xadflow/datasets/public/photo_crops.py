"""Crops of real photographs and game textures: what an outlier may look like (outlier exposure, Hendrycks et al.,
2019).

Each picture gives equally many crops; their side is drawn log-uniformly between the crop's own size and the picture's
shorter side, so that whole things and their details are both seen. Flat crops are drawn again.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from xadflow.datasets.public.raw_files import read_files
from xadflow.datasets.public.sets import SETS
from xadflow.errors import BadInput
from xadflow.settings import Home

PHOTO_SETS = tuple(name for name, known in SETS.items() if not known.classes)
MOST_SIDE_PX = 1600  # a larger picture is halved and halved again first: its finest details are lost in a crop anyway
LEAST_SIDE_PX = 64
LEAST_SPREAD = 8.0  # standard deviation of grey values, of 255
_TRIES = 6
_FORMATS = ("PNG", "JPEG", "TGA")  # TGA is in checked archives only
_ARCHIVE, _IMAGES = ".pk3", (".jpg", ".png", ".tga")


@dataclass(frozen=True)
class Photo:
    """One picture: `name` is set/file, `pixels` uint8 [H,W,3], transparency over black."""

    name: str
    pixels: NDArray[np.uint8]


def photos(home: Home, sets: Sequence[str]) -> Iterator[Photo]:
    """The pictures of these public sets, largest side at most 1600 px, in order of name within a set.

    Those with a side below 64 px are left out. Raises DataUnavailable when a set was not fetched.
    """
    for name in sets:
        for file, content in read_files(home, name):
            for inner, data in _unpacked(file, content):
                picture = _decoded(data)
                if min(picture.size) >= LEAST_SIDE_PX:
                    yield Photo(f"{name}/{inner}", np.asarray(picture, dtype=np.uint8))


def crops(photo: Photo, count: int, side_px: int, seed: int) -> NDArray[np.uint8]:
    """At most `count` square crops uint8 [N,side,side,3] of one picture; fewer where most of it is flat.

    They depend on the picture's name, the seed and nothing else. Raises BadInput for a side over 64 px.
    """
    if not 1 <= side_px <= LEAST_SIDE_PX:
        raise BadInput("crops of photographs are 1 to 64 px", seen=side_px, next_step="choose a smaller side")
    rng = np.random.default_rng([seed, *photo.name.encode()])
    picture = Image.fromarray(photo.pixels)
    width, height = picture.size
    found: list[NDArray[np.uint8]] = []
    for _ in range(count * _TRIES):
        if len(found) == count:
            break
        side = int(math.exp(rng.uniform(math.log(side_px), math.log(min(width, height)))))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        box = (left, top, left + side, top + side)
        crop = picture.resize(
            (side_px, side_px), Image.Resampling.BILINEAR, box=box
        )  # Pillow's bilinear is antialiased
        if np.asarray(crop.convert("L"), dtype=np.float64).std() >= LEAST_SPREAD:
            found.append(np.asarray(crop, dtype=np.uint8))
    return np.stack(found) if found else np.zeros((0, side_px, side_px, 3), np.uint8)


def _unpacked(file: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The images in a raw file: itself, or those of a checked archive in order of name."""
    if not file.endswith(_ARCHIVE):
        yield file, content
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith(_IMAGES):
                yield name, archive.read(name)


def _decoded(content: bytes) -> Image.Image:
    """RGB over black, at most 1600 px; an empty picture for what Pillow cannot read (some textures are cut short)."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            picture = opened.convert("RGBA") if opened.mode in ("P", "LA", "RGBA") else opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return Image.new("RGB", (0, 0))
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")
    if max(picture.size) > MOST_SIDE_PX:
        picture = picture.reduce(math.ceil(max(picture.size) / MOST_SIDE_PX))
    return picture
