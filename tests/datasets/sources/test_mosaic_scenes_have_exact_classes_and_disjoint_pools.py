"""Generated scenes: what is drawn, by whom it is known, and that nothing is shared between those who must not share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.scene_drawing import Thing, developed, object_of, patch_of, put, scene, toned
from xadflow.datasets.public.sets import IDX_FILES
from xadflow.datasets.sources import Candidate, mosaic, open_source
from xadflow.datasets.stages import build_manifest, collect_images, validate_dataset
from xadflow.errors import DataUnavailable
from xadflow.images import VOID, decode_image
from xadflow.settings import DatasetSettings, Home, Settings

RNG = np.random.default_rng(0)
FLAT = np.full((300, 300), 90, np.uint8)
TEXTURES = [np.full((300, 300), 40, np.uint8), np.full((300, 300), 200, np.uint8)]


def a_picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (140, 150, 3), dtype=np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def an_archive(folders: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for folder in range(folders):
            for number in range(2):
                packed.writestr(f"textures/f{folder:02d}/{number}.png", a_picture())
    return stream.getvalue()


def clothes() -> dict[str, bytes]:
    """Four images of each class in either part, each with grey levels of its own."""

    def idx(values: np.ndarray) -> bytes:
        kind = 3 if values.ndim == 3 else 1
        return bytes([0, 0, 8, kind]) + b"".join(side.to_bytes(4, "big") for side in values.shape) + values.tobytes()

    found = {}
    for part, (images, labels) in enumerate((IDX_FILES[:2], IDX_FILES[2:])):
        of_class = np.repeat(np.arange(10, dtype=np.uint8), 6)
        pixels = np.zeros((60, 28, 28), np.uint8)
        for number in range(60):
            pixels[number, 4:24, 6:22] = RNG.integers(60 + part, 250, (20, 16))
        found |= {images: idx(pixels), labels: idx(of_class)}
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    contents = {
        "fashion-mnist": clothes(),
        "openarena-textures": {"pak.pk3": an_archive(8)},
        "opencv-photos": {f"{number}.png": a_picture() for number in range(6)},
    }
    for module in ("reading", "photo_crops"):
        monkeypatch.setattr(f"xadflow.datasets.public.{module}.read_files", lambda home, name: contents[name].items())
    monkeypatch.setattr(mosaic, "VAL_OBJECTS", 2)
    return Home.find()


OPTIONS = {"train": 10, "val": 4, "test": 20, "known": 4}
SCENES = DatasetSettings(
    source="mosaic", size_px=128, channels=1, known_used=0, classes=mosaic.CLASSES, options=OPTIONS
)


def scenes(**options: object) -> list[Candidate]:
    offered = open_source("mosaic", SCENES.model_copy(update={"options": {**OPTIONS, **options}})).candidates()
    return [one for one in offered if isinstance(one, Candidate)]


def test_scenes_have_a_class_for_each_pixel_and_an_exact_mask_of_what_is_unknown(home: Home) -> None:
    offered = scenes()
    assert [
        sum(one.split == split for one in offered) for split in (Split.TRAIN, Split.VAL, Split.TEST, Split.KNOWN)
    ] == [10, 4, 20, 4]
    for one in offered:
        labels = decode_image(bytes(one.labels))
        mask = np.zeros_like(labels) if one.mask is None else decode_image(bytes(one.mask))
        assert labels.shape == (128, 128)
        assert ((labels == VOID) == (mask > 0)).all()
        assert set(np.unique(labels)) <= {*range(6), VOID}
        assert (one.label == 1) == (one.mask is not None) == (one.defect is not None)
    test = [one for one in offered if one.split == Split.TEST]
    assert [sum(one.label == 1 and one.category == town for one in test) for town in mosaic.TOWNS] == [7, 7]


def test_the_same_options_give_the_same_bytes_and_another_seed_others(home: Home) -> None:
    first, again, other = scenes(), scenes(), scenes(seed=1)
    assert [(one.content, one.labels, one.mask) for one in first] == [
        (one.content, one.labels, one.mask) for one in again
    ]
    assert not {one.content for one in first} & {one.content for one in other}
    longer = {one.target: one.content for one in scenes(train=12)}
    assert all(longer[one.target] == one.content for one in first)  # more train scenes change no other scene


def test_the_stages_build_and_validate_it(home: Home, settings_with: Callable[..., Settings]) -> None:
    settings = settings_with(**SCENES.model_dump())
    assert len(collect_images(home, settings, "bolt").rows) == 38
    rows = build_manifest(home, settings, "bolt")
    assert all(row.labels_path for row in rows)
    held = validate_dataset(home, settings, "bolt")
    assert "every scene has a map of class ids" in held["rules"]


def test_towns_known_and_negatives_share_no_picture(home: Home) -> None:
    parts = {part: {name for name, _ in mosaic.game_textures(home, part)} for part in (*mosaic.PARTS, "negatives")}
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 16
    folders = [{name.rpartition("/")[0] for name in names} for names in parts.values()]
    assert sum(map(len, folders)) == len(set.union(*folders))
    raw = mosaic.read_raw(home, mosaic.CLOTHES)
    pools = [mosaic._pool(home, raw, part) for part in mosaic.PARTS]
    for kind in ("garments", "textures", "photographs"):
        seen = [picture.tobytes() for pool in pools for picture in getattr(pool, kind)]
        assert len(seen) == len(set(seen)) > 0
    stocks = [mosaic._stock(raw, split) for split in (Split.TRAIN, Split.VAL, Split.TEST)]
    drawn = [picture.tobytes() for stock in stocks for of_class in stock.objects for picture in of_class]
    assert len(drawn) == len(set(drawn))
    held_out = {picture.tobytes() for pool in pools for picture in pool.garments}
    assert not held_out & set(drawn)
    areas = np.zeros((512, 512), int)
    for band in mosaic.BANDS.values():
        areas[band] += 1
    assert areas.max() == 1


def test_negatives_are_the_other_folders_pictures_in_a_tone_of_their_own(home: Home) -> None:
    negatives = SCENES.model_copy(update={"options": {"part": "negatives"}, "classes": (), "judged": False})
    offered = [one for one in open_source("mosaic-negatives", negatives).candidates() if isinstance(one, Candidate)]
    assert [one.origin for one in offered] == [name for name, _ in mosaic.game_textures(home, "negatives")]
    means = [decode_image(bytes(one.content)).mean() for one in offered]
    assert all(60 < mean < 195 for mean in means)
    assert np.std(means) > 5


def test_parts_are_told_apart_neither_by_brightness_nor_by_contrast() -> None:
    rng = np.random.default_rng(3)
    dark, bright = (
        np.concatenate([toned(rng, level + RNG.integers(0, width, 400).astype(np.uint8)) for _ in range(300)])
        for level, width in ((0, 30), (100, 150))
    )
    assert abs(dark.mean() - bright.mean()) < 8
    assert abs(dark.std() / bright.std() - 1) < 0.1
    flat = toned(rng, np.full(50, 7, np.uint8))
    assert np.isfinite(flat).all()
    assert flat.std() == 0


def test_things_lie_on_top_and_their_place_is_exact() -> None:
    rng = np.random.default_rng(1)
    ground = np.zeros((64, 64))
    thing = Thing(np.full((10, 20), 77, np.uint8), np.tri(10, 20, dtype=bool))
    where = put(rng, ground, thing)
    assert thing.shape.sum() / 2 <= where.sum() <= thing.shape.sum()
    assert (ground[~where] == 0).all()
    assert (ground[where] != 0).all()
    labels = scene(rng, 128, TEXTURES, [(np.full((28, 28), 200, np.uint8), 2)], [thing]).labels
    assert set(np.unique(labels)) <= {0, 1, 2, VOID}
    assert thing.shape.sum() / 2 <= (labels == VOID).sum() <= thing.shape.sum()
    assert (labels == 2).any()


def test_the_place_of_a_pixel_does_not_say_that_a_thing_is_there() -> None:
    rng, seen = np.random.default_rng(0), np.zeros((128, 128))
    thing = Thing(np.full((50, 40), 77, np.uint8), np.ones((50, 40), dtype=bool))
    for _ in range(2000):
        seen += put(rng, np.zeros((128, 128)), thing)
    rows, columns = seen.mean(axis=1), seen.mean(axis=0)
    assert rows[:8].mean() > 0.4 * rows[60:68].mean()  # all of it within the scene: .1 and less
    assert columns[:8].mean() > 0.4 * columns[60:68].mean()


def test_patches_are_rectangles_polygons_and_silhouettes() -> None:
    rng = np.random.default_rng(0)
    silhouette = np.zeros((28, 28), np.uint8)
    silhouette[10:18] = 255
    filled = [patch_of(rng, FLAT, silhouette, 128).shape.mean() for _ in range(60)]
    assert any(share == 1 for share in filled)
    assert any(0.25 < share < 0.4 for share in filled)
    assert all(share > 0.1 for share in filled)
    large = object_of(rng, silhouette, 512)
    assert 4 * 36 <= large.shape.shape[0] <= 4 * 65


def test_noise_has_the_stated_spread_and_is_an_integer() -> None:
    noisy = developed(np.random.default_rng(0), np.full((400, 400), 100.0)).astype(float)
    assert noisy.mean() == pytest.approx(100, abs=0.1)
    assert noisy.std() == pytest.approx(np.sqrt(3 * 10), rel=0.02)


def test_a_set_that_was_not_fetched_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    with pytest.raises(DataUnavailable, match=r"fetch"):
        scenes()
