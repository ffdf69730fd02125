"""Photographs as outliers: checked by hash, opened from files and archives, cropped the same way each time."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.photo_crops import Photo, crops, photos
from xadflow.datasets.public.raw_files import raw_folder
from xadflow.datasets.public.sets import SETS
from xadflow.datasets.sources import Candidate, open_source
from xadflow.digests import sha256_bytes
from xadflow.errors import BadInput, BadSettings, DataUnavailable
from xadflow.images import decode_image, stored_png
from xadflow.settings import DatasetSettings, Home

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (120, 200, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def archive() -> bytes:
    """Two textures, one of them half transparent; a picture too small, one cut short, and a text."""
    clear = np.concatenate([NOISE, np.zeros((120, 200, 1), np.uint8)], axis=2)
    clear[:, 100:, 3] = 255
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("textures/b.tga", encoded(clear, "TGA"))
        packed.writestr("textures/a.jpg", encoded(NOISE, "JPEG"))
        packed.writestr("textures/small.png", encoded(NOISE[:40], "PNG"))
        packed.writestr("textures/short.png", encoded(NOISE, "PNG")[:300])
        packed.writestr("readme.txt", "no picture")
    return stream.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Two sets: single files (one of them flat), and an archive."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    home = Home.find()
    contents = {
        "mate-photos": {
            "nature/flat.png": encoded(np.full((90, 90, 3), 7, np.uint8), "PNG"),
            "nature/noise.png": encoded(NOISE, "PNG"),
        },
        "openarena-textures": {"pak.pk3": archive()},
    }
    for name, kept in contents.items():
        for file, content in kept.items():
            path = raw_folder(home, name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        digests = {file: sha256_bytes(content) for file, content in kept.items()}
        monkeypatch.setitem(SETS, name, dataclasses.replace(SETS[name], digests=digests))
    return home


def test_pictures_come_in_order_from_files_and_archives(home: Home):
    found = list(photos(home, ["openarena-textures", "mate-photos"]))
    assert [one.name for one in found] == [
        "openarena-textures/textures/a.jpg",
        "openarena-textures/textures/b.tga",
        "mate-photos/nature/flat.png",
        "mate-photos/nature/noise.png",
    ]
    half = found[1].pixels
    assert not half[:, :100].any(), "transparency is over black"
    assert np.array_equal(half[:, 100:], NOISE[:, 100:])


def test_a_set_that_was_not_fetched_is_named(home: Home):
    with pytest.raises(DataUnavailable, match="data fetch opencv-photos"):
        next(photos(home, ["opencv-photos"]))


def test_crops_depend_on_name_and_seed_alone():
    one, other = Photo("set/one", NOISE), Photo("set/other", NOISE)
    first = crops(one, 5, 28, 0)
    assert first.shape == (5, 28, 28, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, crops(one, 5, 28, 0))
    assert np.array_equal(first[:3], crops(one, 3, 28, 0))
    assert not np.array_equal(first, crops(other, 5, 28, 0))
    assert not np.array_equal(first, crops(one, 5, 28, 1))


def test_crops_are_parts_of_the_picture_at_many_scales():
    """On a ramp, a crop's own range says how wide a piece of the picture it is."""
    ramp = np.repeat(np.linspace(0, 255, 640)[None, :, None], 480, axis=0).repeat(3, axis=2).astype(np.uint8)
    found = crops(Photo("set/ramp", ramp), 200, 28, 0).astype(float)
    widths = (found[..., 0].max(axis=(1, 2)) - found[..., 0].min(axis=(1, 2))) / 255 * 640
    assert widths.max() > 350
    assert widths.min() < 90, "the spread of a crop below is too small to be kept"
    assert np.all(found.std(axis=(1, 2, 3)) >= 7.5)


def test_flat_pictures_give_none():
    assert crops(Photo("set/flat", np.full((90, 90, 3), 7, np.uint8)), 5, 28, 0).shape == (0, 28, 28, 3)


def test_crops_beyond_the_smallest_picture_are_refused():
    with pytest.raises(BadInput, match="1 to 64 px"):
        crops(Photo("set/one", NOISE), 5, 65, 0)


def test_as_a_source_each_crop_names_its_picture_and_no_picture_is_in_two_splits(home: Home):
    options = {"sets": ["mate-photos", "openarena-textures"], "each": 4, "side_px": 32}
    found = list(open_source("any", DatasetSettings(source="photo_crops", options=options)).candidates())
    assert all(isinstance(one, Candidate) for one in found)
    assert len(found) == 3 * 4
    assert {one.label for one in found} == {0}
    splits: dict[str, set[Split]] = {}
    for one in found:
        splits.setdefault(one.source, set()).add(one.split)
        assert decode_image(one.content).shape == (32, 32, 3)
    assert all(len(split) == 1 for split in splits.values())
    assert len({one.target for one in found}) == len(found)


def test_unknown_sets_are_refused(home: Home):
    with pytest.raises(BadSettings, match="mate-photos"):
        open_source("any", DatasetSettings(source="photo_crops", options={"sets": ["mnist"]}))


def test_colour_survives_the_uncompressed_png():
    assert np.array_equal(decode_image(stored_png(NOISE)), NOISE)
