"""The matrix form of Gaussian upsampling against conv_transpose2d (fcdd.md, sections 3, 4 and 10, items 3 to 6)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from xadflow.networks.upsampling import GaussianUpsampling, gaussian_matrix, receptive_field

POOL = (2, 2, 0)


def conv(kernel: int) -> tuple[int, int, int]:
    return kernel, 1, kernel // 2


# network: (input side, layers, published (cells, stride, extent, start), sigma of its run)
NETWORKS = {
    "CNN28_W": (28, [conv(5), POOL, conv(5), POOL, conv(1)], (7, 4, 16, 1.5), 1.2),
    "CNN32": (32, [conv(5), POOL, conv(5), POOL, conv(5), conv(1)], (8, 4, 32, 1.5), 1.2),
    "CNN32_S": (32, [conv(3), POOL, conv(3), POOL, conv(3), conv(1)], (8, 4, 18, 1.5), 1.2),
    "CNN32_LW3K": (32, [conv(3), POOL, conv(3), conv(3), POOL, conv(3), conv(1)], (8, 4, 22, 1.5), 1.2),
    "VGG": (
        224,
        [conv(3), POOL, conv(3), POOL, conv(3), conv(3), POOL, conv(3), conv(3), conv(1)],
        (28, 8, 62, 3.5),
        12.0,
    ),
    "CNN224": (
        224,
        [conv(5), (3, 2, 1), conv(5), (3, 2, 1), conv(3), conv(3), (3, 2, 1), conv(3), conv(1)],
        (28, 8, 59, 0.0),
        12.0,
    ),
}


def published_upsampling(maps: torch.Tensor, size: int, stride: int, extent: int, start: float, sigma: float):
    """The paper's code path: one fixed r x r kernel in a transposed convolution, then a crop."""
    even = extent % 2 == 0
    distance = (torch.arange(extent, dtype=torch.float64) - (extent - 1) / 2).abs()
    taps = torch.exp(-(distance - 0.5 * even).square() / (2 * sigma**2)) * (0.5 if even else 1.0)
    kernel = (taps[:, None] * taps[None, :])[None, None]
    rest = size - (maps.shape[-1] - 1) * stride - 1 - even
    out = F.conv_transpose2d(maps[:, None], kernel, stride=stride, output_padding=rest)[:, 0]
    pad, first = (extent - 1) // 2, math.floor(start)
    crop = slice(pad - first, -(pad + first) or None)
    return out[:, crop, crop]


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_arithmetic_gives_the_published_table(name: str):
    size, layers, published, _ = NETWORKS[name]
    assert tuple(receptive_field(size, layers)) == published


@pytest.mark.parametrize("name", NETWORKS)
def test_two_matrix_products_equal_the_transposed_convolution(name: str):
    size, layers, _, sigma = NETWORKS[name]
    field = receptive_field(size, layers)
    maps = torch.rand(2, field.cells, field.cells, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    side = gaussian_matrix(size, field.cells, stride=field.stride, start=field.start, extent=field.extent, sigma=sigma)
    ours = GaussianUpsampling(side, side, "none")(maps)
    theirs = published_upsampling(maps, size, field.stride, field.extent, field.start, sigma)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_one_hot_cell_of_vgg_peaks_at_a_quarter_on_its_two_by_two_block():
    side = gaussian_matrix(224, 28, stride=8, start=3.5, extent=62, sigma=12.0)
    one_hot = torch.zeros(1, 28, 28, dtype=torch.float64)
    one_hot[0, 5, 11] = 1.0
    up = GaussianUpsampling(side, side, "none")(one_hot)[0]
    at_peak = (up >= up.max() - 1e-12).nonzero().tolist()
    assert up.max().item() == pytest.approx(0.25, abs=1e-12)
    assert at_peak == [[row, column] for row in (43, 44) for column in (91, 92)]


@pytest.mark.parametrize(("sigma", "gain"), [(12.0, 3.72), (10.0, 2.65), (8.0, 1.74)])
def test_interior_gain_of_vgg_is_the_measured_one(sigma: float, gain: float):
    side = gaussian_matrix(224, 28, stride=8, start=3.5, extent=62, sigma=sigma)
    full = GaussianUpsampling(side, side, "dc").gain()
    assert full.item() == pytest.approx(gain, abs=0.005)


@pytest.mark.parametrize(("size", "cells"), [((200, 312), (25, 39)), ((128, 128), (8, 8)), ((96, 70), (6, 5))])
def test_coverage_keeps_a_constant_constant_up_to_the_edges(size: tuple[int, int], cells: tuple[int, int]):
    up = GaussianUpsampling.over_grid(size, cells, 9.0, "coverage")
    heat = up(torch.full((2, *cells), 0.7))
    assert heat.shape == (2, *size)
    torch.testing.assert_close(heat, torch.full_like(heat, 0.7), rtol=1e-6, atol=0)


def test_published_form_loses_three_quarters_of_the_heat_at_a_corner():
    side = gaussian_matrix(224, 28, stride=8, start=3.5, extent=62, sigma=12.0)
    heat = GaussianUpsampling(side, side, "none")(torch.ones(1, 28, 28, dtype=torch.float64))[0]
    assert (heat[0, 0] / heat[112, 112]).item() == pytest.approx(0.27, abs=0.01)
    assert (heat[0, 112] / heat[112, 112]).item() == pytest.approx(0.52, abs=0.01)


def test_rectangular_upsampling_is_the_square_one_along_each_axis():
    up = GaussianUpsampling.over_grid((64, 96), (4, 8), 10.0, "none")
    maps = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.stack(
        [torch.stack([up.rows @ column for column in single.T], dim=1) @ up.columns.T for single in maps]
    )
    torch.testing.assert_close(up(maps), one_by_one)


def test_hottest_pixel_lies_in_the_tile_of_the_hottest_cell():
    up = GaussianUpsampling.over_grid((64, 96), (4, 6), 12.0, "coverage")
    for row in range(4):
        for column in range(6):
            one_hot = torch.zeros(1, 4, 6)
            one_hot[0, row, column] = 1.0
            peak = int(up(one_hot)[0].argmax())
            assert (peak // 96 // 16, peak % 96 // 16) == (row, column)
