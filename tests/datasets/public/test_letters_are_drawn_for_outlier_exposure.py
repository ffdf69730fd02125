"""Letters from fonts: white on black, varied, the same for one seed, and none that reads as a digit."""

import matplotlib
import numpy as np
import PIL

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.colours import COLOURS, painted
from xadflow.datasets.public.letters import LETTERS, letters
from xadflow.datasets.sources import open_source
from xadflow.images import decode_image
from xadflow.settings import DatasetSettings


def test_letters_are_strokes_on_black_that_fill_the_middle():
    found = letters(200, 28, 0)
    assert found.shape == (200, 28, 28)
    assert found.dtype == np.uint8
    lit = (found > 127).mean(axis=(1, 2))
    assert lit.min() > 0.01
    assert lit.max() < 0.6
    assert (found[:, 6:22, 6:22] > 127).any(axis=(1, 2)).all()
    assert np.median(found[:, 0]) == 0


def test_the_seed_decides():
    assert np.array_equal(letters(20, 28, 3), letters(20, 28, 3))
    assert np.array_equal(letters(20, 28, 3)[:5], letters(5, 28, 3))
    assert not np.array_equal(letters(20, 28, 3), letters(20, 28, 4))
    assert len({one.tobytes() for one in letters(200, 28, 0)}) == 200


def test_no_letter_reads_as_a_digit():
    assert not set(LETTERS) & set("0123456789IlOoSsZzBqgb")
    assert len(set(LETTERS)) == len(LETTERS)


def test_as_a_source_they_are_train_images_grey_or_in_seven_colours():
    drawn = letters(40, 28, 5)
    for coloured in (False, True):
        options = {"count": 40, "coloured": coloured, "seed": 5}
        found = list(open_source("any", DatasetSettings(source="letters", options=options)).candidates())
        assert {(one.split, one.label, one.defect) for one in found} == {(Split.TRAIN, 0, None)}
        assert len({one.target for one in found}) == 40
        pictures = np.stack([decode_image(one.content) for one in found])
        if coloured:
            colours = [one.category.removeprefix("letter-") for one in found]
            assert set(colours) == set(COLOURS)
            assert all(np.array_equal(*pair) for pair in zip(pictures, map(painted, drawn, colours), strict=True))
        else:
            assert np.array_equal(pictures, drawn)


def test_the_origin_says_what_draws_them():
    origin = open_source("any", DatasetSettings(source="letters")).origin()
    assert f"matplotlib=={matplotlib.__version__}" in origin
    assert f"pillow=={PIL.__version__}" in origin
