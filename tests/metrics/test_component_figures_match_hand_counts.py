"""sIoU, PPV and F1 of regions on pictures small enough to count by hand, and against sets of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from xadflow.errors import BadInput
from xadflow.metrics.components import CUTS, Components, component_overlaps


def mask(*rows: str) -> np.ndarray:
    """`#` is True."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_the_published_cuts():
    assert CUTS == (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)


def test_one_region_half_found():
    anomaly = mask("####....", "........")
    flagged = mask("..####..", "........")
    siou, ppv = component_overlaps(flagged, anomaly)
    assert siou.tolist() == [2 / 6]
    assert ppv.tolist() == [2 / 4]
    found = Components()
    found.add(flagged, anomaly)
    # found at .25 and .30; false above .5. t=.25,.30: TP 1. .35-.50: FN 1. .55-.75: FN 1, FP 1.
    assert found.figures().f1_by_cut == (1.0, 1.0, *[0.0] * 9)
    assert found.figures().f1 == pytest.approx(2 / 11)


def test_a_blob_over_two_anomalies_is_not_punished_for_the_other():
    anomaly = mask("##..##", "##..##")
    flagged = mask("######", "######")
    siou, ppv = component_overlaps(flagged, anomaly)
    assert siou.tolist() == [4 / 8, 4 / 8]  # 12 predicted, less 4 of the other anomaly
    assert ppv.tolist() == [8 / 12]


def test_pieces_of_one_anomaly_count_together_and_each_is_right():
    siou, ppv = component_overlaps(mask("##.##.....", ".........#"), mask("#####.....", ".........."))
    assert siou.tolist() == [4 / 5]
    assert ppv.tolist() == [1.0, 1.0, 0.0]


def test_corners_touch():
    siou, ppv = component_overlaps(mask("#.", ".#"), mask("#.", ".#"))
    assert siou.tolist() == [1.0]
    assert ppv.tolist() == [1.0]


def test_f1_averages_over_the_cuts_and_sums_over_images():
    found = Components()
    found.add(mask("##########"), mask("#####....."))  # sIoU .5, PPV .5
    found.add(
        mask("..........", "..........", "....#....."), mask("##########", "..........", "..........")
    )  # missed, false
    figures = found.figures()
    # t <= .5: TP 1, FN 1, FP 1 -> .5 (6 cuts). t > .5: TP 0 (5 cuts).
    assert figures.f1_by_cut == (0.5,) * 6 + (0.0,) * 5
    assert figures.f1 == pytest.approx(3 / 11)
    assert (figures.siou, figures.ppv) == (0.25, 0.25)
    assert (figures.labelled, figures.predicted) == (2, 2)


def test_ignored_pixels_are_in_no_component():
    anomaly, flagged = mask("####......"), mask("..######..")
    ignored = mask("..##......")
    siou, ppv = component_overlaps(flagged, anomaly, ignored)
    assert siou.tolist() == [0.0]
    assert ppv.tolist() == [0.0]
    for other in (flagged | ignored, flagged & ~ignored):
        for truth in (anomaly | ignored, anomaly & ~ignored):
            again = component_overlaps(other, truth, ignored)
            assert [part.tolist() for part in again] == [[0.0], [0.0]]


def test_small_predictions_are_dropped_and_small_labels_ignored_with_what_lies_on_them():
    anomaly = mask("####....##", "####......")
    flagged = mask("####.#..##", "####......")
    assert [part.tolist() for part in component_overlaps(flagged, anomaly)] == [[1.0, 1.0], [1.0, 0.0, 1.0]]
    assert [part.tolist() for part in component_overlaps(flagged, anomaly, min_predicted_px=2)] == [
        [1.0, 1.0],
        [1.0, 1.0],
    ]
    # 2 px are too few for a label; the prediction on them vanishes with them, the lone false one stays
    assert [part.tolist() for part in component_overlaps(flagged, anomaly, min_labelled_px=3)] == [[1.0], [1.0, 0.0]]
    assert component_overlaps(flagged, anomaly, min_labelled_px=2)[0].tolist() == [1.0, 1.0]


def test_nothing_to_find_and_nothing_found_is_none_and_not_a_number():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    found = Components()
    found.add(empty, empty)
    found.add(full, full, full)
    figures = found.figures()
    assert (figures.siou, figures.ppv, figures.f1, figures.f1_by_cut) == (None, None, None, ())
    found.add(empty, full)
    assert (found.figures().siou, found.figures().ppv, found.figures().f1) == (0.0, None, 0.0)
    only_false = Components()
    only_false.add(full, empty)
    assert (only_false.figures().siou, only_false.figures().ppv, only_false.figures().f1) == (None, 0.0, 0.0)


def by_sets(flagged: np.ndarray, anomaly: np.ndarray, void: np.ndarray) -> tuple[list[float], list[float]]:
    """The paper's formulas on sets of pixels."""

    def components(picture: np.ndarray) -> list[set[tuple[int, ...]]]:
        labels, count = ndimage.label(picture, np.ones((3, 3)))
        return [set(map(tuple, np.argwhere(labels == one))) for one in range(1, count + 1)]

    truth, predicted = components(anomaly & ~void), components(flagged & ~void)
    siou = []
    for k in truth:
        touching = set().union(*(one for one in predicted if one & k))
        others = set().union(*(one for one in truth if one is not k))
        siou.append(len(k & touching) / len((k | touching) - others))
    return siou, [len(one & set().union(*truth)) / len(one) for one in predicted]


@pytest.mark.parametrize("density", [0.15, 0.3, 0.45])
def test_random_pictures_equal_the_formula_on_sets(density):
    rng = np.random.default_rng(int(100 * density))
    for _ in range(15):
        flagged, anomaly, void = (rng.random((12, 15)) < share for share in (density, density, 0.1))
        siou, ppv = component_overlaps(flagged, anomaly, void)
        assert siou.size > 1
        assert (siou.tolist(), ppv.tolist()) == by_sets(flagged, anomaly, void)


def test_masks_of_other_shapes_or_types_are_refused():
    picture = np.zeros((3, 3), bool)
    for wrong in (picture.astype(float), picture[None], picture[:2]):
        with pytest.raises(BadInput, match="bool masks"):
            component_overlaps(wrong, picture)
        with pytest.raises(BadInput, match="bool masks"):
            component_overlaps(picture, picture, wrong)
