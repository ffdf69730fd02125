"""Cells, blends and parts of regions, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from xadflow.explainers.transplant.masks import blend_of, blended, blurred, grid_of, hottest, widened
from xadflow.explainers.transplant.search import _without_coolest, parts_of


def test_cells_are_square_and_at_most_about_a_thousand():
    assert grid_of(128, 128) == (32, 32)
    assert grid_of(24, 24) == (24, 24)
    assert grid_of(100, 400) == (16, 64)
    assert grid_of(1600, 2400) == (26, 39)
    assert grid_of(512, 24_000) == (5, 219)  # and not one cell of 750 px of its length


def test_the_hottest_cells_are_taken_in_reading_order_where_they_tie():
    heat = torch.tensor([[[0.0, 3.0], [3.0, 1.0]]])
    assert hottest(heat, 0.25).tolist() == [[[False, True], [False, False]]]
    assert hottest(heat, 0.5).tolist() == [[[False, True], [True, False]]]
    assert hottest(heat, 1e-6).sum() == 1
    assert hottest(heat, 1.0).all()


def test_all_cells_replace_all_pixels():
    assert (blend_of(torch.ones(1, 4, 4), (16, 16), 0.05, 0.1) - 1).abs().max() < 1e-6


def test_a_blend_is_widened_and_softened_as_stated():
    cells = torch.zeros(1, 4, 4)
    cells[0, 1, 1] = 1.0
    hard = blend_of(cells, (16, 16), 0.0, 0.0)[0].numpy()
    assert hard[4:8, 4:8].all()
    assert hard.sum() == 16
    wide = blend_of(cells, (16, 16), 2 / 16, 0.0)[0].numpy()
    assert wide[2:10, 2:10].all()
    assert wide.sum() == 64
    soft = blend_of(cells, (16, 16), 2 / 16, 1 / 16)[0].numpy()
    assert soft == pytest.approx(gaussian_filter(wide, 1.0, mode="nearest", truncate=3.0), abs=1e-5)


@pytest.mark.parametrize("reach", [0, 1, 3, 4, 11, 40])
def test_widening_is_max_pooling_whatever_the_reach(reach):
    maps = (torch.rand(2, 24, 37, generator=torch.Generator().manual_seed(1)) > 0.98).float()
    expected = F.max_pool2d(maps[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    assert torch.equal(widened(maps, reach), expected)


@pytest.mark.parametrize("size", [(1040, 1040), (300, 4000)])
def test_a_wide_blur_of_a_large_image_is_made_small_and_differs_by_what_nobody_sees(size):
    cells = torch.zeros(1, *grid_of(*size))
    cells[0, -2:, 3:5] = 1.0
    blend = blend_of(cells, size, 0.0, 0.03)[0]
    hard = F.interpolate(cells[:, None], size, mode="nearest-exact")[0, 0].numpy()
    sigma = 0.03 * (size[0] * size[1]) ** 0.5
    assert np.abs(blend.numpy() - gaussian_filter(hard, sigma, mode="nearest", truncate=3.0)).max() < 0.03
    assert (blend_of(torch.ones_like(cells), size, 0.02, 0.03) - 1).abs().max() < 1e-5
    assert (blend[:, size[1] // 2 :] == 0).all()  # far away nothing changes, and no window is scored again


def test_blur_is_scipys():
    maps = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(maps.numpy(), (0, 2.0, 2.0), mode="nearest", truncate=3.0)
    assert blurred(maps, 2.0).numpy() == pytest.approx(expected, abs=1e-5)


def test_what_is_blended_lies_on_8_bit_levels():
    x, donors = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    levels = blended(x, donors, torch.rand(2, 8, 8)) * 255
    assert (levels - levels.round()).abs().max() < 1e-3


def test_the_coolest_cells_go_first():
    cells = torch.tensor([[[True, True], [True, False]]])
    heat = torch.tensor([[[0.5, 0.1], [0.9, 0.0]]])
    assert _without_coolest(cells, heat, torch.tensor([0.3])).tolist() == [[[True, False], [True, False]]]
    assert _without_coolest(cells, heat, torch.tensor([0.66])).tolist() == [[[False, False], [True, False]]]
    assert _without_coolest(cells, heat, torch.tensor([0.01])).sum() == 2  # at least one


def test_parts_are_connected_and_come_largest_first():
    cells = torch.zeros(8, 8, dtype=torch.bool)
    assert list(parts_of(cells, 3)) == []
    cells[0:3, 0:3], cells[6:8, 6:8] = True, True
    first, second = parts_of(cells, 3)
    assert (int(first.sum()), int(second.sum())) == (9, 4)
    assert (first | second).equal(cells)
    assert len(list(parts_of(cells, 1))) == 1
    cells[3, 3] = True  # touches by a corner: one part
    assert np.sum([int(one.sum()) for one in parts_of(cells, 3)]) == 14
