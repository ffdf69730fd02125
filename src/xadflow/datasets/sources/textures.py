"""Real brick, grass and gravel (512x512 grey, bundled with scikit-image, CC0) with GENERATED defects and exact masks.

Normals are crops; train, val and test come from bands of the picture that lie further apart than a crop is wide, so no
pixel is shared between them (crops within one band may overlap). Four kinds of defect are drawn on test crops only, by
the code below, which shares nothing with the synthetic anomalies of training. Outside its mask a defective crop is its
normal crop, byte for byte.

Every operation on pixels is integer or IEEE-exact (+ - * / sqrt) and the PNGs are stored uncompressed, so that the
files are the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.errors import BadSettings, DataUnavailable
from xadflow.images import decode_image, read_file, stored_png

PACKAGE = "scikit-image"
LICENCE = "CC0 (texture); defects are generated"
TEXTURES = ("brick", "grass", "gravel")

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Band(NamedTuple):
    """Part of a texture: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, picture: Pixels) -> Pixels:
        """The pixels of this band."""
        return picture[self.top : self.bottom, self.left : self.right]


# Gaps of 100 rows and 100 columns: a crop of at most 99 px lies in one band only and touches no other.
BANDS = {Split.TRAIN: Band(0, 256, 0, 280), Split.VAL: Band(0, 256, 380, 512), Split.TEST: Band(356, 512, 0, 512)}
MAX_CROP_PX = 99


class Rung(NamedTuple):
    """How hard the defects are to see: their contrast and their size, in per cent of what the kinds say below."""

    contrast: int
    size: int


# Fixed before any detector was run on the two lower rungs.
LADDER = {"easy": Rung(100, 100), "middle": Rung(60, 75), "hard": Rung(35, 50)}


class TexturesOptions(Options):
    """How many crops of which texture; `defects_per_kind` for each of the four kinds, on one rung of the ladder.

    `known` defective crops of the train band, the kinds in turn, are labelled defects that training may use.
    """

    texture: Literal["brick", "grass", "gravel"]
    rung: Literal["easy", "middle", "hard"] = "easy"
    known: int = Field(default=0, ge=0)
    crop_px: int = Field(default=96, ge=32, le=MAX_CROP_PX)
    train: int = Field(default=160, ge=1)
    val: int = Field(default=40, ge=1)
    test: int = Field(default=60, ge=1)
    defects_per_kind: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0)


class Textures:
    """One texture as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = read_options(TexturesOptions, name, options)

    def raw_sets(self) -> tuple[str, ...]:
        """None."""
        return ()

    def origin(self) -> str:
        """`scikit-image==<version>` and the texture. Raises DataUnavailable when the package is missing."""
        try:
            return f"{PACKAGE}=={version(PACKAGE)} {self._options.texture}, crops; defects are generated"
        except PackageNotFoundError as err:
            raise DataUnavailable(
                "the textures are not installed", seen=f"no package {PACKAGE}", next_step=f"pip install {PACKAGE}"
            ) from err

    @cached_property
    def _stated_source(self) -> str:
        return self.origin()

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Train, val and test normals, then the defective crops of each kind with their masks."""
        chosen = self._options
        picture = texture_picture(chosen.texture)
        others = [texture_picture(name) for name in TEXTURES if name != chosen.texture]
        rng = np.random.default_rng([chosen.seed, TEXTURES.index(chosen.texture)])
        for split, count in ((Split.TRAIN, chosen.train), (Split.VAL, chosen.val)):
            for number, crop in enumerate(_crops(rng, BANDS[split].of(picture), count, chosen.crop_px, self._name)):
                yield self._normal(split, number, crop)
        defects = chosen.defects_per_kind * len(DEFECTS)
        band = BANDS[Split.TEST].of(picture)
        crops = _crops(rng, band, chosen.test + defects, chosen.crop_px, self._name)
        for number in range(chosen.test):
            yield self._normal(Split.TEST, number, next(crops))
        rung = LADDER[chosen.rung]
        for kind, draw in DEFECTS.items():
            for number in range(chosen.defects_per_kind):
                image, mask = draw(rng, next(crops), others, rung)
                yield self._defective(Split.TEST, kind, number, image, mask)
        rng = np.random.default_rng([chosen.seed, TEXTURES.index(chosen.texture), 1])  # `known` moves nothing else
        for number, crop in enumerate(
            _crops(rng, BANDS[Split.TRAIN].of(picture), chosen.known, chosen.crop_px, self._name)
        ):
            kind = list(DEFECTS)[number % len(DEFECTS)]
            image, mask = DEFECTS[kind](rng, crop, others, rung)
            yield self._defective(Split.KNOWN, kind, number, image, mask)

    def _normal(self, split: Split, number: int, crop: Pixels) -> Candidate:
        target = f"{split}/good/{number:03d}.png"
        return Candidate(
            origin=target,
            target=target,
            content=stored_png(crop),
            split=split,
            label=0,
            category=self._options.texture,
            defect=None,
            source=self._stated_source,
            licence=LICENCE,
        )

    def _defective(self, split: Split, kind: str, number: int, image: Pixels, mask: Mask) -> Candidate:
        target = f"{split}/{kind}/{number:03d}.png"
        below = "ground_truth" if split == Split.TEST else f"ground_truth_{split}"
        return Candidate(
            origin=target,
            target=target,
            content=stored_png(image),
            split=split,
            label=1,
            category=self._options.texture,
            defect=kind,
            source=self._stated_source,
            licence=LICENCE,
            mask=stored_png(np.where(mask, np.uint8(255), np.uint8(0))),
            mask_target=f"{below}/{kind}/{number:03d}_mask.png",
        )


