"""Scenes GENERATED from real textures and real objects, with a class for each pixel and unknown things in some of them.

It stands in for road scenes where none can be had, and is named after what it is; no figure on it compares with one on
StreetHazards. Known: brick, grass and gravel (scikit-image, CC0) and t-shirts, trousers and ankle boots (Fashion-MNIST,
MIT). Unknown: bags and sandals, and parts of game textures (OpenArena, GPL-2+) and photographs (opencv-doc). Train, val
and test take disjoint parts of each texture and disjoint objects. The two *towns* of the test hold unknown things of
disjoint pools, so that a threshold can be fitted on one and used on the other; the unknown things of split `known`, for
choosing settings, are of a third pool and of other garments. Game textures are parted by folder: the even ones are the
negatives of training (`part: negatives`, a data set of its own to be named under `outliers`), the odd ones are in turn
for the towns and for `known`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.photo_crops import photos
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.scene_drawing import Scene, Thing, developed, object_of, patch_of, scene, toned
from xadflow.datasets.public.sets import RawImages, public_set
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.datasets.sources.textures import LICENCE as TEXTURE_LICENCE
from xadflow.datasets.sources.textures import TEXTURES, Textures, texture_picture
from xadflow.digests import sha256_json
from xadflow.images import stored_png
from xadflow.settings import Home

CLOTHES, GAME, PHOTOS = "fashion-mnist", "openarena-textures", "opencv-photos"
SETS = (CLOTHES, GAME, PHOTOS)
OBJECTS = ("t-shirt", "trouser", "ankle-boot")
CLASSES = (*TEXTURES, *OBJECTS)
UNKNOWN, UNKNOWN_OF_KNOWN, SILHOUETTES = ("bag", "sandal"), ("dress", "sneaker"), "pullover"
FAMILIES = ("unknown-garment", "unknown-texture", "unknown-photo")
TOWNS = ("town-1", "town-2")
PARTS = (*TOWNS, "known")
LICENCE = f"{TEXTURE_LICENCE.partition(';')[0]}; MIT (garments); GPL-2+, Apache-2.0 (unknown things); generated"
OBJECTS_OF_A_SCENE = (2, 5)
LEAST_GAME_PX, LEAST_CONTRAST = (
    128,
    8.0,
)  # shorter side, and standard deviation of grey values, of a picture that is used
GAME_PX, PHOTO_PX = 128, 64  # patches are taken of pictures reduced to a shorter side of once to twice that
_FIRST_WORD = re.compile(r"[A-Za-z]?[a-z]+|.+")
VAL_OBJECTS = 500  # of each class, the last of the published train images
# Rows and columns of a 512 x 512 texture.
BANDS = {Split.TRAIN: np.s_[:, :256], Split.VAL: np.s_[:256, 256:], Split.TEST: np.s_[256:, 256:]}

Pixels = NDArray[np.uint8]


class MosaicOptions(Options):
    """How many scenes of which side; `part: negatives` gives the pictures of the negatives instead.

    `test` and `known` count scenes; `anomalous_percent` of the test ones, and every known one, hold one or two unknown
    things.
    """

    part: Literal["scenes", "negatives"] = "scenes"
    side_px: int = Field(default=128, ge=128, le=1024)
    train: int = Field(default=1500, ge=1)
    val: int = Field(default=150, ge=1)
    test: int = Field(default=320, ge=2)
    known: int = Field(default=80, ge=0)
    anomalous_percent: int = Field(default=70, ge=1, le=100)
    seed: int = Field(default=0, ge=0)


class Pool(NamedTuple):
    """What the unknown things of a town may be."""

    garments: Sequence[Pixels]
    textures: Sequence[Pixels]
    photographs: Sequence[Pixels]


class Stock(NamedTuple):
    """What the scenes of one split are drawn from, textures and objects in the order of their classes."""

    textures: Sequence[Pixels]
    objects: Sequence[Sequence[Pixels]]
    silhouettes: Sequence[Pixels]


class Mosaic:
    """Scenes, or their negatives, as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._options = read_options(MosaicOptions, name, options)

    def raw_sets(self) -> tuple[str, ...]:
        """Clothes, game textures and photographs; the negatives need game textures alone."""
        return SETS if self._options.part == "scenes" else (GAME,)

    def origin(self) -> str:
        """What it is drawn from, with the digest of the files' digests."""
        digests = {name: dict(public_set(name).digests) for name in self.raw_sets()}
        drawn = f"generated from {', '.join(self.raw_sets())}, files sha256 {sha256_json(digests)[:16]}"
        return f"{drawn}; {Textures('mosaic', {'texture': 'brick'}).origin().partition(' ')[0]}"

    @cached_property
    def _stated(self) -> str:
        return self.origin()

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Scenes split by split, each drawn from a generator of its own; or the negatives, picture by picture."""
        if self._options.part == "negatives":
            yield from self._negatives()
            return
        chosen, home = self._options, Home.find()
        raw = read_raw(home, CLOTHES)
        for split, count in ((Split.TRAIN, chosen.train), (Split.VAL, chosen.val)):
            stock = _stock(raw, split)
            for number in range(count):
                yield self._scene(split, number, stock, None)
        *towns, other = (_pool(home, raw, of) for of in PARTS)
        stock = _stock(raw, Split.TEST)
        for number in range(chosen.test):
            town = number % len(TOWNS)
            anomalous = (
                number // len(TOWNS) * chosen.anomalous_percent % 100 < chosen.anomalous_percent
            )  # as many in each town
            yield self._scene(Split.TEST, number, stock, towns[town] if anomalous else None, TOWNS[town])
        stock = _stock(raw, Split.VAL)
        for number in range(chosen.known):
            yield self._scene(Split.KNOWN, number, stock, other, "known")

    def _scene(self, split: Split, number: int, stock: Stock, pool: Pool | None, category: str = "scenes") -> Candidate:
        rng = np.random.default_rng([self._options.seed, list(Split).index(split), number])
        side, placed = self._options.side_px, []
        for _ in range(int(rng.integers(*OBJECTS_OF_A_SCENE))):
            kind = int(rng.integers(len(OBJECTS)))
            placed.append((_any(rng, stock.objects[kind]), len(TEXTURES) + kind))
        unknown = [_unknown(rng, pool, stock.silhouettes, side) for _ in range(int(rng.integers(1, 3)))] if pool else []
        drawn = scene(rng, side, stock.textures, placed, [thing for _, thing in unknown])
        return self._candidate(split, number, drawn, category, sorted({family for family, _ in unknown}))

    def _candidate(self, split: Split, number: int, drawn: Scene, category: str, families: Sequence[str]) -> Candidate:
        target = f"{split}/{category}/{number:05d}.png"
        anomalous = bool(families)
        return Candidate(
            origin=target,
            target=target,
            content=stored_png(drawn.pixels),
            split=split,
            label=int(anomalous),
            category=category,
            defect="+".join(families) if anomalous else None,
            source=self._stated,
            licence=LICENCE,
            mask=stored_png(np.where(drawn.mask, np.uint8(255), np.uint8(0))) if anomalous else None,
            mask_target=f"masks/{target}" if anomalous else None,
            labels=stored_png(drawn.labels),
            labels_target=f"labels/{target}",
            classes=len(CLASSES),
        )

    def _negatives(self) -> Iterator[Candidate]:
        side = self._options.side_px
        for number, (name, picture) in enumerate(game_textures(Home.find(), "negatives")):
            rng = np.random.default_rng([self._options.seed, len(Split), number])
            square = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))
            pixels = developed(rng, toned(rng, square.ravel()).reshape(side, side))
            split = Split.TEST if number % 10 == 9 else Split.TRAIN
            target = f"{split}/{GAME}/{number:05d}.png"
            yield Candidate(
                origin=name,
                target=target,
                content=stored_png(pixels),
                split=split,
                label=0,
                category=GAME,
                defect=None,
                source=name,
                licence=public_set(GAME).licence,
            )


def _unknown(rng: np.random.Generator, pool: Pool, silhouettes: Sequence[Pixels], side: int) -> tuple[str, Thing]:
    family = int(rng.integers(len(FAMILIES)))
    if family == 0:
        return FAMILIES[0], object_of(rng, _any(rng, pool.garments), side)
    picture = _any(rng, (pool.textures, pool.photographs)[family - 1])
    return FAMILIES[family], patch_of(rng, picture, _any(rng, silhouettes), side)


def _any(rng: np.random.Generator, pictures: Sequence[Pixels]) -> Pixels:
    return pictures[int(rng.integers(len(pictures)))]


def _stock(raw: RawImages, split: Split) -> Stock:
    textures = [texture_picture(name)[BANDS[split]] for name in TEXTURES]
    return Stock(textures, [_garments(raw, name, split) for name in OBJECTS], _garments(raw, SILHOUETTES, split))


def _garments(raw: RawImages, name: str, split: Split) -> list[Pixels]:
    """Pictures of one class: published test images, or the train images less the last ones, or those."""
    of_class = public_set(CLOTHES).classes.index(name)
    if split == Split.TEST:
        return list(raw.test[raw.test_labels == of_class])
    found = list(raw.train[raw.train_labels == of_class])
    return found[:-VAL_OBJECTS] if split == Split.TRAIN else found[-VAL_OBJECTS:]


def _pool(home: Home, raw: RawImages, part: str) -> Pool:
    """Unknown things of one town, or of split `known`: no picture is in two pools."""
    number = PARTS.index(part)
    if part in TOWNS:
        garments = [picture for name in UNKNOWN for picture in _garments(raw, name, Split.TEST)][number :: len(TOWNS)]
    else:
        garments = [picture for name in UNKNOWN_OF_KNOWN for picture in _garments(raw, name, Split.VAL)]
    return Pool(
        garments, [_smaller(picture, GAME_PX) for _, picture in game_textures(home, part)], _photographs(home, number)
    )


def _photographs(home: Home, number: int) -> list[Pixels]:
    """Photographs of one pool, one of each thing: names that begin with the same word show the same one (left01,
    leuvenA).
    """
    first: dict[str, Pixels] = {}
    for photo in photos(home, (PHOTOS,)):
        word = _FIRST_WORD.findall(photo.name.rpartition("/")[2])[0].replace("right", "left")  # two cameras, one scene
        grey = _grey(photo.pixels)
        if _has_contrast(grey):
            first.setdefault(word, _smaller(grey, PHOTO_PX))
    return list(first.values())[number :: len(PARTS)]


def _smaller(picture: Pixels, least: int) -> Pixels:
    """A whole fraction of a picture's size that leaves its shorter side at `least` px or more: a patch shows a thing
    then.
    """
    return np.asarray(Image.fromarray(picture).reduce(max(1, min(picture.shape) // least)))


def game_textures(home: Home, part: str) -> list[tuple[str, Pixels]]:
    """Names and grey pixels of some folders' game textures: even ones are `negatives`, odd ones in turn for PARTS."""
    found = [
        (photo.name, photo.pixels) for photo in photos(home, (GAME,)) if min(photo.pixels.shape[:2]) >= LEAST_GAME_PX
    ]
    folders = sorted({name.rpartition("/")[0] for name, _ in found})
    taken = set(folders[::2] if part == "negatives" else folders[1::2][PARTS.index(part) :: len(PARTS)])
    first: dict[bytes, str] = {}  # some are in two folders, which may be two parties'
    grey = [(name, _grey(pixels)) for name, pixels in found]
    own = [(name, pixels) for name, pixels in grey if first.setdefault(pixels.tobytes(), name) == name]
    return [(name, pixels) for name, pixels in own if name.rpartition("/")[0] in taken and _has_contrast(pixels)]


def _has_contrast(grey: Pixels) -> bool:
    return bool(grey.std() >= LEAST_CONTRAST)


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L"))
