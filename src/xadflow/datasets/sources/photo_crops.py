"""Crops of real photographs and game textures as a data set that only serves as outliers: `judged: false`.

Raw files come by `xadflow data fetch opencv-photos` (and mate-photos, openarena-textures); see photo_crops.py of data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.photo_crops import LEAST_SIDE_PX, PHOTO_SETS, crops, photos
from xadflow.datasets.public.sets import public_set
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.digests import sha256_json
from xadflow.errors import BadSettings
from xadflow.images import stored_png
from xadflow.settings import Home

TEST_EVERY = 10  # each tenth picture is for the test split: no picture is in both


class PhotoCropsOptions(Options):
    """Which sets of pictures, how many crops of each picture, and their side in pixels."""

    sets: tuple[str, ...]
    each: int = Field(default=12, ge=1)
    side_px: int = Field(default=32, ge=8, le=LEAST_SIDE_PX)
    seed: int = Field(default=0, ge=0)


class PhotoCrops:
    """Pictures as a source of outliers."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._options = read_options(PhotoCropsOptions, name, options)
        unknown = [one for one in self._options.sets if one not in PHOTO_SETS]
        if unknown or not self._options.sets:
            raise BadSettings(
                f"datasets.{name}.options.sets names no set of pictures",
                seen=unknown,
                next_step=f"some of {', '.join(PHOTO_SETS)}",
            )

    def raw_sets(self) -> tuple[str, ...]:
        """The sets of pictures."""
        return self._options.sets

    def origin(self) -> str:
        """The sets and the digest of their files' digests."""
        digests = {name: dict(public_set(name).digests) for name in self._options.sets}
        return f"{', '.join(self._options.sets)}, files sha256 {sha256_json(digests)[:16]}"

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Crops, picture by picture."""
        chosen = self._options
        for number, photo in enumerate(photos(Home.find(), chosen.sets)):
            split = Split.TEST if number % TEST_EVERY == TEST_EVERY - 1 else Split.TRAIN
            of = photo.name.partition("/")[0]
            for place, pixels in enumerate(crops(photo, chosen.each, chosen.side_px, chosen.seed)):
                target = f"{split}/{of}/{number:05d}-{place:03d}.png"
                yield Candidate(
                    origin=f"{photo.name}#{place}",
                    target=target,
                    content=stored_png(pixels),
                    split=split,
                    label=0,
                    category=of,
                    defect=None,
                    source=f"{photo.name}",
                    licence=public_set(of).licence,
                )
