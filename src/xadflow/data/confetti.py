"""Confetti noise, the synthetic anomaly of FCDD: blurred, rotated, coloured squares added to an image.

Liznerski et al., ICLR 2021, appendix; the numbers are those of the published code (fcdd.md, section 5), where an
image is 240 px. Here the expected number of blobs an image is kept at other sizes and the sides scale with the
shorter side, so that a defect covers the same share of the image. All blobs of a batch are drawn at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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
        raise BadInput("confetti is added to uint8 images [B,C,H,W]", seen=(images.dtype, tuple(images.shape)),
                       next_step="convert by xadflow.images.to_input")  # fmt: skip
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
        inside = _inside(centre_y * height, centre_x * width, side * scale, (turn - 0.5) * math.pi / 2, height, width)
        value = colours.gather(1, side[..., None].expand(-1, -1, channels)) if not dark else torch.full(
            (*shape, channels), -255.0, device=images.device)  # fmt: skip
        noise += torch.einsum("bkhw,bkc->bchw", inside * present[..., None, None], value)
    return _blurred(noise, scale).trunc()


def blob_counts(batch: int, rate: float, generator: Generator) -> Tensor:
    """Blobs an image, [batch], Poisson around `rate` a reference pixel, drawn again until there is one."""
    mean = torch.full((batch,), rate * REFERENCE_PX**2, device=generator.device)
    count = torch.poisson(mean, generator=generator)
    while (empty := count == 0).any():
        count = torch.where(empty, torch.poisson(mean, generator=generator), count)
    return count.long()


def _inside(y: Tensor, x: Tensor, side: Tensor, angle: Tensor, height: int, width: int) -> Tensor:
    """Which pixels [B,K,H,W] lie in squares given by centre, side and angle, each [B,K]."""
    rows = torch.arange(height, device=y.device)[:, None] - y[..., None, None]  # (B, K, H, 1)
    columns = torch.arange(width, device=y.device)[None, :] - x[..., None, None]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    reach = torch.maximum((rows * cos + columns * sin).abs(), (columns * cos - rows * sin).abs())
    return (reach <= side[..., None, None] / 2).float()


def _blurred(noise: Tensor, scale: float) -> Tensor:
    """Gaussian blur of 25 taps and sigma 5 px at the reference size, zeros outside."""
    radius = max(1, round(BLUR_TAPS // 2 * scale))
    offset = torch.arange(-radius, radius + 1, device=noise.device, dtype=noise.dtype)
    taps = torch.exp(-offset.square() / (2.0 * (BLUR_SIGMA * scale) ** 2))
    taps = (taps / taps.sum()).view(1, 1, -1, 1)
    flat = noise.flatten(0, 1)[:, None]  # (B*C, 1, H, W)
    down = F.conv2d(flat, taps, padding=(radius, 0))
    return F.conv2d(down, taps.transpose(2, 3), padding=(0, radius)).view_as(noise)