def texture_picture(name: str) -> Pixels:
    """The packaged picture, found without importing scikit-image."""
    spec = find_spec("skimage")
    path = Path(spec.origin).parent / "data" / f"{name}.png" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataUnavailable(
            "the textures are not installed", seen=f"no {name}.png of {PACKAGE}", next_step=f"pip install {PACKAGE}"
        )
    return decode_image(read_file(path))


def _crops(rng: np.random.Generator, band: Pixels, count: int, size: int, name: str) -> Iterator[Pixels]:
    """`count` crops of a band at different places."""
    rows, columns = band.shape[0] - size + 1, band.shape[1] - size + 1
    if count > rows * columns:
        raise BadSettings(
            f"datasets.{name}.options asks for more crops than one band has places",
            seen=count,
            next_step=f"ask for at most {rows * columns}",
        )
    for place in rng.choice(rows * columns, count, replace=False):
        top, left = divmod(int(place), columns)
        yield band[top : top + size, left : left + size]


def _scratch(rng: np.random.Generator, crop: Pixels, others: list[Pixels], rung: Rung) -> tuple[Pixels, Mask]:
    """A bent line, 1.5 to 4 px wide, evenly darker or brighter by 35 to 80 grey levels."""
    size = crop.shape[0]
    point = rng.integers(size // 5, 4 * size // 5, 2).astype(np.float64)
    heading = rng.integers(-100, 101, 2).astype(np.float64)
    half_width = float(rng.integers(75, 200)) / 100.0 * (rung.size / 100.0)
    mask = np.zeros(crop.shape, dtype=np.bool_)
    for _ in range(int(rng.integers(2, 5))):
        heading = heading + rng.integers(-45, 46, 2)
        length = float(np.sqrt(heading[0] * heading[0] + heading[1] * heading[1])) + 1e-9
        end = np.clip(point + heading / length * float(rng.integers(size // 8, size // 3)), 2.0, size - 3.0)
        mask |= _near_segment(crop.shape, point, end, half_width)
        point = end
    return _shifted(rng, crop, np.where(mask, int(rng.integers(35, 81)) * rung.contrast // 100, 0))


def _blob(rng: np.random.Generator, crop: Pixels, others: list[Pixels], rung: Rung) -> tuple[Pixels, Mask]:
    """A stain with a soft edge, darker or brighter by 40 to 90 grey levels in its middle."""
    inside = 1.0 - _ellipse(rng, crop.shape, crop.shape[0] // 12, crop.shape[0] // 5, rung)
    depth = float(rng.integers(40, 91) * rung.contrast // 100)
    return _shifted(rng, crop, np.floor(np.clip(inside * 2.0, 0.0, 1.0) * depth).astype(np.int64))


def _foreign(rng: np.random.Generator, crop: Pixels, others: list[Pixels], rung: Rung) -> tuple[Pixels, Mask]:
    """A patch of another texture at the brightness of the place it covers, blended at 70 to 100 per cent."""
    size = crop.shape[0]
    picture = others[int(rng.integers(len(others)))]
    top, left = (int(rng.integers(0, extent - size + 1)) for extent in picture.shape)
    patch = picture[top : top + size, left : left + size].astype(np.int64)
    mask = _ellipse(rng, crop.shape, size // 10, size // 4, rung) < 1.0
    below = crop.astype(np.int64)
    level = (int(below[mask].sum()) - int(patch[mask].sum())) // int(mask.sum())
    percent = int(rng.integers(70, 101)) * rung.contrast // 100
    blended = (percent * (patch + level) + (100 - percent) * below) // 100
    return np.where(mask, np.clip(blended, 0, 255), below).astype(np.uint8), mask


def _cut_paste(rng: np.random.Generator, crop: Pixels, others: list[Pixels], rung: Rung) -> tuple[Pixels, Mask]:
    """A square of the same crop, turned by 90 degrees, 15 to 30 per cent darker or brighter, put elsewhere."""
    size = crop.shape[0]
    side = int(rng.integers(size // 8, size // 3)) * rung.size // 100
    (top, left), (to_top, to_left) = rng.integers(0, size - side + 1, (2, 2))
    gain = 100 + int(rng.integers(15, 31)) * rung.contrast // 100 * int(rng.choice([-1, 1]))
    patch = np.rot90(crop[top : top + side, left : left + side].astype(np.int64)) * gain // 100
    mask = np.zeros(crop.shape, dtype=np.bool_)
    mask[to_top : to_top + side, to_left : to_left + side] = True
    image = crop.copy()
    image[mask] = np.clip(patch, 0, 255).astype(np.uint8).ravel()
    return image, mask


DEFECTS: Mapping[str, Callable[[np.random.Generator, Pixels, list[Pixels], Rung], tuple[Pixels, Mask]]] = {
    "generated-scratch": _scratch,
    "generated-blob": _blob,
    "generated-foreign": _foreign,
    "generated-cut-paste": _cut_paste,
}


def _shifted(rng: np.random.Generator, crop: Pixels, depth: NDArray[np.int64]) -> tuple[Pixels, Mask]:
    """The crop made darker or brighter by `depth`; towards the side with more room where it would mostly clip."""
    mask = depth > 0
    level = int(crop[mask].sum()) // int(mask.sum())
    sign = 1 if level < 80 else -1 if level > 175 else int(rng.choice([-1, 1]))
    return np.clip(crop.astype(np.int64) + sign * depth, 0, 255).astype(np.uint8), mask


def _ellipse(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, rung: Rung) -> NDArray[np.float64]:
    """Quadratic form of a turned ellipse with half axes in [low, high) for size 100: below 1 inside, centre off the
    edge.
    """
    rows, columns = np.indices(shape).astype(np.float64)
    y, x = (float(rng.integers(extent // 6, 5 * extent // 6)) for extent in shape)
    a, b = (float(value) * (rung.size / 100.0) for value in rng.integers(low, high, 2))
    u, v = (float(value) for value in rng.integers(1, 101, 2))
    norm = float(np.sqrt(u * u + v * v))
    along = ((columns - x) * u + (rows - y) * v) / norm
    across = ((rows - y) * u - (columns - x) * v) / norm
    return np.asarray((along / a) * (along / a) + (across / b) * (across / b), dtype=np.float64)


def _near_segment(
    shape: tuple[int, ...], start: NDArray[np.float64], end: NDArray[np.float64], distance: float
) -> Mask:
    """Pixels within `distance` of the line from `start` to `end`, both (row, column)."""
    rows, columns = np.indices(shape).astype(np.float64)
    dy, dx = float(end[0] - start[0]), float(end[1] - start[1])
    squared = dy * dy + dx * dx + 1e-12
    along = np.clip(((rows - start[0]) * dy + (columns - start[1]) * dx) / squared, 0.0, 1.0)
    off_y, off_x = rows - start[0] - along * dy, columns - start[1] - along * dx
    return np.asarray(off_y * off_y + off_x * off_x <= distance * distance, dtype=np.bool_)
