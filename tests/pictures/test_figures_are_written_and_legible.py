from __future__ import annotations

import threading

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from xadflow.errors import BadInput
from xadflow.pictures.plots import contact_sheet, difference_picture, heat_overlay, roc_with_interval, score_histogram


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 40])
    return np.exp(rng.normal(size=100) + labels), labels


def is_drawn(path):
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 300 and len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_a_histogram_is_drawn_also_without_threshold_or_one_class(scored, tmp_path):
    scores, labels = scored
    score_histogram(scores[labels == 0], scores[labels == 1], 2.0, tmp_path / "a" / "both.png")
    score_histogram(scores[labels == 0], [], None, tmp_path / "one.png")
    score_histogram([3.0, 3.0], [3.0], 3.0, tmp_path / "equal.png")
    score_histogram(scores, [1e6], 2.0, tmp_path / "tail.png")
    assert all(is_drawn(tmp_path / name) for name in ("a/both.png", "one.png", "equal.png", "tail.png"))
    with pytest.raises(BadInput, match="needs scores"):
        score_histogram([], [], None, tmp_path / "none.png")
    with pytest.raises(BadInput, match="finite"):
        score_histogram([np.nan], [1.0], None, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_equal_input_gives_equal_bytes_and_leaves_no_partial_file(scored, tmp_path):
    scores, labels = scored
    for name in ("a.png", "b.png"):
        roc_with_interval(scores, labels, tmp_path / name, seed=1, bootstrap=100)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert is_drawn(tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_contact_sheet_takes_grey_colour_missing_pictures_and_hostile_captions(tmp_path):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (1, 32, 32), dtype=np.uint8)
    colour = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    heat = rng.normal(size=(32, 32)).astype(np.float32)
    path = tmp_path / "sheet.png"
    contact_sheet(
        [
            (grey, heat, grey, np.zeros((32, 32)), "$\\frac{$ \u202e\n\udcff 検査"),
            (colour, heat, colour, rng.normal(size=(3, 32, 32)) / 9, "x" * 300),
            (grey[0], None, None, None, ""),
        ],
        path,
        title="a $title",
    )
    assert is_drawn(path)
    with pytest.raises(BadInput, match="at least one row"):
        contact_sheet([], path)


def test_the_overlay_shows_the_bare_picture_where_it_is_cold_and_colour_where_it_is_hot():
    original = np.full((1, 4, 4), 100, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0] = 50.0
    overlay = heat_overlay(original, heat, 10.0, 20.0)
    assert overlay.shape == (3, 4, 4)
    assert overlay.dtype == np.uint8
    assert (overlay[:, 1:, :] == 100).all()
    assert overlay[0, 0, 0] > 180 > 120 > overlay[2, 0, 0]
    assert (heat_overlay(original, heat, 5.0, 5.0) == 100).all()
    with pytest.raises(BadInput, match="one size"):
        heat_overlay(original, np.zeros((4, 5)), 0.0, 1.0)


def test_an_overlay_of_a_colour_picture_lies_on_its_luma():
    picture = np.zeros((3, 2, 2), np.uint8)
    picture[1] = 200
    assert (heat_overlay(picture, np.zeros((2, 2)), 0.0, 1.0) == round(0.587 * 200)).all()


def test_a_difference_is_white_where_nothing_changed_orange_where_brighter_violet_where_darker():
    original = np.full((1, 1, 3), 100, np.uint8)
    shown = difference_picture(original, np.array([[[100, 160, 40]]], np.uint8))
    assert (shown[:, 0, 0] == 255).all()
    assert shown[0, 0, 1] > shown[2, 0, 1]
    assert shown[2, 0, 2] > shown[1, 0, 2]
    assert (difference_picture(original, original) == 255).all()
    with pytest.raises(BadInput, match="one shape"):
        difference_picture(original, np.zeros((1, 3, 1), np.uint8))


def test_drawing_touches_no_global_state_and_works_in_threads(scored, tmp_path):
    before = dict(matplotlib.rcParams)
    scores, labels = scored
    threads = [
        threading.Thread(target=score_histogram, args=(scores, scores[labels == 1], 1.0, tmp_path / f"{number}.png"))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs  # pyplot keeps its figures here for good
