"""Letters from fonts: white on black, varied, the same for one seed, and none that reads as a digit."""

import numpy as np

from xadflow.data.letters import LETTERS, letters


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
