"""Regions as masks of cells, and how a mask becomes a blend: cells, widened a little, with a soft border."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.images import on_levels
from xadflow.settings.blocks import LARGE_PX

CELLS = 32  # of a square's side, at most: what regions are made of; the soft border is about as wide as a cell
_SIGMA_PX = 8.0  # of a blur that is made smaller: bilinear steps of an eighth of it are not seen


def grid_of(height: int, width: int) -> tuple[int, int]:
    """Cells of an image: about 32 x 32 = 1024 of them whatever its shape, square within a pixel."""
    side = side_of(height, width)
    cells = min(CELLS, side)
    return max(1, round(cells * height / side)), max(1, round(cells * width / side))


def side_of(height: int, width: int) -> float:
    """Side of the square of as many pixels: what shares of a length are shares of. A long strip is not its length."""
    return math.sqrt(height * width)


def to_cells(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of maps [R,H,W] in each cell, [R,u,v]; of a large image, where a defect is less than a cell, the most."""
    if maps.shape[1] * maps.shape[2] > LARGE_PX:
        return F.adaptive_max_pool2d(maps[:, None], grid)[:, 0]
    return F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0]


def hottest(heat: Tensor, share: float) -> Tensor:
    """The hottest `share` of the cells, at least one; bool of the shape of heat [R,u,v]. Ties: the first in reading
    order.
    """
    flat = heat.flatten(1)
    count = min(flat.shape[1], max(1, round(share * flat.shape[1])))
    order = flat.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(heat)


def completed(cells: Tensor, heat: Tensor, share: float) -> Tensor:
    """`cells` bool [R,u,v] and what belongs to them: cells joined to them that are hot too, narrow gaps, holes.

    Hot is what has at least `share` of the heat [R,u,v] of the region's hottest cell, and any heat at all; joined, that
    a chain of such cells, corners included, leads to the region (Canny's hysteresis, IEEE PAMI 1986). Gaps of at most
    two cells are closed, for the widened borders on either side leave a strip of a few pixels of them.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, binary_propagation

    peak = heat.masked_fill(~cells, -torch.inf).amax(dim=(1, 2), keepdim=True)
    hot = (heat >= share * peak) & (heat > 0)
    around, beside = np.ones((1, 3, 3), np.bool_), np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], np.bool_)
    region = binary_propagation(cells.cpu().numpy(), around, mask=(cells | hot).cpu().numpy())
    outside = ((0, 0), (1, 1), (1, 1))  # else a closing would take away what lies at the border of the image
    closed = binary_closing(np.pad(region, outside), around)[:, 1:-1, 1:-1]
    return torch.from_numpy(binary_fill_holes(closed, beside)).to(cells.device)


def blend_of(cells: Tensor, size: tuple[int, int], dilation: float, feather: float) -> Tensor:
    """The donor's share of each pixel, [R,H,W] in [0,1], of cells [R,u,v] in [0,1].

    `dilation` and `feather` are shares of the side of a square of this size. All cells give 1 everywhere.
    """
    made = _made_at(size, feather * side_of(*size))
    side = side_of(*made)
    mask = F.interpolate(cells[:, None].float(), made, mode="nearest-exact")[:, 0]
    return _brought_to(blurred(widened(mask, round(dilation * side)), feather * side), size)


def widened(maps: Tensor, reach: int) -> Tensor:
    """The highest value of maps [R,H,W] >= 0 within `reach` px down and across: what max pooling gives.

    The highest of a window is that of two windows of half its length, so each axis takes log2 of the reach steps.
    """
    for axis, sides in ((1, (0, 0, reach, reach)), (2, (reach, reach))) if reach else ():
        length, done, wide = maps.shape[axis], 1, F.pad(maps, sides)
        while 2 * done <= 2 * reach + 1:
            left = wide.shape[axis] - done
            wide = torch.maximum(wide.narrow(axis, 0, left), wide.narrow(axis, done, left))
            done *= 2
        maps = torch.maximum(wide.narrow(axis, 0, length), wide.narrow(axis, 2 * reach + 1 - done, length))
    return maps


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps [R,H,W] with the border repeated; none below a sigma of .1 px.

    That of a large image by many pixels is made of a smaller one and brought back to its size.
    """
    if sigma < 0.1 or len(maps) == 0:
        return maps
    size = (int(maps.shape[1]), int(maps.shape[2]))
    made = _made_at(size, sigma)
    if made == size:
        return _blurred(maps, sigma)
    small = F.interpolate(maps[:, None], made, mode="area")[:, 0]
    return _brought_to(_blurred(small, sigma * side_of(*made) / side_of(*size)), size)


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-at.square() / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    count = len(maps)  # as channels of one image, since one image a map takes twenty times as long on a CPU
    wide = F.pad(maps[None], (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(wide, kernel.expand(count, 1, 1, -1), groups=count)
    return F.conv2d(across, kernel[:, None].expand(count, 1, -1, 1), groups=count)[0]


def _made_at(size: tuple[int, int], sigma: float) -> tuple[int, int]:
    """The size at which a blur of `size` by `sigma` px is made: its own, but of a large image where it is one by 8."""
    if size[0] * size[1] <= LARGE_PX or sigma < 2 * _SIGMA_PX:
        return size
    return max(1, round(size[0] * _SIGMA_PX / sigma)), max(1, round(size[1] * _SIGMA_PX / sigma))


def _brought_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def blended(x: Tensor, donors: Tensor, blend: Tensor) -> Tensor:
    """x [R,C,H,W] with the donors' pixels where `blend` [R,H,W] says, rounded to 8 bit: what is judged is what is
    stored.
    """
    return on_levels(x + blend[:, None] * (donors - x))
