"""Confetti noise, the synthetic anomaly of FCDD: blurred, rotated, coloured squares added to an image.

Liznerski et al., ICLR 2021, appendix; the numbers are those of the published code (docs/explanation/methods.md,
"FCDD"), where an image is 240 px. Here the expected number of blobs an image is kept at other sizes and the sides scale
with the shorter side, so that a defect covers the same share of the image. All blobs of a batch are drawn at once.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from xadflow.errors import BadInput

REFERENCE_PX = 240
SIDES_PX = (8, 54)
COLOUR_RATE, DARK_RATE = 1.8e-5, 1.2e-5  # blob centres a pixel of the reference image
BLUR_TAPS, BLUR_SIGMA = 25, 5.0
FLIP_BELOW = 0.025  # grey levels: a mean change smaller than this is inverted, e.g. darkening on black
SEEN = 1.0  # grey levels: what a pixel must change by to belong to the mask; 8-bit images change by whole levels


def confetti(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A copy of uint8 [B,C,H,W] with confetti, and where it differs, bool [B,H,W].

    Raises:
        BadInput: another dtype or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise BadInput(
            "confetti is added to uint8 images [B,C,H,W]",
            seen=(images.dtype, tuple(images.shape)),
            next_step="convert by xadflow.images.to_input",
        )
    noise = blob_noise(images, generator)
    pixels = images.float()
    plus, minus = (pixels + noise).clamp(0, 255), (pixels - noise).clamp(0, 255)
    change, inverse = ((x - pixels).mean(dim=(1, 2, 3)).abs() for x in (plus, minus))
    flip = (change < FLIP_BELOW) & (inverse > change)
    noisy = torch.where(flip[:, None, None, None], minus, plus)
    return noisy.to(torch.uint8), ((noisy - pixels).abs() >= SEEN).any(dim=1)


def blob_noise(images: Tensor, generator: Generator) -> Tensor:
    """Whole grey levels [B,C,H,W] to add: a layer of coloured and a layer of dark squares, blurred."""
    batch, channels, height, width = images.shape
    scale = min(height, width) / REFERENCE_PX
    noise = torch.zeros(batch, channels, height, width, device=images.device)
    low, high = SIDES_PX
    # Blobs of equal side on one image share a colour, as published.
    colours = torch.randint(-256, 0, (batch, high + 1, channels), generator=generator, device=images.device).float()
    for rate, dark in ((COLOUR_RATE, False), (DARK_RATE, True)):
        count = blob_counts(batch, rate, generator)
        most = int(count.max())
        shape = (batch, most)
        present = torch.arange(most, device=images.device)[None, :] < count[:, None]
        side = torch.randint(low, high + 1, shape, generator=generator, device=images.device)
        centre_y, centre_x, turn = (torch.rand(shape, generator=generator, device=images.device) for _ in range(3))
        inside, place = _squares(
            centre_y * height,
            centre_x * width,
            side * scale,
            (turn - 0.5) * math.pi / 2,
            height,
            width,
            reach=high * scale / math.sqrt(2.0),
        )
        value = (
            colours.gather(1, side[..., None].expand(-1, -1, channels))
            if not dark
            else torch.full((*shape, channels), -255.0, device=images.device)
        )
        added = inside * present[..., None] * value.permute(2, 0, 1)[..., None]  # (C, B, K, R * R)
        place = place.flatten(1).expand(channels, -1, -1)  # (C, B, K * R * R)
        noise.view(batch, channels, -1).transpose(0, 1).scatter_add_(2, place, added.flatten(2))
    return _blurred(noise, scale).trunc()


def blob_counts(batch: int, rate: float, generator: Generator) -> Tensor:
    """Blobs an image, [batch], Poisson around `rate` a reference pixel, drawn again until there is one."""
    mean = torch.full((batch,), rate * REFERENCE_PX**2, device=generator.device)
    count = torch.poisson(mean, generator=generator)
    while (empty := count == 0).any():
        count = torch.where(empty, torch.poisson(mean, generator=generator), count)
    return count.long()


def _squares(
    y: Tensor, x: Tensor, side: Tensor, angle: Tensor, height: int, width: int, reach: float
) -> tuple[Tensor, Tensor]:
    """Squares given by centre, side and angle, each [B,K], in windows of R x R pixels that hold any of them.

    Gives 1 where a pixel of the image lies in the square, else 0, and the pixel's number, row by row: both [B,K,R*R].
    `reach` is half of the longest diagonal. A window is a small part of the image, and most of the work is in it.
    """
    offset = torch.arange(2 * math.ceil(reach) + 1, device=y.device) - math.ceil(reach)
    row, column = y.floor()[..., None] + offset, x.floor()[..., None] + offset  # (B, K, R)
    rows, columns = (row - y[..., None])[..., None], (column - x[..., None])[..., None, :]  # (B, K, R, 1), (B, K, 1, R)
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    distance = torch.maximum((rows * cos + columns * sin).abs(), (columns * cos - rows * sin).abs())
    there = ((row >= 0) & (row < height))[..., None] & ((column >= 0) & (column < width))[..., None, :]
    place = row.clamp(0, height - 1).long()[..., None] * width + column.clamp(0, width - 1).long()[..., None, :]
    return ((distance <= side[..., None, None] / 2) & there).float().flatten(2), place.flatten(2)


def _blurred(noise: Tensor, scale: float) -> Tensor:
    """Gaussian blur of 25 taps and sigma 5 px at the reference size, zeros outside."""
    height, width = noise.shape[2:]
    return _band(height, scale, noise.device) @ noise @ _band(width, scale, noise.device)


def _band(size: int, scale: float, device: torch.device) -> Tensor:
    """The blur along one side as a symmetric matrix; a product is ten times faster than a convolution of
    one channel.
    """
    radius = max(1, round(BLUR_TAPS // 2 * scale))
    place = torch.arange(size, device=device, dtype=torch.float32)
    offset = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
    distance = (place[:, None] - place).abs()
    sharpness = -1.0 / (2.0 * (BLUR_SIGMA * scale) ** 2)
    total = (offset.square() * sharpness).exp().sum()
    return torch.where(distance <= radius, (distance.square() * sharpness).exp() / total, 0.0)
