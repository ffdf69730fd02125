"""benchmarks/robust.py: shares inside the mask, their differences, and what the page says of the acceptance."""

import numpy as np
import pytest
import torch

from benchmarks import robust
from benchmarks.robust_table import robust_section, verdict
from benchmarks.textures import Texture
from xadflow.detectors import TrainingData


def test_a_share_is_the_sum_of_absolute_changes_inside_and_unchanged_images_have_none():
    changes = np.array([[[4, -2], [-1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, -9]]], dtype=np.int16)
    masks = np.array([[[True, False], [True, False]]] * 3)
    np.testing.assert_allclose(robust.share_inside(changes, masks), [5 / 8, np.nan, 0.0])


def a_cell(scores, changes):
    return robust.Cell(
        0.5, np.array(scores), np.array(scores) / 2, np.array(changes, dtype=np.int16), np.ones(3, dtype=bool)
    )


def test_only_defects_that_both_twins_flag_are_compared_and_each_with_itself():
    mask = np.zeros((5, 2, 2), dtype=bool)
    mask[2:, 0, 0] = True
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    texture = Texture(TrainingData(images, images, images, None, images), images, np.array([0, 0, 1, 1, 1]), mask)
    inside, outside, half = [[8, 0], [0, 0]], [[0, 0], [0, 8]], [[8, 0], [0, 8]]
    cells = {
        ("plain", 0): a_cell([0.1, 0.2, 0.9, 0.9, 0.4], [outside, half, inside]),
        ("robust", 0): a_cell([0.1, 0.6, 0.9, 0.9, 0.9], [half, inside, outside]),
    }
    found = robust.figures_of(cells, texture, (0,))
    assert found["robust_minus_plain"]["value"] == pytest.approx(0.5)  # the third defect, -1, is not flagged by both
    assert [found["rows"][twin]["0"]["inside"] for twin in robust.TWINS] == pytest.approx([0.25, 0.75])
    assert found["rows"]["robust"]["0"] == pytest.approx(
        {
            "auroc": 1.0,
            "auroc_attacked": 1.0,
            "explained": 2,
            "flagged_normals": 0.5,
            "flipped": 1.0,
            "inside": 0.75,
            "chance": 0.25,
            "l2": np.mean([np.hypot(8, 8), 8]) / 255,
        }
    )
    assert found["minus_chance"]["plain"]["value"] == pytest.approx(0.0)


def a_difference(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(("lost", "low", "said"), [(0.01, 0.1, "**holds**"), (0.05, -0.1, "**does not hold**")])
def test_the_page_says_of_each_part_of_the_acceptance_whether_it_holds(lost, low, said):
    row = {"auroc_attacked": 0.5, "explained": 70, "flipped": 1.0, "inside": 0.6, "chance": 0.05, "l2": 1.2}
    rows = {"plain": {"0": row | {"auroc": 0.9}}, "robust": {"0": row | {"auroc": 0.9 - lost}}}
    figures = {
        "rows": rows,
        "robust_minus_plain": a_difference(0.3, low, 0.5),
        "minus_chance": {"plain": a_difference(0.2, 0.1, 0.3)},
        "texture": "brick",
        "rung": "easy",
        "method": "bce",
        "detector": robust.DETECTOR,
        "robust": robust.ROBUST,
        "known": 20,
        "radius": 0.26,
    }
    assert verdict(figures).count(said) == 2
    assert "| plain | 0.900 (0.900) | 0.500 (0.500) | 70 (70) |" in robust_section(figures)
