import io
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from xadflow.datasets.sources.base import Candidate, open_source
from xadflow.datasets.sources.textures import BANDS, DEFECTS, LADDER, MAX_CROP_PX, _crops
from xadflow.errors import BadSettings
from xadflow.images import stored_png
from xadflow.settings import DatasetSettings

SMALL = {"train": 12, "val": 6, "test": 6, "defects_per_kind": 5}


def offered(texture: str = "brick", **options: object) -> list[Candidate]:
    settings = DatasetSettings(source="textures", options={"texture": texture, **SMALL, **options})
    return [one for one in open_source(f"textures-{texture}", settings).candidates() if isinstance(one, Candidate)]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def places(crop: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where a crop lies in its picture: brute force on its first row, then the whole."""
    size = crop.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (1, size))[:, :, 0]
    found = zip(*np.nonzero((windows == crop[0]).all(-1)), strict=True)
    return [(int(y), int(x)) for y, x in found if (picture[y : y + size, x : x + size] == crop).all()]


def test_default_counts_are_160_40_60_and_20_of_each_kind() -> None:
    settings = DatasetSettings(source="textures", options={"texture": "grass"})
    everything = [one for one in open_source("textures-grass", settings).candidates() if isinstance(one, Candidate)]
    counts: dict[tuple[str, str | None], int] = {}
    for one in everything:
        counts[str(one.split), one.defect] = counts.get((str(one.split), one.defect), 0) + 1
    assert counts == {
        ("train", None): 160,
        ("val", None): 40,
        ("test", None): 60,
        **{("test", kind): 20 for kind in DEFECTS},
    }
    assert len({one.content for one in everything}) == len(everything)


@pytest.mark.parametrize("texture", ["brick", "grass", "gravel"])
def test_a_defective_crop_is_the_real_texture_outside_its_mask_and_differs_inside(texture: str) -> None:
    picture = getattr(data, texture)()
    band = BANDS["test"]
    windows = np.lib.stride_tricks.sliding_window_view(picture[band.top : band.bottom], (96, 96))
    for one in offered(texture):
        if one.label == 0:
            continue
        image, mask = pixels(one.content), pixels(one.mask)
        assert set(np.unique(mask)) == {0, 255}
        inside = mask > 0
        assert 0.001 < inside.mean() < 0.35
        # The crop that agrees with the image on every pixel outside the mask is unique: the defect's true background.
        few = np.argwhere(~inside)[:: max(1, int((~inside).sum()) // 40)]
        agree = np.logical_and.reduce([windows[:, :, y, x] == image[y, x] for y, x in few])
        exact = [windows[y, x] for y, x in np.argwhere(agree) if (windows[y, x][~inside] == image[~inside]).all()]
        assert len(exact) == 1, one.target
        change = np.abs(image.astype(int) - exact[0].astype(int))[inside]
        assert change.mean() >= 10, one.target
        assert (change > 0).mean() > 0.8, one.target


@pytest.mark.parametrize("rung", ["easy", "middle", "hard"])
@pytest.mark.parametrize(
    ("kind", "least", "most"), [("scratch", 35, 80), ("blob", 40, 90), ("foreign", 0, 255), ("cut-paste", 17, 36)]
)
def test_contrast_is_the_stated_one(kind: str, least: int, most: int, rung: str) -> None:
    share = {"easy": 1.0, "middle": 0.6, "hard": 0.35}[rung]
    rng, flat = np.random.default_rng(0), np.full((96, 96), 120, np.uint8)
    for _ in range(40):
        image, mask = DEFECTS[f"generated-{kind}"](rng, flat, [data.gravel()], LADDER[rung])
        change = np.abs(image.astype(int) - 120)
        assert not change[~mask].any()
        assert least * share - 2 <= change[mask].max() <= most * share + 1, "whole grey levels"
        if kind != "foreign":
            assert change[mask].min() > 0


def test_each_rung_is_smaller_and_fainter_and_its_normals_are_the_same() -> None:
    area, contrast = {}, {}
    for rung in LADDER:
        everything = offered(rung=rung)
        assert [one.content for one in everything if not one.label] == [
            one.content for one in offered() if not one.label
        ]
        area[rung] = np.mean([pixels(one.mask).mean() for one in everything if one.label])
        flat, draw = np.full((96, 96), 120, np.uint8), DEFECTS["generated-blob"]
        drawn = [draw(np.random.default_rng(seed), flat, [], LADDER[rung]) for seed in range(30)]
        contrast[rung] = np.mean([np.abs(image.astype(int) - 120)[mask].mean() for image, mask in drawn])
    assert area["hard"] < 0.5 * area["easy"]
    assert area["hard"] < area["middle"] < area["easy"]
    assert contrast["middle"] / contrast["easy"] == pytest.approx(0.6, abs=0.05)
    assert contrast["hard"] / contrast["easy"] == pytest.approx(0.35, abs=0.05)


def test_known_defects_come_from_the_train_band_and_move_nothing_else() -> None:
    plain, more = offered(rung="middle"), offered(rung="middle", known=5)
    assert [(one.target, one.content) for one in more[: len(plain)]] == [(one.target, one.content) for one in plain]
    known = more[len(plain) :]
    assert [(str(one.split), one.label) for one in known] == [("known", 1)] * 5
    assert {one.defect for one in known} == set(DEFECTS)
    picture, band = data.brick(), BANDS["train"]
    for one in known:
        image, outside = pixels(one.content), pixels(one.mask) == 0
        assert (~outside).any()
        windows = np.lib.stride_tricks.sliding_window_view(picture, (96, 96))
        few = np.argwhere(outside)[:: max(1, int(outside.sum()) // 40)]
        agree = np.logical_and.reduce([windows[:, :, y, x] == image[y, x] for y, x in few])
        ((top, left),) = np.argwhere(agree)
        assert band.top <= top <= band.bottom - 96
        assert band.left <= left <= band.right - 96


def test_train_val_and_test_share_no_pixel_and_the_gap_is_wider_than_a_crop() -> None:
    picture = data.brick()
    covered = {name: np.zeros(picture.shape, bool) for name in ("train", "val", "test")}
    for one in offered():
        if one.label == 0:
            crop = pixels(one.content)
            ((y, x),) = places(crop, picture)
            covered[str(one.split)][y : y + 96, x : x + 96] = True
    names = list(covered)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            first, second = BANDS[a], BANDS[b]
            gap = max(second.top - first.bottom, second.left - first.right)
            assert gap > MAX_CROP_PX
            assert not (covered[a] & covered[b]).any()


def test_the_same_settings_give_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = offered(), offered(), offered(seed=1)
    assert [(one.target, one.content, one.mask) for one in first] == [
        (one.target, one.content, one.mask) for one in again
    ]
    assert not {one.content for one in first} & {one.content for one in other}


def test_names_licence_and_source_say_that_the_defects_are_generated() -> None:
    for one in offered():
        assert "defects are generated" in one.licence
        assert "defects are generated" in one.source
        assert one.defect is None or one.defect.startswith("generated-")


def test_a_stored_png_decodes_to_its_pixels_and_its_stream_is_valid_zlib() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (96, 96), (300, 400)):  # the last needs several stored blocks of at most 65,535 bytes
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        content = stored_png(image)
        assert (pixels(content) == image).all()
        start = content.index(b"IDAT") + 4
        length = int.from_bytes(content[start - 8 : start - 4], "big")
        assert len(zlib.decompress(content[start : start + length])) == shape[0] * (shape[1] + 1)


def test_more_crops_than_places_and_crops_wider_than_the_gap_are_refused() -> None:
    with pytest.raises(BadSettings, match="more crops"):
        list(_crops(np.random.default_rng(0), np.zeros((40, 40), np.uint8), 82, 32, "textures-brick"))
    with pytest.raises(BadSettings, match="crop_px"):
        offered(crop_px=100)
