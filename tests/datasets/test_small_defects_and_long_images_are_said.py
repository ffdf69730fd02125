import numpy as np
import pytest

from xadflow.datasets.adding import in_shape, look_at
from xadflow.datasets.loading import load_images, load_masks
from xadflow.datasets.manifest import Split, read_manifest
from xadflow.datasets.smallest_defect import defect_warning, smallest_defect
from xadflow.datasets.stages import build_manifest, collect_images
from xadflow.images import ImageLimits, decode_png, encode_png
from xadflow.settings import DatasetSettings
from xadflow.settings.params import LimitSettings


@pytest.fixture
def manifest(home, product, settings_with):
    settings = settings_with(options={"path": str(product)})
    collect_images(home, settings, "bolt")
    build_manifest(home, settings, "bolt")
    return read_manifest(home.dataset("bolt"))


@pytest.mark.parametrize(
    ("own", "size"),
    [
        ((1600, 2400), (224, 336)),
        ((2400, 1600), (336, 224)),
        ((500, 512), 224),
        ((130, 700), (128, 688)),
        ((24_000, 512), (4096, 87)),
        ((30, 90), (32, 96)),
    ],
)
def test_what_a_detector_sees_has_the_shape_of_the_images(tmp_path, put, png, own, size) -> None:
    put(tmp_path / "train/good/a.png", png(1, *own))
    (tmp_path / "test").mkdir()
    look = look_at(tmp_path, ImageLimits(max_side_px=30_000))
    assert (look.size_px, look.own_px) == (size, own)


def test_a_shape_is_kept_to_a_few_per_cent_whatever_it_is() -> None:
    for own in ((100, 1000), (1000, 300), (64, 64), (513, 2047), (20_000, 300)):
        size = in_shape(224, own)
        height, width = (size, size) if isinstance(size, int) else size
        assert (height / width) / (own[0] / own[1]) == pytest.approx(1, rel=0.12)


def test_images_and_masks_are_brought_to_a_height_and_a_width(manifest) -> None:
    its = DatasetSettings(source="folder", size_px=(16, 48), channels=1)
    rows = [row for row in manifest.rows(Split.GATE, Split.TEST) if row.label == 1]
    assert load_images(manifest, rows, its).shape == (len(rows), 1, 16, 48)
    assert load_masks(manifest, rows, its).shape == (len(rows), 16, 48)


@pytest.mark.parametrize(
    ("size", "tile", "told"),
    [
        (32, None, None),
        (16, None, r"5 px wide and 3\.2 px .* size_px: \[24, 32\] and tile_px: 128 under datasets\.bolt"),
        ((16, 16), None, r"3\.2 px at the 16 x 16 px"),
        (16, 64, r"size_px: \[24, 32\] under datasets\.bolt"),
        ((24, 32), 64, None),
    ],
)
def test_a_defect_that_becomes_smaller_than_4_px_is_said_with_what_to_set(manifest, size, tile, told) -> None:
    its = DatasetSettings(source="folder", size_px=size, tile_px=tile)
    warning = defect_warning(manifest, manifest.rows(), "bolt", its)
    if told is None:
        assert warning is None
    else:
        import re

        assert re.search(told, warning)


def test_normals_alone_have_no_smallest_defect(manifest) -> None:
    assert smallest_defect(manifest, manifest.rows(Split.TRAIN), DatasetSettings(source="folder")) is None


@pytest.mark.parametrize("long", [20_001, 24_000, 40_000])
def test_what_the_border_admits_by_raised_limits_is_loaded_and_stored_too(
    home, product, put, png, settings_with, long: int
) -> None:
    put(product / "train/good/long.png", png(7, 4, long))
    settings = settings_with(options={"path": str(product)})
    settings = settings.model_copy(update={"limits": LimitSettings(max_side_px=50_000)})
    collect_images(home, settings, "bolt")
    build_manifest(home, settings, "bolt")
    manifest = read_manifest(home.dataset("bolt"))
    rows = [row for row in manifest.rows() if row.width == long]
    its = DatasetSettings(source="folder", size_px=(16, long), channels=1, tile_px=64)
    images = load_images(manifest, rows, its)
    assert images.shape == (1, 1, 16, long)
    assert np.array_equal(decode_png(encode_png(images[0].numpy())), images[0].numpy())
