import numpy as np
import pytest
from PIL import Image

from xadflow.datasets.adding import look_at
from xadflow.errors import DataUnavailable
from xadflow.images import ImageLimits


@pytest.mark.parametrize(("side", "size"), [(20, 32), (64, 64), (100, 96), (128, 128), (447, 128), (448, 224)])
def test_the_size_follows_the_shorter_side(tmp_path, put, png, side: int, size: int) -> None:
    put(tmp_path / "train/good/a.png", png(1, side, side + 50))
    (tmp_path / "test").mkdir()
    seen = look_at(tmp_path, ImageLimits()).size_px
    assert (seen if isinstance(seen, int) else min(seen)) == size


def test_grey_stored_as_rgb_is_grey_and_one_coloured_image_makes_rgb(product, put, png) -> None:
    assert look_at(product, ImageLimits()).channels == 1
    put(product / "train/good/000.png", png(1, mode="RGB"))
    seen = look_at(product, ImageLimits())
    assert (seen.channels, seen.train_normals) == (3, 30)


def test_unreadable_files_do_not_stop_the_look_unless_all_are(product) -> None:
    files = sorted((product / "train/good").iterdir())
    files[0].write_bytes(b"broken")
    assert look_at(product, ImageLimits()).train_normals == 30
    for path in files:
        path.write_bytes(b"broken")
    with pytest.raises(DataUnavailable, match="no readable image.*as not-an-image.*replace the file"):
        look_at(product, ImageLimits())


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ImageLimits(max_side_px=8), "too-many-pixels.*limits.max_side_px"),
        (ImageLimits(max_pixels=64), "too-many-pixels.*limits.max_pixels"),
        (ImageLimits(max_bytes=20), "too-many-bytes.*limits.max_bytes"),
    ],
)
def test_where_every_normal_is_refused_the_limit_that_did_it_is_named(product, limits: ImageLimits, said: str) -> None:
    with pytest.raises(DataUnavailable, match=said):
        look_at(product, limits)


def test_a_folder_without_an_image_is_told_apart_from_one_of_refused_ones(product) -> None:
    for path in (product / "train/good").iterdir():
        path.unlink()
    (product / "train/good" / "notes.txt").write_text("none yet")
    with pytest.raises(DataUnavailable, match="no image in train/good"):
        look_at(product, ImageLimits())


@pytest.mark.parametrize(
    ("largest", "bits"), [(255, 8), (256, 10), (1023, 10), (4000, 12), (4096, 14), (16_383, 14), (16_384, 16), (0, 16)]
)
def test_the_bits_of_deep_grey_values_are_those_that_the_largest_of_all_images_needs(
    tmp_path, largest: int, bits: int
) -> None:
    """Also where it is a defect of test that is bright, and not one of the train normals."""
    for part, value in (("train/good", largest // 3), ("test/spot", largest)):
        (tmp_path / part).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((40, 40), value, np.uint16)).save(tmp_path / part / f"{number}.png")
    assert look_at(tmp_path, ImageLimits()).bit_depth == bits
    assert look_at(tmp_path, ImageLimits(), 16).bit_depth == 16


def test_images_of_eight_bits_are_asked_for_no_depth(product) -> None:
    assert look_at(product, ImageLimits()).bit_depth == 16
