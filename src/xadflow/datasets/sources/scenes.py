"""Published sets of road scenes as they lie on disk once unpacked: images, and beside each a map of class ids.

| layout | images | maps of ids |
| --- | --- | --- |
| `cityscapes` | leftImg8bit/{train,val}/CITY/*_leftImg8bit.png | gtFine/{train,val}/CITY/*_gtFine_labelIds.png |
| `streethazards` | train/images/{training,validation}/TOWN/*.png, test/images/test/TOWN/*.png | the same below
annotations/ |
| `segmentmeifyoucan` | images/*.jpg (or .webp, .png) | labels_masks/*_labels_semantic.png |
| `fishyscapes` | leftImg8bit/{train,test}/PLACE/*_leftImg8bit.png of Lost & Found | NNNN_*_labels.png, anywhere |

Ids become those of the classes below, an anomaly's pixels its mask, and what is to be ignored VOID; in the last two
sets all that is normal is one class. Cityscapes' val is for test (its test scenes come without labels), StreetHazards'
validation for val; a scene's category is its city, town or place. Files of other names are no part of a layout and are
left alone, and so are the images of Lost & Found that Fishyscapes does not label. None of these sets could be fetched
where this was written: the reader has seen small trees of the same form only.

Sources of names and ids: cityscapesScripts (labels.py); hendrycks/anomaly-seg; road-anomaly-benchmark; bdl-benchmark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.datasets.sources.folder import state_of, walk_files
from xadflow.errors import BadImage, DataUnavailable
from xadflow.images import VOID, ImageLimits, decode_image, encode_png
from xadflow.images.reading import not_a_file, read_offered, refusal

ANOMALY = "anomaly"  # the one kind of defect: none of these sets names others
_IS_ANOMALY = 254  # between reading and writing; no layout has so many classes
_GREY_OF_8_BITS = b"\x08\x00"  # bit depth and colour type in a PNG's header

Ids = NDArray[np.uint8]
_ByKey = dict[str, re.Match[str]]


@dataclass(frozen=True)
class Layout:
    """Where a set keeps its files and what its ids mean.

    `image` and `labels` match whole paths; an image and a map belong together when group `key` of both is the same.
    Group `part` of an image is its split by `splits`, group `place` its category. `ids` leads to a class, VOID or
    _IS_ANOMALY.
    """

    classes: tuple[str, ...]
    ids: Mapping[int, int]
    image: str
    labels: str
    expected: str
    splits: Mapping[str, Split]
    every_image_labelled: bool = True
    unlabelled: str = "no map of class ids lies beside it"


_CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic-light",
    20: "traffic-sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_STREETHAZARDS = {
    1: "unlabeled",
    2: "building",
    3: "fence",
    5: "pedestrian",
    6: "pole",
    7: "road-line",
    8: "road",
    9: "sidewalk",
    10: "vegetation",
    11: "car",
    12: "wall",
    13: "traffic-sign",
}
_NORMAL_OR_NOT = {0: 0, 1: _IS_ANOMALY, VOID: VOID}


def _numbered(names: Mapping[int, str]) -> dict[int, int]:
    return {raw: number for number, raw in enumerate(names)}


LAYOUTS: Mapping[str, Layout] = {
    "cityscapes": Layout(
        tuple(_CITYSCAPES.values()),
        {**dict.fromkeys(range(34), VOID), **_numbered(_CITYSCAPES)},
        r"leftImg8bit/(?P<key>(?P<part>train|val)/(?P<place>[^/]+)/[^/]+)_leftImg8bit\.png",
        r"gtFine/(?P<key>(?:train|val)/.+)_gtFine_labelIds\.png",
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png",
        {"train": Split.TRAIN, "val": Split.TEST},
    ),
    "streethazards": Layout(
        tuple(_STREETHAZARDS.values()),
        {4: VOID, **_numbered(_STREETHAZARDS), 14: _IS_ANOMALY},
        r"(?:train|test)/images/(?P<key>(?P<part>training|validation|test)/(?P<place>[^/]+)/[^/]+)\.png",
        r"(?:train|test)/annotations/(?P<key>.+)\.png",
        "train/images/{training,validation}/TOWN/*.png, test/images/test/TOWN/*.png, and the same below annotations/",
        {"training": Split.TRAIN, "validation": Split.VAL, "test": Split.TEST},
    ),
    "segmentmeifyoucan": Layout(
        ("inlier",),
        _NORMAL_OR_NOT,
        r"images/(?P<key>[^/]+)\.(?:jpg|png|webp)",
        r"labels_masks/(?P<key>[^/]+)_labels_semantic\.png",
        "images/*.jpg (or .webp, .png) and labels_masks/*_labels_semantic.png",
        {},
        unlabelled="no map of ids lies in labels_masks; those of the benchmark's own test are not published",
    ),
    "fishyscapes": Layout(
        ("inlier",),
        _NORMAL_OR_NOT,
        r"leftImg8bit/(?:train|test)/(?P<place>[^/]+)/(?P<key>[^/]+)_leftImg8bit\.png",
        r"(?:.*/)?\d+_(?P<key>[^/]+)_labels\.png",
        "NNNN_*_labels.png, and leftImg8bit/{train,test}/PLACE/*_leftImg8bit.png of Lost & Found",
        {},
        every_image_labelled=False,
    ),
}


class ScenesOptions(Options):
    """`folder`: where the set was unpacked, absolute or relative to the working folder; `licence`: what to record."""

    layout: Literal["cityscapes", "streethazards", "segmentmeifyoucan", "fishyscapes"]
    folder: Path
    licence: str = Field(default="not stated", min_length=1)


class Scenes:
    """A published set of scenes, in the folder that it was unpacked to, as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = read_options(ScenesOptions, name, options)
        self._layout = LAYOUTS[self._options.layout]

    def raw_sets(self) -> tuple[str, ...]:
        """None: these sets are given to those who register, or by their makers' own pages."""
        return ()

    def origin(self) -> str:
        """The layout, and a digest over relative path, size, modification time and rights of every file."""
        return f"{self._options.layout} in {state_of(self._root())}"

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Every image with a map of ids, in order of path; images and maps that stand alone, and wrong maps, are
        refused.

        Raises DataUnavailable for a missing folder, or one where no file has the names of the layout.
        """
        root, layout = self._root(), self._layout
        images, maps, doubled, others = _sorted_out(walk_files(root), layout)
        if not images.keys() & maps.keys():
            seen = sorted({path.name for path in root.iterdir()})[:10]
            raise DataUnavailable(
                f"{root.name} holds no scene in the layout {self._options.layout}; expected {layout.expected}",
                seen=seen,
                next_step=f"unpack the set so, or mend datasets.{self._name}.options (layout, folder) in params.yaml",
            )
        for key, image in images.items():
            if key in maps:
                yield self._scene(root, image, maps[key].string)
            elif layout.every_image_labelled:
                yield Refused(image.string, "labels-missing", layout.unlabelled)
        for key, ids in maps.items():
            if key not in images:
                yield Refused(
                    ids.string, "orphan-labels", f"class ids whose image is not there; expected {layout.expected}"
                )
        for path in doubled:
            yield Refused(path, "path-clash", "another file stands for the same scene")
        for path in others:
            if odd := not_a_file(root / path):  # a folder that is a link, or closed: scenes may be behind it
                yield Refused(path, *odd)

    def _scene(self, root: Path, match: re.Match[str], labels: str) -> Candidate | Refused:
        image, groups, layout = match.string, match.groupdict(), self._layout
        try:
            found = self._ids(root, labels)
        except BadImage as err:
            return Refused(image, err.reason, err.detail)
        anomalous = found == _IS_ANOMALY
        below = PurePosixPath(image).with_suffix(".png")
        any_anomaly = bool(anomalous.any())
        # Compressed, for the border holds the maps of all scenes at once: a thousand of Cityscapes' are 2 GB as they
        # are.
        return Candidate(
            origin=image,
            target=image,
            content=root / image,
            split=layout.splits.get(groups.get("part", ""), Split.TEST),
            label=int(any_anomaly),
            category=groups.get("place") or root.name,
            defect=ANOMALY if any_anomaly else None,
            source=f"{self._options.layout} {root.name}",
            licence=self._options.licence,
            root=root,
            mask=encode_png(np.where(anomalous, np.uint8(255), np.uint8(0))) if any_anomaly else None,
            mask_target=f"masks/{below}" if any_anomaly else None,
            labels=encode_png(np.where(anomalous, np.uint8(VOID), found)),
            labels_target=f"labels/{below}",
            classes=len(layout.classes),
        )

    def _ids(self, root: Path, labels: str) -> Ids:
        """Class ids [H,W], VOID and _IS_ANOMALY of a map on disk. Raises BadImage, also for an id that the set does not
        have.
        """
        try:
            content = read_offered(root / labels, labels, root, ImageLimits())
            pixels = decode_image(content)
        except BadImage as err:
            raise refusal(f"labels-{err.reason}", f"its labels {labels}: {err.detail}") from err
        if (
            content[24:26] != _GREY_OF_8_BITS or pixels.ndim != 2
        ):  # others are scaled when they are decoded: no ids any more
            raise refusal(
                "labels-channels", f"its labels {labels} are in colour or not of 8 bits, expected a grey PNG of ids"
            )
        known = self._layout.ids
        if strange := sorted({*np.unique(pixels).tolist()} - known.keys()):
            raise refusal(
                "labels-ids",
                f"its labels {labels} hold {', '.join(map(str, strange[:5]))}; "
                f"{self._options.layout} has {_listed(known)}",
            )
        table = np.full(256, VOID, dtype=np.uint8)
        table[list(known)] = list(known.values())
        return table[pixels]

    def _root(self) -> Path:
        root = Path(os.path.abspath(self._options.folder.expanduser()))
        if not root.is_dir():
            raise DataUnavailable(
                f"the folder of data set {self._name!r} is not there",
                seen=str(self._options.folder),
                next_step=f"unpack the set there, or mend datasets.{self._name}.options.folder in params.yaml",
            )
        return root


def _sorted_out(files: list[str], layout: Layout) -> tuple[_ByKey, _ByKey, list[str], list[str]]:
    """Images and maps of ids by their key, files whose key is taken, and files of other names."""
    images: _ByKey = {}
    maps: _ByKey = {}
    doubled, others = [], []
    for file in files:
        for pattern, found in ((layout.image, images), (layout.labels, maps)):
            if match := re.fullmatch(pattern, file):
                if found.setdefault(match["key"], match) is not match:
                    doubled.append(file)
                break
        else:
            others.append(file)
    return images, maps, doubled, others


def _listed(known: Mapping[int, int]) -> str:
    """Numbers as people write them: 0, 1 and 255; or 0 to 33."""
    numbers = sorted(known)
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
