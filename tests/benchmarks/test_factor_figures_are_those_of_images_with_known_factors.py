"""Counterfactuals of known factors, drawn by hand: bars (1) and squares (0) in three colours, read without
any network.
"""

import numpy as np
import pytest

from benchmarks.counterfactuals_kit.factors import Reading, factor_figures, legible
from xadflow.errors import BadInput

COLOURS = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 255, 255)}
NORMAL = (2, 1)  # cyan, bar


def drawn(colour, shape, level=255):
    """uint8 [3,12,12]: a square of 5 px, or a bar of 2 by 9."""
    image = np.zeros((3, 12, 12), np.uint8)
    rows, columns = (slice(3, 8), slice(3, 8)) if shape == 0 else (slice(1, 10), slice(5, 7))
    for channel, value in enumerate(COLOURS[colour]):
        image[channel, rows, columns] = value * level // 255
    return image


def read(made):
    """Exact readers for such drawings: which channels are lit, and whether what is lit is taller than wide."""
    lit = made > 76
    key = {tuple(np.array(value) > 0): name for name, value in COLOURS.items()}
    colours = np.array([[key.get(tuple(one.any(axis=(1, 2))), -1) for one in row] for row in lit])
    shapes = np.array(
        [[int(one.any(axis=(0, 2)).sum() >= one.any(axis=(0, 1)).sum() + 1) for one in row] for row in lit]
    )
    return Reading(colours, shapes, legible(made))


def of(*rows):
    return np.stack([np.stack([drawn(*one) for one in row]) for row in rows])


RED_AND_GREEN = (np.array([0, 1]), np.array([0, 0]))  # both squares


def test_a_recolouring_and_a_redrawing_are_strictly_diverse():
    found = factor_figures(read(of([(2, 0), (0, 1)], [(2, 0), (1, 1)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.first_only, found.second_only) == (1.0, (1.0, 0.0), (0.0, 1.0))
    assert (found.roles, found.strict, found.loose) == ((0, 1), 1.0, 1.0)


def test_the_roles_are_found_whatever_the_order():
    found = factor_figures(read(of([(0, 1), (2, 0)], [(1, 1), (2, 0)])), *RED_AND_GREEN, NORMAL)
    assert (found.roles, found.strict) == ((1, 0), 1.0)


def test_a_bar_in_another_colour_than_its_image_is_loose_only():
    found = factor_figures(read(of([(2, 0), (1, 1)], [(2, 0), (1, 1)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.strict, found.loose) == (1.0, 0.5, 1.0)
    assert found.second_only == (0.0, 0.5)


def test_changing_both_factors_is_normal_and_diverse_in_neither_sense():
    found = factor_figures(read(of([(2, 1), (2, 1)], [(2, 1), (2, 1)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.first_only, found.second_only, found.strict, found.loose) == (1.0, (0, 0), (0, 0), 0, 0)


def test_the_same_edit_twice_is_normal_and_not_diverse():
    found = factor_figures(read(of([(2, 0), (2, 0)], [(2, 0), (2, 0)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.strict, found.loose) == (1.0, 0.0, 0.0)


def test_an_image_that_did_not_change_is_not_normal():
    found = factor_figures(read(of([(0, 0), (0, 0)], [(2, 0), (1, 1)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.strict, found.loose) == (0.5, 0.5, 0.5)


def test_a_blank_image_is_no_bar_whatever_the_reader_says():
    made = of([(2, 0), (0, 1)], [(2, 0), (1, 1)])
    made[0, 1] = 0
    reading = read(made)
    says_bar = Reading(reading.first, np.array([[0, 1], [0, 1]]), reading.legible)
    found = factor_figures(says_bar, *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.strict, found.loose) == (0.75, 0.5, 0.5)


def test_the_gate_wants_fifteen_pixels_above_three_tenths_in_any_channel():
    image = np.zeros((3, 12, 12), np.uint8)
    image.reshape(3, -1)[1, :8], image.reshape(3, -1)[2, 8:15] = 77, 77
    assert legible(image)
    assert not legible(np.where(image > 0, 76, 0).astype(np.uint8))
    image.reshape(3, -1)[:, 0] = 0
    assert not legible(image)
    assert legible(np.stack([np.stack([image, drawn(0, 1)])])).tolist() == [[False, True]]


def test_one_concept_has_no_roles():
    found = factor_figures(read(of([(2, 0)], [(1, 1)])), *RED_AND_GREEN, NORMAL)
    assert (found.normal, found.first_only, found.second_only) == (1.0, (0.5,), (0.5,))
    assert found.roles is found.strict is found.loose is None


def test_many_random_readings_match_a_count_image_by_image():
    rng = np.random.default_rng(0)
    colours, shapes = rng.integers(0, 2, 300), np.zeros(300, int)
    reading = Reading(rng.integers(0, 3, (300, 3)), rng.integers(0, 2, (300, 3)), rng.random((300, 3)) > 0.1)
    found = factor_figures(reading, colours, shapes, NORMAL)
    best = (-1.0, -1.0, -1.0)
    for i in range(3):
        for j in range(3):
            if i == j:
                continue
            strict = loose = only_i = only_j = 0
            for row in range(300):
                cyan, bar = (
                    [(reading.first[row, k] == 2) and reading.legible[row, k] for k in (i, j)],
                    [(reading.second[row, k] == 1) and reading.legible[row, k] for k in (i, j)],
                )
                kept_shape, kept_colour = reading.second[row, i] == shapes[row], reading.first[row, j] == colours[row]
                strict += cyan[0] and kept_shape and bar[1] and kept_colour
                loose += cyan[0] and not bar[0] and bar[1] and not cyan[1]
                only_i += cyan[0] and kept_shape
                only_j += bar[1] and kept_colour
            assert found.first_only[i] == pytest.approx(only_i / 300)
            assert found.second_only[j] == pytest.approx(only_j / 300)
            best = max(best, (strict / 300, loose / 300, (only_i + only_j) / 300))
    assert (found.strict, found.loose) == pytest.approx(best[:2])


def test_normal_images_and_readings_of_other_shapes_are_refused():
    reading = read(of([(2, 0), (0, 1)], [(2, 0), (1, 1)]))
    with pytest.raises(BadInput, match="only anomalies"):
        factor_figures(reading, np.array([2, 0]), np.array([0, 0]), NORMAL)
    with pytest.raises(BadInput, match="readings are"):
        factor_figures(reading, np.array([0]), np.array([0]), NORMAL)
