"""Synthetic defects: whole batches at once, on the device of the images, with exact masks.

What is drawn is what helped on solar cells (docs/explanation/methods.md, "Solar cells"); nothing in it is specific to
them. An image and its defective copy are identical outside the mask, and differ by at least `MIN_CONTRAST` inside it.
Confetti noise, the synthetic anomaly of the FCDD paper, is in xadflow.defects.confetti.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from xadflow.errors import BadInput

MIN_CONTRAST = 3.0  # grey levels of 255: what a pixel must change by to count as defect
REDRAWS = 4  # a dark defect on black pixels changes nothing and is drawn again this often before a square is forced


def synthetic_defects(
    images: Tensor, generator: Generator, kinds: tuple[str, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """A defective copy of each image and its mask: (like `images`, bool [B,H,W]); the input is not changed.

    `images` is uint8 [B,C,H,W], or floating in [0,1]; C is 1 or 3 (all channels change by the same grey levels or
    factor). Each image gets one of `kinds` (default: all of :data:`KINDS`) with equal chance. The same generator
    state gives the same defects.

    Raises:
        BadInput: another shape, or a kind that does not exist.
    """
    names = kinds or tuple(KINDS)
    if images.ndim != 4 or min(images.shape[2:]) < 16 or not set(names) <= set(KINDS):
        raise BadInput(
            f"synthetic defects need images [B,C,H,W] of at least 16 px and kinds out of {list(KINDS)}",
            seen=(tuple(images.shape), names),
            next_step="check size_px of the data set",
        )
    pixels = images.float() * (1.0 if images.dtype == torch.uint8 else 255.0)
    changed, masks = _draw(pixels, names, generator)
    for attempt in range(REDRAWS + 1):
        missing = (~masks.flatten(1).any(dim=1)).nonzero().flatten()
        if missing.numel() == 0:
            break
        last = attempt == REDRAWS
        again, again_masks = _forced(pixels[missing]) if last else _draw(pixels[missing], names, generator)
        changed[missing], masks[missing] = again, again_masks
    if images.dtype == torch.uint8:
        return torch.where(masks[:, None], changed.to(torch.uint8), images), masks
    return torch.where(masks[:, None], (changed / 255.0).to(images.dtype), images), masks


def _draw(pixels: Tensor, names: tuple[str, ...], generator: Generator) -> tuple[Tensor, Tensor]:
    """Whole grey levels [B,C,H,W] in [0,255] after one defect each, and where they differ enough [B,H,W]."""
    kind = torch.randint(len(names), (len(pixels),), generator=generator, device=pixels.device)
    changed = pixels.clone()
    for number, name in enumerate(names):
        chosen = (kind == number).nonzero().flatten()
        if chosen.numel():
            changed[chosen] = KINDS[name](pixels[chosen], generator)
    changed = changed.round().clamp(0.0, 255.0)  # 8 bits: what a stored defective image would hold
    return changed, ((changed - pixels).abs() >= MIN_CONTRAST).any(dim=1)


def _forced(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """A square of a quarter of each side in the middle, moved by half the range: possible on any image."""
    height, width = pixels.shape[2:]
    rows, columns = slice(height * 3 // 8, height * 5 // 8), slice(width * 3 // 8, width * 5 // 8)
    changed = pixels.clone()
    square = changed[:, :, rows, columns]
    changed[:, :, rows, columns] = torch.where(square < 128.0, square + 127.0, square - 127.0).round()
    return changed, ((changed - pixels).abs() >= MIN_CONTRAST).any(dim=1)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _grid(pixels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Row and column coordinates [H,1], [1,W] in px, and the shorter side."""
    height, width = pixels.shape[2:]
    rows = torch.arange(height, device=pixels.device, dtype=torch.float32)[:, None]
    return rows, torch.arange(width, device=pixels.device, dtype=torch.float32)[None, :], float(min(height, width))


