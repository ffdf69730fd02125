import pytest

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
    with pytest.raises(DataUnavailable, match="no readable image"):
        look_at(product, ImageLimits())
