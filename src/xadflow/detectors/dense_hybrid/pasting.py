"""Scenes with something of another kind pasted in, and where it is: whole batches at once, on their device.

Every paste is the negative, enlarged and shifted, seen through a shape drawn in the scene: a rectangle, or the union of
two blobs, two polygons, or two regions of the negative itself. All draws come from one generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.settings import PasteSettings
from xadflow.images import as_float

STEP_PX = 8  # between two sides that can be drawn
BANDS = 4  # of brightness, where a negative brings no regions
LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class Mixed:
    """Images float [B,C,H,W]; labels int64 [B,H,W], VOID on pastes and seams; pasted bool [B,H,W]: what is d_out."""

    images: Tensor
    labels: Tensor
    pasted: Tensor


@dataclass(frozen=True)
class Negatives:
    """Images uint8 [N,C,h,w] on the device; `regions` int64 [N,h,w] from 0 on: their own segmentation, where there is
    one.
    """

    images: Tensor
    regions: Tensor | None = None

    def drawn(self, count: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """So many, with replacement: float images in [0,1], and their regions."""
        rows = torch.randint(len(self.images), (count,), generator=generator, device=self.images.device)
        return as_float(self.images[rows]), None if self.regions is None else self.regions[rows]


def mixed(images: Tensor, labels: Tensor, negatives: Negatives, settings: PasteSettings, generator: Generator) -> Mixed:
    """Scenes float [B,C,H,W] with labels int64 [B,H,W], and `settings.pastes` pastes in each; the inputs stay as they
    are.
    """
    count, size, device = len(images), images.shape[2:], images.device
    result, target, pasted = images, labels, torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(settings.pastes):
        chosen, regions = negatives.drawn(count, generator)
        grid = placed(chosen, size, settings.zoom, generator)
        content = F.grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)
        given = None if regions is None else nearest(regions, grid)
        mask = shape(settings, content, given, generator)
        own = torch.full_like(labels, VOID)
        foreign = torch.ones(count, dtype=torch.bool, device=device)
        if settings.control:
            foreign = torch.rand(count, generator=generator, device=device) >= settings.control
            there = placed(images, size, settings.zoom, generator)
            piece = F.grid_sample(images.roll(1, 0), there, padding_mode="reflection", align_corners=False)
            content = torch.where(foreign.view(-1, 1, 1, 1), content, piece)
            own = torch.where(foreign.view(-1, 1, 1), own, nearest(labels.roll(1, 0), there))
        if settings.tone == "borrowed":
            content = in_tone_of(content, images.roll(1, 0), mask)
        alpha = feathered(mask, settings.feather_px)
        inside, seam = alpha >= 0.5, (alpha > 0) & (alpha < 0.5)
        result = torch.where(alpha[:, None] > 0, torch.lerp(result, content, alpha[:, None]), result)
        target = torch.where(inside, own, torch.where(seam, VOID, target))
        pasted = torch.where(inside, foreign.view(-1, 1, 1), pasted & ~seam)
    return Mixed(result, target, pasted)


def placed(images: Tensor, size: torch.Size, zoom: tuple[float, float], generator: Generator) -> Tensor:
    """Grids [B,H,W,2] that see a window in each image [B,C,h,w]: enlarged by its own factor, mirrored or
    not, anywhere.
    """
    factor, flip, across, down = torch.rand(4, len(images), generator=generator, device=images.device)
    enlarged = zoom[0] + (zoom[1] - zoom[0]) * factor
    high, wide = (whole / part / enlarged for whole, part in zip(size, images.shape[2:], strict=True))  # of the window
    zero = torch.zeros_like(factor)
    rows = [
        torch.stack([torch.where(flip < 0.5, wide, -wide), zero, (2 * across - 1) * (1.0 - wide).abs()], dim=1),
        torch.stack([zero, high, (2 * down - 1) * (1.0 - high).abs()], dim=1),
    ]
    return F.affine_grid(torch.stack(rows, dim=1), [len(images), 1, *size], align_corners=False)


def nearest(classes: Tensor, grid: Tensor) -> Tensor:
    """Ids int64 [B,h,w] at the grid's places, never mixed."""
    found = F.grid_sample(
        classes[:, None].to(grid.dtype), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return found[:, 0].round().to(classes.dtype)


def shape(settings: PasteSettings, content: Tensor, regions: Tensor | None, generator: Generator) -> Tensor:
    """Where each paste goes, bool [B,H,W], inside the scene; `regions` [B,H,W] are those of the content, if it brings
    any.
    """
    count, size, device = len(content), content.shape[2:], content.device
    is_rectangle = torch.rand(count, generator=generator, device=device) < settings.rectangle
    box = rectangles(settings, count, size, generator, device)
    if settings.shapes == "regions":
        free = box & two_regions(brightness_bands(content) if regions is None else regions, box, generator)
    else:
        free = torch.zeros_like(box)
        for _ in range(2):
            free |= drawn_shapes(settings, count, size, generator, device)
    return torch.where(is_rectangle.view(-1, 1, 1), box, free)


def sides(settings: PasteSettings, size: torch.Size) -> list[int]:
    """What heights and widths are drawn from: smallest_px and steps of 8 above it, shorter than the scene."""
    shorter = min(size)
    most = min(shorter - 1, math.floor(settings.largest * shorter))
    return list(range(settings.smallest_px, most + 1, STEP_PX)) or [max(1, min(settings.smallest_px, most))]


def rectangles(
    settings: PasteSettings, count: int, size: torch.Size, generator: Generator, device: torch.device
) -> Tensor:
    """Filled, wholly inside; bool [B,H,W]."""
    top, left, high, wide = _boxes(settings, count, size, generator, device)
    y, x = _pixels(size, device)
    inside_y = (y >= top.view(-1, 1, 1)) & (y < (top + high).view(-1, 1, 1))
    return inside_y & (x >= left.view(-1, 1, 1)) & (x < (left + wide).view(-1, 1, 1))


def drawn_shapes(
    settings: PasteSettings, count: int, size: torch.Size, generator: Generator, device: torch.device
) -> Tensor:
    """One blob or polygon each, in a box of a drawn size; bool [B,H,W]."""
    top, left, high, wide = (part.view(-1, 1, 1).float() for part in _boxes(settings, count, size, generator, device))
    y, x = _pixels(size, device)
    v, u = (2 * (y + 0.5 - top) / high - 1), (2 * (x + 0.5 - left) / wide - 1)  # the box is [-1,1]^2
    in_box = (u.abs() <= 1) & (v.abs() <= 1)
    draws = torch.rand(2, 6, count, 1, 1, generator=generator, device=device)
    if settings.shapes == "polygons":  # six half-planes at about even angles, each .5 to 1 from the middle
        angles = (torch.arange(6, device=device).view(-1, 1, 1, 1) + draws[0]) * (math.pi / 3)
        apart = 0.5 + 0.5 * draws[1]
        return in_box & (angles.cos() * u + angles.sin() * v <= apart).all(dim=0)
    around, radius = torch.atan2(v, u), torch.hypot(u, v)
    waves = torch.zeros_like(radius)
    for number, (phase, height) in enumerate(zip(*draws[:, :3], strict=True), start=2):
        waves = waves + height / number * torch.sin(number * around + 2 * math.pi * phase)
    return in_box & (radius <= 0.7 * (1 + 0.5 * waves))


def two_regions(regions: Tensor, box: Tensor, generator: Generator) -> Tensor:
    """The union of two regions, drawn with replacement from those that each box [B,H,W] shows."""
    ids = int(regions.max()) + 1
    present = torch.zeros(len(regions), ids, device=regions.device)
    present.scatter_add_(1, regions.flatten(1), box.flatten(1).float())
    both = torch.multinomial((present > 0).float(), 2, replacement=True, generator=generator)  # (B, 2)
    first, second = (regions == both[:, i].view(-1, 1, 1) for i in (0, 1))
    return first | second


def in_tone_of(content: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """The content with mean and spread, per channel, of what the other image has under the mask; cut to [0,1]."""
    mean, spread = _tone(content, mask)
    wanted_mean, wanted_spread = _tone(other, mask)
    return ((content - mean) / spread * wanted_spread + wanted_mean).clamp(0, 1)


def feathered(mask: Tensor, width_px: int) -> Tensor:
    """How much of the paste shows, float [B,H,W]: 1 inside, 0 outside, a ramp of 2 width_px + 1 across the edge."""
    alpha = mask.float()
    if width_px == 0:
        return alpha
    around = F.pad(alpha[:, None], [width_px] * 4, mode="replicate")
    return F.avg_pool2d(around, 2 * width_px + 1, 1)[:, 0]


def brightness_bands(content: Tensor) -> Tensor:
    """A segmentation for negatives that have none: quarters of the smoothed brightness, int64 [B,H,W]."""
    grey = F.avg_pool2d(content.mean(dim=1, keepdim=True), 5, 1, 2, count_include_pad=False)[:, 0]
    ranks = torch.arange(1, BANDS, device=grey.device) / BANDS
    cuts = grey.flatten(1).quantile(ranks, dim=1)  # (BANDS - 1, B)
    bands: Tensor = (grey > cuts.view(BANDS - 1, -1, 1, 1)).sum(dim=0)
    return bands


def _boxes(
    settings: PasteSettings, count: int, size: torch.Size, generator: Generator, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width, int64 [B] each."""
    choices = torch.tensor(sides(settings, size), device=device)
    high, wide = choices[torch.randint(len(choices), (2, count), generator=generator, device=device)]
    down, across = torch.rand(2, count, generator=generator, device=device)
    top = (down * (size[0] - high + 1)).long()
    left = (across * (size[1] - wide + 1)).long()
    return torch.minimum(top, size[0] - high), torch.minimum(left, size[1] - wide), high, wide


def _pixels(size: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows [1,H,1] and columns [1,1,W]."""
    return torch.arange(size[0], device=device).view(1, -1, 1), torch.arange(size[1], device=device).view(1, 1, -1)


def _tone(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread under the mask, [B,C,1,1] each."""
    share = mask[:, None].float()
    pixels = share.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (images * share).sum(dim=(2, 3), keepdim=True) / pixels
    variance = ((images - mean).square() * share).sum(dim=(2, 3), keepdim=True) / pixels
    return mean, variance.sqrt().clamp_min(LEAST_SPREAD)