def squares(pixels: Tensor, generator: Generator) -> Tensor:
    """1 to 4 rotated squares with soft edges, each darker (80 %) or brighter by 20 to 80 % of the local value."""
    batch, most = len(pixels), 4
    rows, columns, side = _grid(pixels)
    height, width = pixels.shape[2:]
    shape = (batch, most, 1, 1)
    centre_y, centre_x = _uniform(generator, 0, height, *shape), _uniform(generator, 0, width, *shape)
    half = _uniform(generator, 0.02, 0.12, *shape) * side
    angle = _uniform(generator, 0, math.pi / 2, *shape)
    softness = _uniform(generator, 0.3, 1.5, *shape)  # px
    depth = _uniform(generator, 0.2, 0.8, *shape)
    sign = torch.where(_uniform(generator, 0, 1, *shape) < 0.8, -1.0, 1.0)
    present = torch.arange(most, device=pixels.device).view(1, most, 1, 1) < 1 + (
        _uniform(generator, 0, most, batch, 1, 1, 1).floor()
    )
    dy, dx = rows - centre_y, columns - centre_x  # (B, 4, H, W) by broadcasting
    along = (dy * angle.cos() + dx * angle.sin()).abs()
    across = (dx * angle.cos() - dy * angle.sin()).abs()
    profile = torch.sigmoid((half - torch.maximum(along, across)) / softness) * present
    return pixels * (1.0 + sign * depth * profile).prod(dim=1, keepdim=True)


def cut_paste(pixels: Tensor, generator: Generator) -> Tensor:
    """A rectangle of the image pasted elsewhere with a gain of 0.5 to 1 (CutPaste: Li et al., CVPR 2021)."""
    batch, _, height, width = pixels.shape
    shape = (batch, 1, 1)
    patch_h = (_uniform(generator, 0.08, 0.4, *shape) * height).round().clamp_min(2)
    patch_w = (_uniform(generator, 0.08, 0.4, *shape) * width).round().clamp_min(2)
    from_y, to_y = ((_uniform(generator, 0, 1, *shape) * (height - patch_h)).floor() for _ in range(2))
    from_x, to_x = ((_uniform(generator, 0, 1, *shape) * (width - patch_w)).floor() for _ in range(2))
    gain = _uniform(generator, 0.5, 1.0, batch, 1, 1, 1)
    rows, columns, _side = _grid(pixels)
    inside = (rows >= to_y) & (rows < to_y + patch_h) & (columns >= to_x) & (columns < to_x + patch_w)  # (B, H, W)
    source_y = (rows - to_y + from_y).clamp(0, height - 1)
    source_x = (columns - to_x + from_x).clamp(0, width - 1)
    index = (source_y * width + source_x).long().flatten(1)[:, None].expand(-1, pixels.shape[1], -1)  # (B, C, H*W)
    pasted = pixels.flatten(2).gather(2, index).view_as(pixels) * gain
    return torch.where(inside[:, None], pasted, pixels)


def blotch(pixels: Tensor, generator: Generator) -> Tensor:
    """Smooth noise cut at the quantile that leaves 3 to 30 % of the area; darker (80 %) or brighter by 15 to 70 %."""
    profile = _blotch_profile(pixels, generator, 0.03, 0.30)
    depth = _uniform(generator, 0.15, 0.7, len(pixels), 1, 1, 1)
    sign = torch.where(_uniform(generator, 0, 1, len(pixels), 1, 1, 1) < 0.8, -1.0, 1.0)
    return pixels * (1.0 + sign * depth * profile)


def _blotch_profile(pixels: Tensor, generator: Generator, least: float, most: float) -> Tensor:
    batch, _, height, width = pixels.shape
    coarse = torch.randn(batch, 1, 6, 6, generator=generator, device=pixels.device)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    area = _uniform(generator, least, most, batch)
    ordered = smooth.flatten(1).sort(dim=1).values  # (B, H*W)
    rank = ((1.0 - area) * (ordered.shape[1] - 1)).long()[:, None]
    level = ordered.gather(1, rank).view(batch, 1, 1, 1)
    return torch.sigmoid((smooth - level) * 20.0) * (smooth > level)


def crack(pixels: Tensor, generator: Generator) -> Tensor:
    """A random walk across the image, Gaussian profile of sigma 0.5 to 0.9 px (at 128 px), darker by 30 to 90 %."""
    depth = _uniform(generator, 0.3, 0.9, len(pixels), 1, 1, 1)
    return pixels * (1.0 - depth * _crack_profile(pixels, generator)[0])


def dark_crack(pixels: Tensor, generator: Generator) -> Tensor:
    """A crack with the region on one side of it darker by 10 to 60 %: a part that lost its contact."""
    line, side = _crack_profile(pixels, generator)
    depth = _uniform(generator, 0.3, 0.9, len(pixels), 1, 1, 1)
    shade = _uniform(generator, 0.1, 0.6, len(pixels), 1, 1, 1)
    return pixels * (1.0 - depth * line) * (1.0 - shade * side * _blotch_profile(pixels, generator, 0.15, 0.5))


def _crack_profile(pixels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Line profile in [0,1] and half-plane of its side, both [B,1,H,W].

    The walk's points are splatted bilinearly and blurred by two matrix products: memory is one canvas an image.
    """
    batch, _, height, width = pixels.shape
    rows, columns, side = _grid(pixels)
    steps = int(2 * max(height, width))  # half a pixel each
    start_y, start_x = _uniform(generator, 0, height, batch, 1), _uniform(generator, 0, width, batch, 1)
    heading = _uniform(generator, 0, 2 * math.pi, batch, 1)
    turns = torch.randn(batch, steps, generator=generator, device=pixels.device) * 0.12
    angle = heading + turns.cumsum(dim=1)
    length = (_uniform(generator, 0.15, 1.0, batch, 1) * steps).floor()
    drawn = (torch.arange(steps, device=pixels.device)[None, :] < length).float()  # (B, steps)
    y, x = start_y + 0.5 * angle.sin().cumsum(dim=1), start_x + 0.5 * angle.cos().cumsum(dim=1)

    canvas = torch.zeros(batch, height * width, device=pixels.device)
    low_y, low_x = y.floor(), x.floor()
    for step_y in (0, 1):
        for step_x in (0, 1):
            corner_y, corner_x = low_y + step_y, low_x + step_x
            weight = (1 - (y - corner_y).abs()) * (1 - (x - corner_x).abs()) * drawn
            weight = weight * (corner_y >= 0) * (corner_y < height) * (corner_x >= 0) * (corner_x < width)
            index = corner_y.clamp(0, height - 1) * width + corner_x.clamp(0, width - 1)
            canvas.scatter_add_(1, index.long(), weight)
    sigma = _uniform(generator, 0.5, 0.9, batch, 1, 1) * max(1.0, side / 128.0)
    blurred = _blur(rows, sigma) @ canvas.view(batch, height, width) @ _blur(columns.T, sigma)  # (B, H, W)
    peak = 2.0 / (math.sqrt(2.0 * math.pi) * sigma)  # of a straight line with two points a pixel
    line = (blurred / peak).clamp_max(1.0)
    normal_y, normal_x = heading.cos()[..., None], -heading.sin()[..., None]
    beside = ((rows - start_y[..., None]) * normal_y + (columns - start_x[..., None]) * normal_x) > 0
    return line[:, None], beside[:, None].float()


def _blur(position: Tensor, sigma: Tensor) -> Tensor:
    """Symmetric Gaussian matrices [B,n,n] of unit integral for positions [n,1] and sigma [B,1,1]."""
    distance = (position - position.T)[None]  # (1, n, n)
    return torch.exp(-distance.square() / (2.0 * sigma.square())) / (math.sqrt(2.0 * math.pi) * sigma)


KINDS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "squares": squares,
    "cut_paste": cut_paste,
    "blotch": blotch,
    "crack": crack,
    "dark_crack": dark_crack,
}
"""Kind of defect to the function that draws it: grey levels [B,C,H,W] and a generator in, grey levels out."""
